// Starts the page: tabs, the model, and what is said about privacy.

import * as api from "./api.js";
import * as arrivals from "./arrivals.js";
import * as camera from "./camera.js";
import { complain, find, percent } from "./elements.js";
import * as film from "./film.js";
import * as photos from "./photos.js";

const tabs = [...document.querySelectorAll('[role="tab"]')];

function open(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    find(`#${one.getAttribute("aria-controls")}`).hidden = !chosen;
  }
  complain("");
  if (tab.id !== "tab-camera") camera.stop();
  if (tab.id !== "tab-video") film.stop();
}

tabs.forEach((tab, number) => {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const edge = { Home: 0, End: tabs.length - 1 }[event.key];
    if (step === undefined && edge === undefined) return;
    event.preventDefault();
    const next = tabs[edge ?? (number + step + tabs.length) % tabs.length];
    open(next);
    next.focus();
  });
});

const own = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
find("#privacy").textContent = own
  ? "Faces stay on this machine: the program that runs here answers in memory; nothing is stored, logged or sent on."
  : `Pictures go to the server ${location.hostname} and no further: it answers in memory, and stores and logs nothing.`;

function nameModel(model, prior) {
  const special = [model.precision, prior].filter(word => word !== "fp32" && word !== "natural");
  const title = special.length ? `${model.name} (${special.join(", ")})` : model.name;
  find("#model-name").textContent = model.own_labels
    ? `Model ${title}.`
    : `Model ${title}, which chooses of: ${model.labels.join("; ")}. One always wins, whether or not it fits.`;
}

// How often rare expressions are answered: the operating points that the model stores.
function offerPriors(model) {
  const figures = model.priors[model.prior];
  if (!figures) return;
  const select = find("#prior");
  const tell = () => {
    const { accuracy, mean_class_accuracy: mean } = model.priors[select.value];
    find("#prior-figures").textContent =
      `On validation pictures ${percent(accuracy)} of the answers are right, ${percent(mean)} as the mean over expressions.`;
  };
  select.value = model.prior;
  select.addEventListener("change", () => {
    api.weigh(select.value);
    nameModel(model, select.value);
    tell();
    photos.again();
    film.again();
  });
  tell();
  find("#weighing").hidden = false;
}

try {
  const model = await api.model();
  nameModel(model, model.prior);
  offerPriors(model);
  photos.start(model);
  camera.start(model);
  film.start(model);
  arrivals.start();
  document.documentElement.dataset.ready = "true";
} catch (error) {
  complain(error.message);
}
