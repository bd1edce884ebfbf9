// The face of each lane, cut out of the film by the browser; where it cannot play it there is none.

import { element } from "./elements.js";

const SIDE = 96;
const MARGIN = 0.15;
const LARGER = 1.3; // as in fervor's own timelines (outputs/timeline.py)

export class Portraits {
  constructor(address) {
    this.video = element("video", { muted: true, playsInline: true, preload: "auto", src: address });
    this.turn = new Promise((done, fail) => {
      this.video.addEventListener("loadeddata", done, { once: true });
      this.video.addEventListener("error", fail);
    });
    this.turn.catch(() => {}); // no portraits then
    this.widths = new WeakMap();
  }

  // Draw the face of a row, once its turn comes, where it is larger than what the canvas has.
  take(canvas, row) {
    if (row.width < LARGER * (this.widths.get(canvas) ?? 0)) return;
    this.widths.set(canvas, row.width);
    this.turn = this.turn.then(() => this.draw(canvas, row));
    this.turn.catch(() => {});
  }

  async draw(canvas, row) {
    const seen = new Promise(done => this.video.addEventListener("seeked", done, { once: true }));
    this.video.currentTime = row.time_s + 1e-3;
    await seen;
    const side = (1 + 2 * MARGIN) * Math.max(row.width, row.height);
    const [x, y] = [row.x + (row.width - side) / 2, row.y + (row.height - side) / 2];
    Object.assign(canvas, { width: SIDE, height: SIDE, hidden: false });
    canvas.getContext("2d").drawImage(this.video, x, y, side, side, 0, 0, SIDE, SIDE);
  }
}
