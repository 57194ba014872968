// The API page: /openapi.json as a list to read. Texts from elsewhere are set as text, never as HTML.

const find = (id) => document.getElementById(id);

function element(name, className, ...inside) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...inside);
  return made;
}

function json(value) {
  return element("pre", "", JSON.stringify(value, null, 2));
}

function parts(operation) {
  const shown = [];
  if (operation.description) shown.push(element("p", "", operation.description));
  if (operation.parameters?.length) {
    const lines = operation.parameters.map((one) =>
      element("tr", "", ...[one.name, one.in, one.required ? "required" : "", JSON.stringify(one.schema)].map((text) =>
        element("td", "", text))));
    shown.push(element("h4", "", "Parameters"), element("table", "", element("tbody", "", ...lines)));
  }
  for (const [kind, { schema }] of Object.entries(operation.requestBody?.content ?? {}).slice(0, 1)) {
    shown.push(element("h4", "", `Body: ${kind}`), json(schema ?? "bytes"));
  }
  for (const [kind, { schema }] of Object.entries(operation.responses["200"].content).slice(0, 1)) {
    shown.push(element("h4", "", `Answer: ${kind}`), json(schema ?? "bytes"));
  }
  return shown;
}

function entry(path, method, operation) {
  const effect = operation["x-effect"] ?? "";
  const title = element("summary", "", element("b", "method", method.toUpperCase()), " ", element("code", "", path), " ",
    element("span", "state", effect), " ", element("span", "quiet", operation.summary));
  const shown = element("details", "operation", title);
  shown.dataset.words = `${method} ${path} ${operation.summary} ${effect}`.toLowerCase();
  shown.addEventListener("toggle", () => {
    if (shown.open && shown.children.length === 1) shown.append(...parts(operation));
  });
  return shown;
}

function show(description) {
  const groups = new Map(description.tags.map(({ name }) => [name, []]));
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      groups.get(operation.tags[0])?.push(entry(path, method, operation));
    }
  }
  for (const [name, entries] of groups) {
    if (entries.length) find("groups").append(element("section", "", element("h2", "", name), ...entries));
  }
  find("said").textContent = `${description.info.description} Schemas that are named stand in openapi.json.`;
}

find("find").addEventListener("input", () => {
  const words = find("find").value.toLowerCase();
  for (const shown of document.querySelectorAll(".operation")) shown.hidden = !shown.dataset.words.includes(words);
  for (const group of document.querySelectorAll("section")) group.hidden = !group.querySelector(".operation:not([hidden])");
});

const answer = await fetch("/openapi.json");
const said = await answer.json();
if (answer.ok) show(said);
else find("said").textContent = `${said.detail}. Log in on the status page first.`;
