// The status page: endpoints, their plugins, and events as they happen. Texts from elsewhere are set as text, never as HTML.

const SHOWN = 200; // events on the page
const find = (id) => document.getElementById(id);
let source = null;
let csrf = null;
let heard = 0;

function row(...texts) {
  const line = document.createElement("tr");
  for (const text of texts) {
    const cell = document.createElement("td");
    cell.append(text);
    line.append(cell);
  }
  return line;
}

function mark(text, kind) {
  const shown = document.createElement("span");
  shown.className = `state ${kind}`;
  shown.textContent = text;
  return shown;
}

function say(text, kind) {
  find("line").textContent = text;
  find("line").className = `state ${kind}`;
}

function showEndpoints(endpoints) {
  const names = Object.keys(endpoints).sort();
  find("count").textContent = String(names.length);
  find("endpoints").replaceChildren(...names.map((name) => {
    const { endpoint, plugins } = endpoints[name];
    const served = Object.entries(plugins).map(([plugin, facts]) => `${plugin} ${facts.version ?? ""}`.trim());
    const kind = endpoint.liveness === "present" ? "good" : endpoint.liveness === "lost" ? "bad" : "fair";
    return row(name, mark(endpoint.liveness, kind), endpoint.role, served.sort().join(", ") || "none");
  }));
}

function showEvent({ endpoint, plugin, topic, data }) {
  const events = find("events");
  heard += 1;
  find("heard").textContent = `${heard} heard`;
  find("none").hidden = true;
  events.prepend(row(new Date().toLocaleTimeString(), endpoint, plugin, topic, JSON.stringify(data)));
  while (events.children.length > SHOWN) events.lastChild.remove();
}

function listen() {
  source?.close();
  source = new EventSource("/events");
  source.onopen = () => say("live", "good");
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.topic === "topology") showEndpoints(message.data.endpoints);
    else if (message.topic === "notification") showEvent(message.data);
  };
  source.onerror = () => {
    say("connecting again", "fair");
    if (source.readyState === EventSource.CLOSED) setTimeout(begin, 2000);
  };
}

function showLogin(refusal) {
  source?.close();
  say("not connected", "");
  find("view").hidden = true;
  find("leave").hidden = true;
  find("user").textContent = "";
  find("login").hidden = false;
  find("refused").textContent = refusal;
  find("token").focus();
}

function showView(who) {
  csrf = who.csrf;
  find("login").hidden = true;
  find("view").hidden = false;
  find("leave").hidden = false;
  find("user").textContent = who.user;
  listen();
}

async function begin() {
  try {
    const answer = await fetch("/auth");
    if (answer.ok) showView(await answer.json());
    else showLogin("");
  } catch {
    say("the gateway is away", "bad");
    setTimeout(begin, 2000);
  }
}

find("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const headers = { Authorization: `Bearer ${find("token").value.trim()}` };
  find("token").value = "";
  const answer = await fetch("/auth", { method: "POST", headers });
  const said = await answer.json();
  if (answer.ok) showView(said);
  else showLogin(said.detail);
});

find("leave").addEventListener("click", async () => {
  await fetch("/auth", { method: "DELETE", headers: { "X-CSRF-Token": csrf } });
  showLogin("");
});

begin();
