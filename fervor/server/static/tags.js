// The words beside the faces, and never over one: where they find no room they are shortened, then
// left out. The same rules as those of fervor's drawings (layout.py).

const GAP = 3;
const SMALL = 60; // a face of less has a thin box

// Places of a tag of this size around a box: above, below, at its sides; moved into the stage for as
// long as it touches the box.
function* around(box, width, height, stage) {
  const inside = (value, length, low, high) => Math.max(low, Math.min(value, high - length));
  for (const top of [box.top - GAP - height, box.bottom + GAP]) {
    for (const left of [box.left, box.right - width, (box.left + box.right - width) / 2]) {
      yield { left: inside(left, width, stage.left, stage.right), top };
    }
  }
  for (const left of [box.right + GAP, box.left - GAP - width]) {
    for (const top of [box.top, box.bottom - height, (box.top + box.bottom - height) / 2]) {
      yield { left, top: inside(top, height, stage.top, stage.bottom) };
    }
  }
}

const apart = (a, b) => a.right < b.left || a.left > b.right || a.bottom < b.top || a.top > b.bottom;
const within = (a, b) => a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom;

function place(box, tag, stage, taken) {
  for (const { left, top } of around(box, tag.width, tag.height, stage)) {
    const rectangle = { left, top, right: left + tag.width, bottom: top + tag.height };
    if (within(rectangle, stage) && taken.every(other => apart(rectangle, other))) return rectangle;
  }
  return null;
}

function arrange(picture) {
  const stage = (picture.closest(".stage") ?? picture).getBoundingClientRect();
  const buttons = [...picture.querySelectorAll(".box")];
  buttons.forEach(button => button.classList.toggle("small", button.offsetWidth < SMALL));
  const rectangles = buttons.map(button => button.getBoundingClientRect());
  const taken = [...rectangles];
  buttons.forEach((button, number) => {
    const tag = button.firstElementChild;
    tag.hidden = false;
    for (const text of button.texts) {
      for (const small of [false, true]) {
        tag.textContent = text;
        tag.classList.toggle("small", small);
        const found = place(rectangles[number], tag.getBoundingClientRect(), stage, taken);
        if (!found) continue;
        taken.push(found);
        tag.style.left = `${found.left - rectangles[number].left - button.clientLeft}px`;
        tag.style.top = `${found.top - rectangles[number].top - button.clientTop}px`;
        return;
      }
    }
    tag.hidden = true;
  });
}

const watched = new WeakSet();

// Put these boxes over a picture in place of the ones that were there.
export function cover(picture, boxes) {
  picture.querySelectorAll(".box").forEach(box => box.remove());
  picture.append(...boxes);
  arrange(picture);
  if (watched.has(picture)) return;
  watched.add(picture);
  new ResizeObserver(() => arrange(picture)).observe(picture);
}
