// The interface's description, from openapi.json; nothing is fetched from elsewhere.

import { element, find } from "./elements.js";

const described = await (await fetch("/openapi.json")).json();
find("#example").textContent = `curl -F file=@photo.jpg ${location.origin}/v1/predict`;

const kind = schema => [schema.type ?? schema.anyOf?.map(one => one.type)].flat(2).filter(Boolean).join(" or ");

function fields(schema) {
  const rows = schema.type === "array" ? schema.items : schema;
  const inner = rows?.properties ?? {};
  const [only] = Object.values(inner);
  // {"results": [[row, ...], ...]}: the row is what a reader looks for
  if (Object.keys(inner).length === 1 && only.type === "array") {
    let item = only;
    while (item.type === "array") item = item.items;
    return fields(item);
  }
  return Object.entries(inner);
}

function table(caption, lines) {
  return element("table", {},
    element("caption", { className: "hidden" }, caption),
    element("tbody", {}, ...lines.map(([name, text]) => element("tr", {},
      element("th", { scope: "row" }, element("code", {}, name)), element("td", {}, text)))));
}

function section(path, method, operation) {
  const parts = [
    element("h2", {}, element("code", {}, `${method.toUpperCase()} ${path}`)),
    ...(operation.description ?? operation.summary ?? "").split("\n\n").map(text => element("p", {}, text.replaceAll("`", ""))),
  ];
  for (const [type, { schema }] of Object.entries(operation.requestBody?.content ?? {})) {
    parts.push(element("h3", {}, `Takes ${type}`),
      table("Fields", Object.entries(schema.properties).map(([name, one]) =>
        [name, one.items ? `one or more files: ${one.items.description}` : `one file: ${one.description}`])));
  }
  if (operation.parameters?.length) {
    parts.push(element("h3", {}, "Parameters"), table("Parameters", operation.parameters.map(one =>
      [one.name, `${kind(one.schema)}${one.schema.default === undefined ? "" : `, ${one.schema.default} by default`}`])));
  }
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (status !== "200") continue;
    const [type, { schema }] = Object.entries(answer.content ?? {})[0] ?? ["", { schema: {} }];
    parts.push(element("h3", {}, `Answers ${type}`));
    const lines = fields(schema).map(([name, one]) => [name, [kind(one), one.description].filter(Boolean).join("; ")]);
    if (lines.length) parts.push(table("Fields of the answer", lines));
  }
  const refusals = Object.entries(operation.responses).filter(([status]) => status !== "200");
  parts.push(element("h3", {}, "Or refuses, with an error and a message as JSON"),
    table("Refusals", refusals.map(([status, answer]) => [status, answer.description])));
  return element("section", {}, ...parts);
}

find("#paths").replaceChildren(...Object.entries(described.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => section(path, method, operation))));
