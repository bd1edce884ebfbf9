// Builds elements; texts are always texts, so that no file name becomes markup.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "mark") made.style.setProperty("--mark", value);
    else if (name === "style") Object.assign(made.style, value);
    else if (name in made && name !== "role") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined && child !== false));
  return made;
}

export const find = selector => document.querySelector(selector);

export function say(text) {
  find("#live").textContent = text;
}

// An alert is read aloud whenever it is written: the same one not again.
export function complain(text) {
  const place = find("#alert");
  if (place.textContent === text) return;
  place.textContent = text;
  place.hidden = !text;
}

// Beside what the alert already says.
export function complainToo(text) {
  const before = find("#alert").textContent;
  if (!before.includes(text)) complain([before, text].filter(Boolean).join("; "));
}

// For a place that is filled anew: call what it returns afterwards, and what had the focus there has
// it again, by its data-key; else the first of the fallbacks that is there.
export function holdFocus(place) {
  if (!place.contains(document.activeElement)) return () => {};
  const { key } = document.activeElement.dataset;
  return (...fallbacks) => {
    const same = [...place.querySelectorAll("[data-key]")].find(one => one.dataset.key === key);
    (same ?? fallbacks.map(one => place.querySelector(one)).find(Boolean))?.focus();
  };
}

export const megabytes = bytes => `${Number((bytes / 1e6).toPrecision(3))} MB`;

// The server names the file in most reasons itself.
export const named = (file, reason) => (reason.includes(file.name) ? reason : `${file.name}: ${reason}`);

// Why a file has no answer, for its panel.
export function unanswered(file, reason, title = "Not answered") {
  return [element("h2", {}, title), element("p", { className: "empty" }, named(file, reason))];
}

export function percent(share) {
  return share >= 0.9995 && share < 1 ? "> 99.9 %" : `${(100 * share).toFixed(1)} %`;
}
