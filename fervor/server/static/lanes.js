// Shares over time, stacked, one canvas for each track.

import { element } from "./elements.js";

export const legend = model => element("ul", { className: "legend" },
  ...model.labels.map(label => element("li", {}, element("i", { mark: model.colours[label] }), label)));

// `samples` are rows with time_s in order; each is drawn from its time to the next one's.
export function draw(canvas, samples, model, { from = 0, to, gap, now = null }) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  const context = canvas.getContext("2d");
  const x = time => (time - from) / Math.max(to - from, 1e-6) * canvas.width;
  samples.forEach((row, number) => {
    const next = samples[number + 1]?.time_s ?? row.time_s + gap;
    const left = Math.floor(x(row.time_s));
    const right = Math.ceil(x(Math.min(next, row.time_s + 3 * gap)));
    let base = canvas.height;
    for (const label of model.labels) {
      const height = row[`p_${label}`] * canvas.height;
      context.fillStyle = model.colours[label];
      context.fillRect(left, base - height, Math.max(1, right - left), height + 0.5);
      base -= height;
    }
  });
  if (now !== null) {
    context.fillStyle = "#000";
    context.fillRect(x(now) - 2 * ratio, 0, 4 * ratio, canvas.height);
    context.fillStyle = "#fff";
    context.fillRect(x(now) - ratio, 0, 2 * ratio, canvas.height);
  }
}

export function means(samples, model) {
  const mean = label => samples.reduce((sum, row) => sum + row[`p_${label}`], 0) / samples.length;
  return Object.fromEntries(model.labels.map(label => [label, mean(label)]));
}

export const clock = seconds => {
  const whole = Math.floor(seconds);
  return whole < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};
