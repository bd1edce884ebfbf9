// Where a class is seen, over the face; and the described cues that speak for and against it.

import { element } from "./elements.js";

// Viridis, which grows evenly lighter and keeps its order in grey and for any colour vision.
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function colour(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (SCALE.length - 1);
  const low = Math.floor(at);
  return SCALE[low].map((value, channel) => value + (SCALE[low + 1][channel] - value) * (at - low));
}

export function overlay(explanation, label, size) {
  const grid = explanation.heat[label];
  const canvas = element("canvas", { className: "heat", width: grid[0].length, height: grid.length, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  grid.flat().forEach((value, number) => pixels.data.set([...colour(value), 255], 4 * number));
  context.putImageData(pixels, 0, 0);
  const { x, y, width, height } = explanation;
  Object.assign(canvas.style, {
    left: `${100 * x / size.width}%`, top: `${100 * y / size.height}%`,
    width: `${100 * width / size.width}%`, height: `${100 * height / size.height}%`,
  });
  return canvas;
}

export function cues() {
  return null;
}
