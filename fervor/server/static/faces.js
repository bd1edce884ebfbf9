// One picture's faces: boxes over it, and the chosen face's shares, heat and cues beside it.

import { element, percent } from "./elements.js";

const place = (value, whole) => `${(100 * value / whole).toFixed(3)}%`;

const noted = ({ covered }) => covered?.length ? `, ${covered.join(" and ")} covered?` : "";

export const shown = rows => rows.filter(row => row.status === "ok");

export function boxes(rows, size, colours, chosen, choose) {
  return shown(rows).map(row => {
    const button = element("button", {
      type: "button",
      className: "box",
      "data-key": `face-${row.face}`,
      mark: colours[row.label] ?? "#fff",
      "aria-pressed": String(row.face === chosen),
      "aria-label": `Face ${row.face + 1}: ${row.label}, ${percent(row.prob)}${noted(row)}`,
      style: {
        left: place(row.x, size.width), top: place(row.y, size.height),
        width: place(row.width, size.width), height: place(row.height, size.height),
      },
      onclick: choose && (() => choose(row.face)),
    }, element("span", { "aria-hidden": "true" }));
    // From all that a tag may say to the least (tags.js).
    const full = `${row.label} ${Math.round(100 * row.prob)} %`;
    const notes = row.covered?.length ? [`${full}${noted(row)}`, `${full} ?`] : [];
    button.texts = [...notes, full, row.label, `${row.label.slice(0, 3)}.`];
    return button;
  });
}

// A table of the shares, each with its bar; names of `choices` choose the class whose heat is seen.
export function bars(row, model, { heat = null, choose = null, choices = null, caption } = {}) {
  const line = label => {
    const share = row[`p_${label}`] ?? 0;
    const name = choose && (choices ?? [label]).includes(label)
      ? element("button", {
        type: "button", "data-key": `heat-${label}`, "aria-pressed": String(heat === label), onclick: () => choose(heat === label ? null : label),
        "aria-label": `Heat map of ${label}`,
      }, label)
      : label;
    return element("tr", { className: label === row.label ? "best" : "" },
      element("th", { scope: "row" }, name),
      element("td", { "aria-hidden": "true" },
        element("div", { className: "bar" },
          element("i", { mark: model.colours[label], style: { width: `${100 * share}%` } }))),
      element("td", {}, percent(share)));
  };
  return element("table", { className: "bars" },
    element("caption", {}, caption ?? "How likely each expression is"),
    element("tbody", {}, ...model.labels.map(line)));
}

export function answer(row, eyebrow, { doubtful = true } = {}) {
  return element("div", { className: "answer" },
    element("p", { className: "eyebrow" }, eyebrow),
    element("h2", {}, row.label),
    element("p", { className: "share" }, percent(row.prob)),
    doubtful && doubt(row));
}

// Parts of a face that seem covered; nothing where none does.
export function doubt({ covered }) {
  if (!covered?.length) return null;
  const seem = covered.join() === "mouth" ? "seems" : "seem";
  return element("p", { className: "notice" }, `The ${covered.join(" and the ")} ${seem} covered: the answer is in doubt.`);
}

export function chips(rows, chosen, choose) {
  const faces = shown(rows);
  if (faces.length < 2) return null;
  return element("div", { className: "faces", role: "group", "aria-label": "Faces" },
    ...faces.map(row => element("button", {
      type: "button", "data-key": `face-${row.face}`, "aria-pressed": String(row.face === chosen), onclick: () => choose(row.face),
    }, `${row.face + 1} ${row.label}`)));
}

// In words, for who does not see the picture.
export function spoken(rows) {
  const faces = shown(rows);
  if (rows[0]?.status === "error") return `${rows[0].source} cannot be read: ${rows[0].error}`;
  if (!faces.length) return `No face found in ${rows[0]?.source ?? "the picture"}.`;
  const each = faces.slice(0, 5).map(row => `${row.label} ${percent(row.prob)}`);
  const count = faces.length === 1 ? "One face" : `${faces.length} faces`;
  return `${count} in ${rows[0].source}: ${each.join(", ")}${faces.length > 5 ? " and more" : ""}.`;
}
