// Where a class is seen, over the face; and the described cues that speak for and against it.

import { element } from "./elements.js";

// Viridis, which grows evenly lighter and keeps its order in grey and for any colour vision.
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function colour(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (SCALE.length - 1);
  const low = Math.floor(at);
  return SCALE[low].map((value, channel) => value + (SCALE[low + 1][channel] - value) * (at - low));
}

// A small picture of the grid; places that do not speak for the class are left clear. The scale is
// that of all classes of this face, so that a class with little to say stays faint.
function drawn(heat, label) {
  const grid = heat[label];
  const most = Math.max(1e-9, ...Object.values(heat).flat(2));
  const canvas = element("canvas", { width: grid[0].length, height: grid.length });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  grid.flat().forEach((value, number) => {
    const share = Math.max(0, value / most);
    pixels.data.set([...colour(share), 235 * Math.min(1, 2.2 * share)], 4 * number);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// A layer over the whole picture: the grid lies where the model's view of the face lay.
export function overlay({ heat, square }, label, size) {
  const scale = Math.min(1, 1400 / Math.max(size.width, size.height));
  const layer = element("canvas", {
    className: "heat", "aria-hidden": "true",
    width: Math.round(size.width * scale), height: Math.round(size.height * scale),
  });
  const [[a, b, c], [d, e, f]] = square.map(row => row.map(value => value * scale));
  const context = layer.getContext("2d");
  context.setTransform(a, d, b, e, c, f);
  context.imageSmoothingQuality = "high";
  context.drawImage(drawn(heat, label), 0, 0, 1, 1);
  return layer;
}

// The face alone, large, as the model saw it, under the same layer.
export function closeUp(image, { heat, square }, label) {
  const side = 480;
  const canvas = element("canvas", {
    className: "close-up", width: side, height: side, role: "img", "aria-label": `Heat map of ${label} on the face`,
  });
  const context = canvas.getContext("2d");
  const view = new DOMMatrix([square[0][0], square[1][0], square[0][1], square[1][1], square[0][2], square[1][2]]);
  context.setTransform(new DOMMatrix([side, 0, 0, side, 0, 0]).multiply(view.inverse()));
  context.drawImage(image, 0, 0);
  context.setTransform(side, 0, 0, side, 0, 0);
  context.globalAlpha = 0.6;
  context.drawImage(drawn(heat, label), 0, 0, 1, 1);
  return canvas;
}

function list(title, found, text) {
  if (!found.length) return null;
  return element("div", {}, element("h3", {}, title),
    element("ul", {}, ...found.slice(0, 4).map(cue => element("li", {}, text(cue)))));
}

export function cues({ cues_for: own, cues_against: others, label }) {
  const lists = [
    list(`Speaks for ${label}`, own, cue => cue.text),
    list("Speaks against it", others, cue => `${cue.text} (${cue.label})`),
  ].filter(Boolean);
  return element("div", { className: "cues" }, ...lists,
    element("p", { className: "quiet" }, "What the model connects with the picture, not a measurement of muscles."));
}
