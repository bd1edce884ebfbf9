// A video: its rows come while it is read; lanes show each face over time.

import * as api from "./api.js";
import { complain, element, find, megabytes, named, percent, say, unanswered } from "./elements.js";
import { boxes, bars, answer, shown } from "./faces.js";
import { clock, draw, legend, means } from "./lanes.js";
import { Portraits } from "./portraits.js";
import { downloads } from "./rows.js";
import { cover } from "./tags.js";

const LANES = 8;
const REDRAW = 400;
const FAST = 60; // frames a second that phones film at

const lasting = seconds => {
  if (seconds >= 120) return `${Math.floor(seconds / 60)} minutes`;
  const count = seconds < 10 ? Number(seconds.toFixed(1)) : Math.floor(seconds);
  return count === 1 ? "1 second" : `${count} seconds`;
};
const view = () => find("#video-view");
// What a browser cannot play is an error, or has sound alone.
const playable = () => !view().error && !(view().readyState && !view().videoWidth);
let model = null;
let run = null;

export function start(described) {
  model = described;
  const { limits } = model;
  find("#video-limits").textContent =
    `Up to ${megabytes(limits.video_bytes)}, ${lasting(limits.video_seconds)} and ${limits.video_frames.toLocaleString("en")} frames, `
    + `looked at or not (${lasting(limits.video_frames / FAST)} at ${FAST} a second). `
    + "It is held in memory while it is read, and then forgotten.";
  find("#video-file").addEventListener("change", event => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) read(file);
  });
  find("#video-stop").addEventListener("click", () => run?.abort.abort());
  for (const name of ["timeupdate", "seeked", "play", "loadedmetadata", "loadeddata", "error"]) view().addEventListener(name, follow);
  find("#lanes-note").textContent = `The ${LANES} faces that are seen longest; the rows hold all.`;
  window.addEventListener("resize", () => run && drawLanes());
}

export function stop() {
  run?.abort.abort();
  view().pause();
}

// At another operating point: read anew where it is seen, else forgotten.
export function again() {
  if (!run) return;
  const { file } = run;
  stop();
  run = null;
  find("#video .work").hidden = true;
  if (!find("#video").hidden) read(file);
}

export async function read(file) {
  run?.abort.abort();
  complain("");
  if (file.size > model.limits.video_bytes) {
    complain(`${file.name}: larger than ${megabytes(model.limits.video_bytes)}`);
    return;
  }
  const every = Number(find("#video-every").value);
  const mine = { rows: [], tracks: new Map(), largest: new Map(), end: 0, gap: every / 25, abort: new AbortController(), drawn: 0, file, ended: null, whole: false };
  run = mine;
  prepare(file);
  mine.portraits = new Portraits(view().src);
  say(`Reading ${file.name}`);
  try {
    for await (const row of api.video(file, every, mine.abort.signal)) {
      if (run !== mine) return;
      add(mine, row);
    }
    if (run !== mine) return;
    mine.ended = unanswered(file, "no frame can be read", "Not readable");
    mine.whole = mine.rows.at(-1)?.status !== "error"; // as of one longer than may be read
    say(summary(mine));
  } catch (error) {
    if (run !== mine) return;
    const stopped = error.name === "AbortError";
    mine.ended = stopped ? unanswered(file, "stopped before its first frame", "Stopped") : unanswered(file, error.message);
    if (stopped) say("Stopped");
    else complain(named(file, error.message));
  }
  find("#video-part").textContent = `${mine.abort.signal.aborted ? "Stopped" : "Ended early"}; read to ${clock(mine.end)}.`;
  find("#video-part").hidden = mine.whole || !mine.rows.length;
  const button = find("#video-stop");
  if (button === document.activeElement) find("#video-file").focus();
  button.hidden = true;
  find("#video-progress").hidden = true;
  drawLanes();
  follow();
}

function prepare(file) {
  if (view().src) URL.revokeObjectURL(view().src);
  view().src = URL.createObjectURL(file);
  find("#video .work").hidden = false;
  find("#video-stop").hidden = false;
  const progress = find("#video-progress");
  progress.hidden = false;
  progress.removeAttribute("value");
  find("#lanes").replaceChildren();
  find("#lanes-note").hidden = true;
  find("#video-part").hidden = true;
  find("#video .panel").replaceChildren(element("p", { className: "busy" }, `Reading ${file.name}`));
}

function add(mine, row) {
  mine.rows.push(row);
  if (row.status === "error") complain(`${mine.file.name}: ${row.error}`);
  if (row.time_s !== null) {
    if (row.time_s > mine.end && mine.end) mine.gap = Math.max(1e-3, Math.min(mine.gap * 4, row.time_s - mine.end));
    mine.end = Math.max(mine.end, row.time_s);
  }
  if (row.status === "ok") {
    if (!mine.tracks.has(row.track)) mine.tracks.set(row.track, []);
    mine.tracks.get(row.track).push(row);
    if (!(row.width <= mine.largest.get(row.track)?.width)) mine.largest.set(row.track, row);
  }
  if (performance.now() - mine.drawn < REDRAW) return;
  mine.drawn = performance.now();
  if (view().duration) find("#video-progress").value = Math.min(1, mine.end / view().duration);
  drawLanes();
  follow();
}

function summary(mine) {
  const faces = mine.tracks.size === 1 ? "one face" : `${mine.tracks.size} faces`;
  return `${mine.file.name}: ${clock(mine.end)}, ${mine.tracks.size ? faces : "no face"}`;
}

const longest = () => [...run.tracks].sort((a, b) => b[1].length - a[1].length).slice(0, LANES);

function lane(track) {
  const canvas = element("canvas", { className: "seekable", role: "img", onclick: seek });
  const portrait = element("canvas", { className: "portrait", role: "img", "aria-label": `The face ${track + 1}`, hidden: true });
  return element("figure", { className: "timeline", "data-track": track },
    element("figcaption", {}, portrait, element("span")), canvas);
}

// One lane for each of the longest tracks, longest first; those that were overtaken go.
function arrangeLanes(tracks) {
  const place = find("#lanes");
  const lanes = tracks.map(([track]) => place.querySelector(`[data-track="${track}"]`) ?? lane(track));
  if (lanes.length !== place.children.length || lanes.some((one, number) => one !== place.children[number])) {
    place.replaceChildren(...lanes);
  }
  return lanes;
}

function drawLanes() {
  const to = Number.isFinite(view().duration) ? view().duration : Math.max(run.end, 0.1);
  const tracks = longest();
  const lanes = arrangeLanes(tracks);
  find("#lanes-note").hidden = run.tracks.size <= LANES;
  tracks.forEach(([track, samples], number) => {
    const figure = lanes[number];
    const [first, last] = [samples[0].time_s, samples.at(-1).time_s];
    const share = means(samples, model);
    const words = Object.entries(share).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([label, mean]) => `${label} ${percent(mean)}`);
    run.portraits.take(figure.querySelector(".portrait"), run.largest.get(track));
    figure.querySelector("span").textContent = `Face ${track + 1}, ${clock(first)} to ${clock(last)}: mostly ${words[0]}`;
    figure.lastChild.setAttribute("aria-label", `Face ${track + 1} over time: on average ${words.join(", ")}`);
    draw(figure.lastChild, samples, model, { to, gap: run.gap, now: playable() ? view().currentTime : null });
  });
}

function seek(event) {
  const box = event.currentTarget.getBoundingClientRect();
  if (Number.isFinite(view().duration)) view().currentTime = (event.clientX - box.left) / box.width * view().duration;
}

// Boxes and shares of the frame that is seen now.
function follow() {
  if (!run) return;
  const stage = find("#video .stage");
  let picture = stage.querySelector(".picture");
  if (!picture) {
    picture = element("div", { className: "picture" }, view());
    stage.prepend(picture);
  }
  picture.hidden = !playable();
  find("#unplayable").hidden = playable();
  find("#unplayable").textContent = `This browser cannot play ${run.file.name}.${run.rows.length ? " The lanes and the rows hold what was read." : ""}`;
  const now = view().currentTime;
  const near = [...run.tracks.values()]
    .map(samples => samples.findLast(row => row.time_s <= now + 1e-3))
    .filter(row => row && now - row.time_s <= 3 * run.gap);
  picture.querySelectorAll(".box").forEach(box => box.remove());
  const size = { width: view().videoWidth, height: view().videoHeight };
  if (size.width) {
    const seen = boxes(near, size, model.colours, 0, null);
    seen.forEach(box => { box.tabIndex = -1; });
    cover(picture, seen);
  }
  drawPanel(shown(near).sort((a, b) => a.face - b.face), now);
  if (run.tracks.size) drawLanes();
}

function drawPanel(rows, now) {
  const panel = find("#video .panel");
  const parts = [];
  if (!run.rows.length) parts.push(...run.ended ?? [element("p", { className: "busy" }, `Reading ${run.file.name}`)]);
  else if (rows.length && playable()) parts.push(answer(rows[0], `Face ${rows[0].track + 1} at ${clock(now)}`), bars(rows[0], model));
  else if (playable()) parts.push(element("p", { className: "empty" }, `No face at ${clock(now)}.`));
  if (run.tracks.size) parts.push(averages());
  if (run.rows.length) parts.push(legend(model));
  panel.querySelectorAll(":scope > :not(.downloads)").forEach(part => part.remove());
  panel.prepend(...parts);
  if (run.rows.length && !panel.querySelector(".downloads")) panel.append(downloads(() => run.rows, "fervor-video"));
}

function averages() {
  const line = ([track, samples]) => {
    const [label, share] = Object.entries(means(samples, model)).sort((a, b) => b[1] - a[1])[0];
    return element("tr", {}, element("th", { scope: "row" }, `Face ${track + 1}`),
      element("td", {}, label), element("td", {}, percent(share)));
  };
  return element("table", { className: "bars averages" },
    element("caption", {}, `Over the ${run.whole ? "whole video" : `part that was read (to ${clock(run.end)})`}, on average`), element("tbody", {}, ...longest().map(line)));
}
