// The webcam: frames go to the server one after the other, never more than RATE a second.

import * as api from "./api.js";
import { complain, element, find, percent, say } from "./elements.js";
import { answer, bars, boxes, shown } from "./faces.js";
import { draw, legend } from "./lanes.js";
import { downloads } from "./rows.js";
import { cover } from "./tags.js";

const RATE = 5;
const SIDE = 640;
const WINDOW = 60;
const KEPT = 20_000;
const SPOKEN = 4000;
const LATE = 4000; // milliseconds without an answer after which it is told

const view = () => find("#camera-view");
let model = null;
let run = null; // the one under way, from the question for the webcam on
let recorded = []; // rows of the run that the panel shows

export function start(described) {
  model = described;
  find("#camera-start").addEventListener("click", begin);
  find("#camera-stop").addEventListener("click", stop);
}

async function begin() {
  complain("");
  if (!navigator.mediaDevices?.getUserMedia) {
    complain("Browsers give a webcam to pages on this computer and to pages over HTTPS only. Open the page as http://localhost, or put the server behind HTTPS.");
    return;
  }
  const mine = { stopped: false, rows: [], frame: 0, spoken: "", spokenAt: 0, abort: new AbortController() };
  run = mine;
  find("#camera-start").disabled = true;
  try {
    mine.stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: SIDE }, facingMode: "user" }, audio: false });
    if (mine.stopped) return release(mine); // the tab was left before the person said yes
    mine.stream.getVideoTracks()[0].addEventListener("ended", () => {
      if (mine.stopped) return;
      complain("The webcam was unplugged or taken away; start it anew.");
      stop();
    });
    view().srcObject = mine.stream;
    await view().play();
  } catch (error) {
    if (mine.stopped) return;
    complain(error.name === "NotAllowedError" ? "The browser was told not to give this page the webcam." : `The webcam cannot be used: ${error.message}`);
    stop();
    return;
  }
  if (mine.stopped) return;
  find("#camera-start").disabled = false;
  find("#camera .work").hidden = false;
  find("#camera-start").hidden = true;
  find("#camera-stop").hidden = false;
  find("#camera-stop").focus();
  say("The webcam runs");
  mine.began = mine.answered = performance.now();
  while (!mine.stopped) {
    const until = performance.now() + 1000 / RATE;
    await look(mine);
    await new Promise(done => setTimeout(done, Math.max(0, until - performance.now())));
  }
}

const release = ({ stream }) => stream?.getTracks().forEach(track => track.stop());

export function stop() {
  if (!run) return;
  run.stopped = true;
  run.abort.abort();
  release(run);
  view().srcObject = null;
  const restart = find("#camera-start");
  restart.disabled = false;
  restart.hidden = false;
  find("#camera-stop").hidden = true;
  if (!find("#camera").hidden) restart.focus();
  find("#camera .stage").querySelectorAll(".box").forEach(box => box.remove());
  if (run.stream) say("The webcam is off");
  run = null;
}

async function look(mine) {
  const scale = Math.min(1, SIDE / view().videoWidth);
  const size = { width: Math.round(view().videoWidth * scale), height: Math.round(view().videoHeight * scale) };
  const canvas = element("canvas", size);
  canvas.getContext("2d").drawImage(view(), 0, 0, size.width, size.height);
  const time = (performance.now() - mine.began) / 1000;
  const blob = await new Promise(done => canvas.toBlob(done, "image/jpeg", 0.92));
  const late = setTimeout(() => {
    if (!mine.stopped) complain("The server has not answered yet: what is shown is of an earlier moment.");
  }, LATE);
  try {
    const [{ rows }] = await api.predict([new File([blob], "webcam.jpg")], mine.abort.signal);
    if (mine.stopped) return;
    mine.answered = performance.now();
    const timed = rows.map(row => ({ ...row, source: "webcam", frame: mine.frame, time_s: Number(time.toFixed(3)) }));
    mine.frame += 1;
    mine.rows.push(...timed);
    mine.rows.splice(0, Math.max(0, mine.rows.length - KEPT));
    show(mine, timed, size);
  } catch (error) {
    if (mine.stopped) return;
    if (api.busy(error)) { // it gets fewer frames
      if (performance.now() - mine.answered > LATE) complain("The server is busy: what is shown is of an earlier moment.");
      return;
    }
    complain(error.message);
    stop();
  } finally {
    clearTimeout(late);
  }
}

function show(mine, rows, size) {
  recorded = mine.rows;
  const stage = find("#camera .stage");
  let picture = stage.querySelector(".picture");
  if (!picture) {
    picture = element("div", { className: "picture" }, view());
    stage.replaceChildren(picture);
  }
  const seen = boxes(rows, size, model.colours, 0, null);
  seen.forEach(box => { box.tabIndex = -1; });
  cover(picture, seen);
  const first = shown(rows)[0];
  const error = first ? "" : rows[0].error ?? "";
  complain(error);
  const now = rows[0].time_s;
  const panel = find("#camera .panel");
  panel.querySelector(".now")?.remove();
  panel.prepend(element("div", { className: "now", style: { display: "grid", gap: "1rem" } },
    ...(first ? [answer(first, "Largest face"), bars(first, model)]
      : [element("p", { className: "empty" }, error ? "No answer to this frame." : "No face in view.")])));
  if (!panel.querySelector(".downloads")) panel.append(legend(model), downloads(() => recorded, "fervor-webcam"));
  const recent = mine.rows.filter(row => row.face === 0 && row.time_s > now - WINDOW);
  const line = find("#camera-line");
  draw(line, recent, model, { from: Math.max(0, now - WINDOW), to: Math.max(now, WINDOW), gap: 1 / RATE });
  if (!error) announce(mine, first, line); // which the alert reads aloud
}

// A live region that is not talkative: a change, and at most one each few seconds.
function announce(mine, row, line) {
  const label = row ? row.label : "no face";
  if (label === mine.spoken || performance.now() - mine.spokenAt < SPOKEN) return;
  Object.assign(mine, { spoken: label, spokenAt: performance.now() });
  say(row ? `${row.label}, ${percent(row.prob)}` : "No face in view");
  line.setAttribute("aria-label", `Now ${label}; the table beside holds the numbers`);
}
