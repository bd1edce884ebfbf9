// Where a class is seen, over the face; and the described cues that speak for and against it.

import { element } from "./elements.js";
import { doubt } from "./faces.js";

// As in the drawings of `fervor explain`: orange speaks for the class and blue against it, strongest
// at STRONGEST (outputs/explanation_figure.py); colours that any colour vision tells apart.
const FOR = [230, 159, 0], AGAINST = [0, 114, 178], STRONGEST = 0.75;
const LEAST = 0.005;
const UNITS = { occlusion: "fall of log odds", similarity: "difference of cosines" };

// Classes whose probability is not nothing: of the others there is nothing to explain.
export const explainable = row => Object.keys(row.heat).filter(label => row[`p_${label}`] >= LEAST);

// One scale for these classes of a face, so that a class with little to say stays faint.
const scale = row => Math.max(1e-9, ...explainable(row).flatMap(label => row.heat[label].flat().map(Math.abs)));

// A small picture of the grid; places that say nothing are left clear.
function drawn(row, label) {
  const grid = row.heat[label];
  const most = scale(row);
  const canvas = element("canvas", { width: grid[0].length, height: grid.length });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  grid.flat().forEach((value, number) => {
    const share = Math.min(1, Math.abs(value) / most);
    pixels.data.set([...(value > 0 ? FOR : AGAINST), 255 * share], 4 * number);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// A layer over the whole picture: the grid lies where the model's view of the face lay.
export function overlay(row, label, size) {
  const factor = Math.min(1, 1400 / Math.max(size.width, size.height));
  const layer = element("canvas", {
    className: "heat", "aria-hidden": "true", style: { opacity: STRONGEST },
    width: Math.round(size.width * factor), height: Math.round(size.height * factor),
  });
  const [[a, b, c], [d, e, f]] = row.square.map(line => line.map(value => value * factor));
  const context = layer.getContext("2d");
  context.setTransform(a, d, b, e, c, f);
  context.imageSmoothingQuality = "high";
  context.drawImage(drawn(row, label), 0, 0, 1, 1);
  return layer;
}

// The face alone, large and grey, as the model saw it, under the same layer; and what its colours mean.
// `size` is that of the picture in whose pixels the row is; the image may have another one.
export function closeUp(image, row, label, size) {
  const { square } = row;
  const side = 480;
  const canvas = element("canvas", {
    className: "close-up", width: side, height: side, role: "img", "aria-label": `Heat map of ${label} on the face`,
  });
  const context = canvas.getContext("2d");
  const view = new DOMMatrix([square[0][0], square[1][0], square[0][1], square[1][1], square[0][2], square[1][2]]);
  context.setTransform(new DOMMatrix([side, 0, 0, side, 0, 0]).multiply(view.inverse()));
  context.filter = "grayscale(1)"; // no colour of the picture takes part
  context.drawImage(image, 0, 0, size.width, size.height);
  context.filter = "none";
  context.setTransform(side, 0, 0, side, 0, 0);
  context.globalAlpha = STRONGEST;
  context.drawImage(drawn(row, label), 0, 0, 1, 1);
  const key = (colour, text) => element("li", {}, element("i", { mark: `rgb(${colour})` }), text);
  return [canvas, element("ul", { className: "legend" },
    key(FOR, `speaks for ${label}`), key(AGAINST, "speaks against it"),
    element("li", {}, `strongest: ${scale(row).toPrecision(2)} (${UNITS[row.heat_by]})`))];
}

function list(title, found, text) {
  if (!found.length) return null;
  return element("div", {}, element("h3", {}, title),
    element("ul", {}, ...found.slice(0, 4).map(cue => element("li", {}, text(cue)))));
}

export function cues(row) {
  const { cues_for: own, cues_against: others, label } = row;
  const lists = [
    list(`Speaks for ${label}`, own, cue => cue.text),
    list("Speaks against it", others, cue => `${cue.text} (${cue.label})`),
  ].filter(Boolean);
  return element("div", { className: "cues" }, doubt(row), ...lists,
    element("p", { className: "quiet" }, "What the model connects with the picture, not a measurement of muscles."));
}
