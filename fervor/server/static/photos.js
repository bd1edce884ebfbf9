// Pictures: dropped, chosen or pasted; answered together, shown one by one.

import * as api from "./api.js";
import { complain, complainToo, element, find, holdFocus, megabytes, say, unanswered } from "./elements.js";
import { answer, bars, boxes, chips, shown, spoken } from "./faces.js";
import { closeUp, cues, explainable, overlay } from "./heat.js";
import { downloads } from "./rows.js";
import { cover } from "./tags.js";

const state = { model: null, items: [], current: 0, face: 0, heat: null, round: 0 };
const item = () => state.items[state.current];
const row = () => shown(item().rows).find(one => one.face === state.face);
const reason = () => item().explained?.[state.face]; // of the chosen face, once it was asked for

export function start(model) {
  state.model = model;
  const { limits } = model;
  find("#photo-limits").textContent =
    `JPEG, PNG, WebP, BMP, TIFF or HEIC; up to ${megabytes(limits.file_bytes)} and ${Number((limits.pixels / 1e6).toPrecision(3))} million pixels each`;
  find("#files").addEventListener("change", event => {
    take([...event.target.files]);
    event.target.value = "";
  });
}

// Requests as large as the server takes them; what is too large for any is said at once.
async function requests(items) {
  const { limits } = state.model;
  const groups = [];
  let size = Infinity, area = 0;
  for (const one of items) {
    one.pixels ??= await pixels(one.address);
    const full = size + one.file.size > limits.request_bytes || area + one.pixels > limits.request_pixels;
    if (full || groups.at(-1).length === limits.files) {
      groups.push([]);
      size = area = 0;
    }
    groups.at(-1).push(one);
    size += one.file.size;
    area += one.pixels;
  }
  return groups;
}

// By the picture's header; 0 where this browser cannot read it.
function pixels(address) {
  const image = element("img");
  return new Promise(done => {
    image.addEventListener("load", () => done(image.naturalWidth * image.naturalHeight));
    image.addEventListener("error", () => done(0));
    image.src = address;
  });
}

export async function take(files) {
  const { limits } = state.model;
  const large = files.filter(file => file.size > limits.file_bytes);
  complain(large.length ? `${large.map(file => file.name).join(", ")}: larger than ${megabytes(limits.file_bytes)}` : "");
  const fine = files.filter(file => file.size <= limits.file_bytes);
  if (!fine.length) return;
  const first = state.items.length;
  const items = fine.map(file => ({ file, address: URL.createObjectURL(file), rows: null, error: "" }));
  state.items.push(...items);
  choose(first);
  say(fine.length === 1 ? `Looking for faces in ${fine[0].name}` : `Looking for faces in ${fine.length} pictures`);
  await askAll(items);
}

async function askAll(items) {
  const { round } = state;
  for (const group of await requests(items)) {
    if (round === state.round) await ask(group);
  }
}

async function ask(items) {
  const { round } = state;
  try {
    const results = await patiently(() => api.predict(items.map(one => one.file)));
    if (round !== state.round) return;
    items.forEach((one, number) => Object.assign(one, results[number]));
    say(items.map(one => spoken(one.rows)).join(" "));
  } catch (error) {
    if (!(error instanceof api.Refusal)) throw error;
    if (round !== state.round) return;
    if (items.length > 1 && api.divisible(error)) {
      for (const one of items) if (round === state.round) await ask([one]); // which of them it is
      return;
    }
    items.forEach(one => { one.error = error.message; });
    complainToo(error.message);
  }
  draw();
}

// At another operating point: all pictures are asked about anew, and what was said before is dropped.
export async function again() {
  if (!state.items.length) return;
  state.round += 1;
  for (const one of state.items) Object.assign(one, { rows: null, error: "", explained: null, explaining: false });
  complain("");
  state.heat = null;
  draw();
  await askAll([...state.items]);
}

// A busy server says when it may be asked again.
async function patiently(asked) {
  for (let tries = 4; ; tries -= 1) {
    try {
      return await asked();
    } catch (error) {
      if (!api.busy(error) || tries === 0) throw error;
      await new Promise(done => setTimeout(done, 1000 * (error.retry || 1)));
    }
  }
}

function choose(number) {
  Object.assign(state, { current: number, face: 0, heat: null });
  draw();
}

function draw() {
  find("#drop").classList.add("small");
  find("#photos .work").hidden = false;
  drawStage();
  drawStrip();
  drawPanel();
  drawReasons();
}

function drawReasons() {
  const reasons = find("#reasons");
  const explained = reason();
  reasons.hidden = !explained;
  if (explained) reasons.replaceChildren(element("div", { id: "close-up" }), cues(explained));
}

// Whether the browser shows a picture on another side than the server saw it, as Chromium does WebP
// with an orientation. Of another scale it may be.
const turned = (image, size) =>
  (image.naturalWidth - image.naturalHeight) * (size.width - size.height) < 0;

function drawStage() {
  const { address, file, rows, size: answered } = item();
  const explained = reason();
  const stage = find("#photos .stage");
  const picture = element("div", { className: "picture" });
  const image = element("img", { src: address, alt: `${file.name}${rows ? `: ${spoken(rows)}` : ""}` });
  const draw = () => {
    if (!rows || !image.naturalWidth || !picture.isConnected) return;
    const size = answered ?? { width: image.naturalWidth, height: image.naturalHeight };
    if (turned(image, size)) {
      stage.append(element("p", { className: "notice" },
        `This browser shows ${file.name} turned otherwise than it was read: boxes and heat maps would lie beside the faces.`));
      return;
    }
    if (state.heat && explained) {
      picture.append(overlay(explained, state.heat, size));
      find("#close-up")?.replaceChildren(...closeUp(image, explained, state.heat, size));
    }
    cover(picture, boxes(rows, size, state.model.colours, state.face, chooseFace));
  };
  image.addEventListener("load", draw);
  image.addEventListener("error", () => {
    picture.replaceChildren(element("p", { className: "empty" },
      `This browser cannot show ${file.name}.`));
  });
  picture.append(image);
  const refocus = holdFocus(stage);
  stage.replaceChildren(picture);
  image.addEventListener("load", () => refocus('.box[aria-pressed="true"]'));
}

function drawStrip() {
  const strip = find("#photos .strip");
  strip.hidden = state.items.length < 2;
  const refocus = holdFocus(strip);
  strip.replaceChildren(...state.items.map((one, number) => element("li", {},
    element("button", {
      type: "button", "data-key": number, "aria-current": String(number === state.current), onclick: () => choose(number),
      "aria-label": `Picture ${number + 1}: ${one.rows ? spoken(one.rows) : one.file.name}`,
    }, element("img", { src: one.address, alt: "" })))));
  refocus();
}

function chooseFace(face) {
  Object.assign(state, { face, heat: null });
  draw();
}

function drawPanel() {
  const panel = find("#photos .panel");
  const { rows, error, file } = item();
  const parts = [];
  if (error) parts.push(...unanswered(file, error));
  else if (!rows) parts.push(element("p", { className: "busy" }, "Looking for faces"));
  else if (rows[0].status === "error") {
    parts.push(...unanswered(file, rows[0].error, "Not readable"));
  } else if (rows[0].status === "no_face") {
    parts.push(element("h2", {}, "No face found"), element("p", { className: "empty" },
      `In ${file.name} no face was large and clear enough. A closer, brighter picture from the front helps.`));
  } else parts.push(...faceParts());
  const all = () => state.items.flatMap(one => one.rows ?? []);
  if (all().length) parts.push(downloads(all, "fervor"));
  const refocus = holdFocus(panel);
  panel.replaceChildren(...parts);
  reveal(panel.querySelector(".faces"));
  refocus('.bars button[aria-pressed="true"]', ".bars button", "button");
}

// The chosen of many faces, by scrolling their list alone and not the page.
function reveal(list) {
  const chosen = list?.querySelector('[aria-pressed="true"]');
  if (!chosen) return;
  const [whole, own] = [list, chosen].map(one => one.getBoundingClientRect());
  list.scrollTop += own.top - whole.top - (whole.height - own.height) / 2;
}

function faceParts() {
  const { rows, explaining } = item();
  const face = row(), explained = reason();
  const chooseHeat = explained && (label => { state.heat = label; draw(); });
  const count = shown(rows).length;
  return [
    answer(face, count > 1 ? `Face ${face.face + 1} of ${count} in ${face.source}` : face.source, { doubtful: !explained }),
    chips(rows, state.face, chooseFace),
    bars(face, state.model, {
      heat: state.heat, choose: chooseHeat, choices: explained && explainable(explained),
      caption: explained ? "How likely each expression is; press a name to see its heat map" : undefined,
    }),
    // Not `disabled` meanwhile: that would take the focus away.
    !explained && state.model.explains && element("button", {
      type: "button", "data-key": "explain", "aria-disabled": explaining && "true", onclick: explain, className: explaining ? "busy" : "",
    }, explaining ? "Explaining" : "Explain this answer"),
  ].filter(Boolean);
}

async function explain() {
  const one = item(), { face, round } = state;
  if (one.explaining) return;
  one.explaining = true;
  draw();
  say("Explaining");
  try {
    const faces = await patiently(() => api.explain(one.file, face));
    if (round !== state.round) return;
    if (faces[0].status === "error") complain(faces[0].error);
    else one.explained = { ...one.explained, [face]: faces[face] };
    if (reason() && one === item() && face === state.face) {
      state.heat = row().label;
      say(`Explained. The heat map shows where ${row().label} is seen.`);
    }
  } catch (error) {
    if (!(error instanceof api.Refusal)) throw error;
    if (round !== state.round) return;
    complain(error.message);
  }
  one.explaining = false;
  draw();
}
