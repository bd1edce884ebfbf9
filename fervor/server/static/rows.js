// Rows as files: the same columns, and the same care, as fervor predict --output.

import { element } from "./elements.js";

const FORMULA = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;

function cell(name, value) {
  if (value === null || value === undefined) return "";
  const text = String(value);
  const formula = typeof value === "string" && FORMULA.test(text);
  return quoted(formula ? (name === "source" ? "./" : "'") + text : text);
}

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csv(rows, columns) {
  const lines = rows.map(row => columns.map(name => cell(name, row[name])).join(","));
  return [columns.map(quoted).join(","), ...lines].join("\n") + "\n";
}

export function jsonLines(rows) {
  return rows.map(row => JSON.stringify(row) + "\n").join("");
}

function save(text, type, name) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// Two buttons; `rows` is asked for when one is pressed.
export function downloads(rows, stem) {
  const saved = (write, type, ending) => () => {
    const all = rows().map(({ covered, ...row }) => row); // which the page asks for beside the rows
    save(write(all, Object.keys(all[0] ?? {})), type, stem + ending);
  };
  return element("div", { className: "downloads actions" },
    element("button", { type: "button", "data-key": "csv", onclick: saved(csv, "text/csv", ".csv") }, "Download CSV"),
    element("button", { type: "button", "data-key": "jsonl", onclick: saved(jsonLines, "application/jsonl", ".jsonl") }, "Download JSON Lines"));
}
