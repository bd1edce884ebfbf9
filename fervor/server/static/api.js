// Asks the server; where it wants a token, asks the person, once for this tab.

import { find } from "./elements.js";

const KEY = "fervor-token";
const UNREADABLE = "cannot be read: a folder, or changed since it was chosen; choose it, or the files in it, anew";

export class Refusal extends Error {
  constructor(status, code, message, retry) {
    super(message);
    Object.assign(this, { status, code, retry });
  }
}

// The server, or this address's share of it, is full for a moment.
export const busy = error => error.status === 429 || error.status === 503;

// More than one request may hold, or than came in its time, or one file that cannot be sent: by
// themselves the others may be taken.
export const divisible = error => error.status === 413 || error.status === 408 || error.code === "unreadable";

let asking = null;

const token = () => find("#token").value.trim();

// A header holds no other signs, and a server takes no other token.
function check(event) {
  if (/^[!-~]+$/.test(token())) return;
  event.preventDefault();
  find("#ask-wrong").hidden = false;
  find("#token").value = "";
  find("#token").focus();
}

function askForToken(wrong) {
  asking ??= new Promise(resolve => {
    const dialog = find("#ask");
    find("#ask-wrong").hidden = !wrong;
    find("#token").value = "";
    find("#ask form").addEventListener("submit", check);
    dialog.addEventListener("close", () => {
      asking = null;
      sessionStorage.setItem(KEY, token());
      resolve();
    }, { once: true });
    dialog.addEventListener("cancel", event => event.preventDefault());
    dialog.showModal();
  });
  return asking;
}

// A request with a file that cannot be read fails as one without a server does; null where all can.
async function unreadable(body) {
  for (const file of body?.getAll("file") ?? []) {
    try {
      await file.slice(0, 1).arrayBuffer();
    } catch {
      return new Refusal(0, "unreadable", `${file.name}: ${UNREADABLE}`);
    }
  }
  return null;
}

async function answered(path, options) {
  for (;;) {
    const stored = sessionStorage.getItem(KEY);
    const headers = stored ? { Authorization: `Bearer ${stored}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw await unreadable(options?.body) ?? new Refusal(0, "unreachable", "The server does not answer. Is fervor serve still running?");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await askForToken(Boolean(stored));
      continue;
    }
    const said = await response.json().catch(() => ({}));
    const message = said.message ?? `The server answered with status ${response.status}.`;
    throw new Refusal(response.status, said.error, message, Number(response.headers.get("retry-after")));
  }
}

let prior = "";

// Where the model answers from now on: natural or balanced, one of model.priors.
export function weigh(named) {
  prior = `&prior=${named}`;
}

function form(files) {
  const data = new FormData();
  for (const file of files) data.append("file", file, file.name || "picture");
  return data;
}

const LOST = "the answer ended before its last row. Is fervor serve still running?";
const CUT = "The server's answer is cut off or not its own. Try again; where a proxy lies between, look at its log.";

// Of an answer in JSON a field, or without a name all.
async function json(path, options, name) {
  return field(await answered(path, options), name);
}

async function field(response, name) {
  let value;
  try {
    value = await response.json();
    if (name) value = value[name];
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (value === null || typeof value !== "object" || (name && !Array.isArray(value))) throw new Refusal(0, "cut", CUT);
  return value;
}

export function model() {
  return json("/v1/model");
}

// The rows of each picture, and the size in whose pixels their boxes are.
export async function predict(files, signal) {
  const response = await answered(`/v1/predict?covered=true${prior}`, { method: "POST", body: form(files), signal });
  const results = await field(response, "results");
  if (results.length !== files.length) throw new Refusal(0, "cut", CUT);
  const sizes = (response.headers.get("fervor-sizes") ?? "").split(", ").map(text => text.split("x").map(Number));
  return results.map((rows, number) => {
    const [width, height] = sizes[number] ?? [];
    return { rows, size: height ? { width, height } : null };
  });
}

export function explain(file, face, signal) {
  return json(`/v1/explain?face=${face}${prior}`, { method: "POST", body: form([file]), signal }, "faces");
}

export async function* video(file, every, signal) {
  const path = `/v1/video?every=${every}&covered=true${prior}`;
  const response = await answered(path, { method: "POST", body: form([file]), signal });
  let text = "";
  for await (const piece of pieces(response)) {
    const lines = (text + piece).split("\n");
    text = lines.pop();
    for (const line of lines) yield parsed(line);
  }
  if (text.trim()) yield parsed(text);
}

async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(error => {
      throw error.name === "AbortError" ? error : new Refusal(0, "lost", LOST);
    });
    if (done) return;
    yield value;
  }
}

function parsed(line) {
  try {
    const row = JSON.parse(line);
    if (row?.status) return row;
  } catch { /* half a line */ }
  throw new Refusal(0, "lost", LOST);
}
