// Files that are dropped anywhere or pasted, each to its tab: pictures together, one video.

import { complainToo, find } from "./elements.js";
import * as film from "./film.js";
import * as photos from "./photos.js";

// By the kind that the browser names, and endings that some systems know no kind of.
const isVideo = file => file.type.startsWith("video/") || /\.(mkv|avi|mov|ts|mts)$/i.test(file.name);

function receive(files) {
  const video = files.find(isVideo);
  find(video ? "#tab-video" : "#tab-photos").click();
  if (!video) {
    photos.take(files);
    return;
  }
  film.read(video);
  if (files.length > 1) complainToo(`Of ${files.length} files ${video.name} alone is read: one video, or pictures, at a time`);
}

export function start() {
  const drop = find("#drop");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, event => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
  document.addEventListener("drop", event => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    receive([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", event => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) receive(files);
  });
}
