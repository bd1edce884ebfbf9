// Faces as the server would answer them, in rows and some side by side, put over a canvas by the page's
// own modules; and where everything lies.
async ({ count, seed }) => {
  const [faces, tags] = await Promise.all([import("/static/faces.js"), import("/static/tags.js")]);
  let state = seed;
  const random = () => (state = (state * 16807) % 2147483647) / 2147483647;
  const across = Math.ceil(Math.sqrt(1.5 * count)), down = Math.ceil(count / across);
  const size = { width: 1200, height: 800 };
  const rows = [...Array(count).keys()].map(number => {
    const side = Math.min(size.width / across, size.height / down) * (0.5 + 0.5 * random());
    return {
      face: number, status: "ok", prob: random(),
      label: ["happiness", "neutral", "surprise"][number % 3],
      x: (size.width / across) * (number % across) + 2,
      y: (size.height / down) * Math.floor(number / across) + 2,
      width: 0.8 * side, height: side,
    };
  });
  const canvas = Object.assign(document.createElement("canvas"), size);
  canvas.style.cssText = "max-width: 100%; display: block";
  const picture = Object.assign(document.createElement("div"), { className: "picture" });
  const stage = Object.assign(document.createElement("div"), { className: "stage" });
  picture.append(canvas);
  stage.append(picture);
  document.querySelector("#group")?.remove();
  stage.id = "group";
  document.querySelector("main").after(stage);
  const colours = { happiness: "#e69f00", neutral: "#aaaaaa", surprise: "#f0e442" };
  tags.cover(picture, faces.boxes(rows, size, colours, 0, null));
  const rectangle = one => {
    const { left, top, right, bottom } = one.getBoundingClientRect();
    return [left, top, right, bottom];
  };
  const shown = [...picture.querySelectorAll(".box span")].filter(tag => !tag.hidden);
  return {
    boxes: [...picture.querySelectorAll(".box")].map(rectangle),
    tags: shown.map(rectangle),
    stage: rectangle(stage),
    cut: shown.some(tag => tag.scrollWidth > tag.clientWidth + 1),
  };
}
