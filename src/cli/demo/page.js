// The demo's page: one EventSource, the events that arrive on it, and the state of its connection.

import { channelProblem, typeProblem } from "./names.js";
import { snippets } from "./snippets.js";

const $ = (id) => document.getElementById(id);
// ssecast's own events: the stream has begun; it is still open; events may be missing.
const OPEN = "ssecast.open";
const PING = "ssecast.ping";
const GAP = "ssecast.gap";
const MOST_ROWS = 300;
// A message is shown to this length and number of lines at first, and to MOST_SHOWN characters on request.
const FIRST_SHOWN = 400;
const FIRST_LINES = 6;
const MOST_SHOWN = 20_000;
const REASONS = {
  history: "the history no longer had all of it",
  restart: "ssecast was restarted",
  source: "the connection to the source was down",
  slow: "this page read too slowly",
};

const query = new URLSearchParams(location.search);
const named = query.getAll("channels").flatMap((names) => names.split(",")).filter(Boolean);
const channels = new Set(named.filter((name) => !channelProblem(name)));
if (!channels.size) channels.add("demo");
const types = new Set(["message"]);

let source = null;
let cursor = "";
let lostAt = 0;
let settle = 0;
// When the stream was last resumed: events published before that are marked as late.
let resumedAt = 0;
// Channels added since the stream was last opened. A gap event for these is not shown: the user asked for no past events.
const added = new Set();

// ---- the connection

function open() {
  clearTimeout(settle);
  source?.close();
  const wanted = new URLSearchParams([...channels].map((name) => ["channels", name]));
  wanted.set("envelope", "1");
  if (cursor) wanted.set("last_event_id", cursor);
  const opened = (source = new EventSource(`/sse/?${wanted}`));
  show("connecting", "Connecting");
  // While ssecast doesn't answer, the server in front of it answers with an empty stream, which ends at once. So the state is
  // "open" only after a moment. A message of type "open" or "error" would reach these listeners too; only those are MessageEvents.
  opened.onopen = (event) => {
    if (!(event instanceof MessageEvent)) settle = setTimeout(settled, 200);
  };
  opened.onerror = (event) => {
    if (opened !== source || event instanceof MessageEvent) return;
    clearTimeout(settle);
    if (opened.readyState === EventSource.CLOSED) return refused(wanted);
    if (!lostAt) note("Connection lost. The browser reconnects by itself, and resumes after the last event.");
    lostAt ||= Date.now();
    show("retrying", "Retrying");
  };
  types.forEach((type) => opened.addEventListener(type, arrived));
  opened.addEventListener(GAP, gap);
  for (const sign of [OPEN, PING]) {
    opened.addEventListener(sign, (event) => {
      // It comes before the events that the page missed.
      if (sign === OPEN && cursor) resumedAt = Date.now();
      settled();
      pass(event.lastEventId);
    });
  }
}

function settled() {
  clearTimeout(settle);
  added.clear();
  if (document.body.dataset.state === "open") return;
  if (lostAt) note(`Open again after ${((Date.now() - lostAt) / 1000).toFixed(1)} s${cursor ? ", resumed after the last event" : ""}.`);
  // Another demo may run on this port now, with other sockets.
  if (lostAt) findPlaces();
  lostAt = 0;
  show("open", "Open");
}

// EventSource hides the reason of a refusal from scripts, so a second request asks for it.
async function refused(wanted) {
  show("refused", "Refused");
  note("The stream was refused.");
  if (trick) finish("The stream was refused: the list of events says why.");
  try {
    const answer = await fetch(`/sse/?${wanted}`, { headers: { Accept: "text/event-stream" }, signal: AbortSignal.timeout(3000) });
    if (answer.ok) return void answer.body?.cancel();
    const text = await answer.text();
    let reason = text;
    try {
      reason = JSON.parse(text).error ?? text;
    } catch {
      // Not JSON: shown as it is.
    }
    note(`${answer.status}: ${String(reason).slice(0, 300)}`);
  } catch {
    // No answer: the state shows that already.
  }
}

function disconnect() {
  clearTimeout(settle);
  source?.close();
  source = null;
  lostAt = 0;
  note("Disconnected.");
  show("off", "Disconnected");
}

function show(state, words) {
  document.body.dataset.state = state;
  $("state").textContent = words;
  $("switch").textContent = state === "off" || state === "refused" ? "Connect" : "Disconnect";
}

$("switch").onclick = () => (source && source.readyState !== EventSource.CLOSED ? disconnect() : open());

// ---- what arrives

let count = 0;
let paused = false;
let waiting = [];
let delays = [];
const perSecond = new Array(61).fill(0);

function arrived(event) {
  // Events of the connection itself ("open", "error") are no MessageEvents.
  if (!(event instanceof MessageEvent)) return;
  settled();
  pass(event.lastEventId);
  count++;
  perSecond[60]++;
  let { channel, data } = { channel: "", data: event.data };
  try {
    ({ channel, data } = JSON.parse(event.data));
  } catch {
    // No envelope: show the data, with an unknown channel.
  }
  const late = resumedAt > 0 && publishedAt(event.lastEventId) < resumedAt;
  // The time that the page was disconnected is not ssecast's.
  if (!late) measure(event.lastEventId);
  data = typeof data === "string" ? data : JSON.stringify(data);
  push({ channel, data, type: event.type, id: event.lastEventId, late, at: new Date() });
  tricked(data);
}

function gap(event) {
  pass(event.lastEventId);
  let details = {};
  try {
    details = JSON.parse(event.data);
  } catch {
    // Not JSON: a gap without details.
  }
  const names = (details.channels ?? []).filter((name) => !added.has(name));
  settled();
  if (details.channels?.length && !names.length) return;
  const reason = REASONS[details.reason] ?? details.reason ?? "no reason was given";
  push({ gap: true, text: `Events may be missing${names.length ? ` on ${names.join(", ")}` : ""}: ${reason}.`, at: new Date() });
}

function pass(id) {
  if (!id) return;
  cursor = id;
  $("cursor").textContent = $("cursor").title = id;
  $("read").hidden = false;
}

// The position in an id is the time of the publish, in microseconds. On one machine it is the same clock as Date.now().
const publishedAt = (id) => Number(id.split("~")[0].split("-")[1]) / 1000;

function measure(id) {
  const delay = Date.now() - publishedAt(id);
  if (!(delay > -2 && delay < 1000)) return;
  delays = [...delays.slice(-49), Math.max(delay, 0)];
  const median = delays.toSorted((a, b) => a - b)[delays.length >> 1];
  $("delay").textContent = median < 1 ? "under 1 ms" : `${Math.round(median)} ms`;
  $("delay-figure").hidden = false;
}

const note = (text) => push({ note: true, text, at: new Date() });

// Rows are added once a frame, and at most MOST_ROWS are kept.
function push(item) {
  waiting.push(item);
  if (waiting.length > MOST_ROWS) waiting = waiting.slice(-MOST_ROWS);
  if (waiting.length === 1 && !paused) requestAnimationFrame(flush);
}

function flush() {
  if (paused || !waiting.length) return;
  const items = waiting;
  waiting = [];
  const log = $("log");
  log.prepend(...items.reverse().map(row));
  while (log.childElementCount > MOST_ROWS) log.lastElementChild.remove();
  $("empty").hidden = true;
  $("count").textContent = count.toLocaleString("en");
  say(items);
}

const two = (number, digits = 2) => String(number).padStart(digits, "0");
const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${two(at.getMilliseconds(), 3)}`;

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function row(item) {
  const line = make("li", item.gap ? "note gap" : item.note ? "note" : "");
  const time = make("time", "", clock(item.at));
  time.dateTime = item.at.toISOString();
  if (item.gap || item.note) {
    const text = make("span", "");
    if (item.gap) text.append(make("b", "", "Gap. "));
    text.append(item.text);
    line.append(text, time);
    return line;
  }
  const channel = make("div", "channel hue");
  channel.style.setProperty("--hue", hue(item.channel));
  channel.append(make("span", "", item.channel || "(unknown)"));
  channel.title = item.channel;
  const start = startOf(item.data);
  const meta = make("div", "meta");
  if (item.type !== "message") meta.append(make("span", "type", item.type));
  if (item.late) meta.append(make("span", "late", "delivered after the reconnect"));
  if (start !== item.data) meta.append(make("span", "", `${item.data.length.toLocaleString("en")} characters`));
  meta.append(make("span", "", item.id));
  const from = make("div", "from");
  from.append(channel, time);
  const what = make("div", "what");
  what.append(content(item.data, start), meta);
  line.append(from, what);
  return line;
}

// The first lines of a long message; a short one as it is.
const startOf = (data) => data.slice(0, FIRST_SHOWN).split("\n").slice(0, FIRST_LINES).join("\n");

// An object or a list is folded to one line. Of other data, the start is shown, and the rest on request.
function content(data, start) {
  if (!data) return make("pre", "data none", "empty");
  if (data.length <= MOST_SHOWN && /^\s*[[{]/.test(data)) {
    try {
      return folded(JSON.parse(data));
    } catch {
      // Not JSON.
    }
  }
  const shown = make("pre", "data", start === data ? data : `${start}…`);
  if (start === data) return shown;
  const all = data.length > MOST_SHOWN ? `${data.slice(0, MOST_SHOWN)}…` : data;
  const more = make("button", "more", "Show more");
  more.type = "button";
  more.setAttribute("aria-expanded", false);
  more.onclick = () => {
    const open = more.textContent === "Show more";
    shown.textContent = open ? all : `${start}…`;
    more.textContent = open ? "Show less" : "Show more";
    more.setAttribute("aria-expanded", open);
  };
  const box = make("div", "");
  box.append(shown, more);
  return box;
}

function folded(value) {
  const details = make("details", "data");
  const summary = make("summary", "");
  const short = make("span", "short");
  short.append(...coloured(JSON.stringify(value).replaceAll(/([,:])(?=["{[\d\-tfn])/g, "$1 ")));
  const size = Array.isArray(value) ? `[${value.length}]` : `{${Object.keys(value).length}}`;
  summary.append(short, make("span", "open", size));
  details.append(summary);
  // The long form is made when the user first opens it.
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const whole = make("pre", "");
    whole.append(...coloured(JSON.stringify(value, null, 2)));
    details.append(whole);
  });
  return details;
}

function coloured(json) {
  return json.split(/("(?:[^"\\]|\\.)*"(?:\s*:)?)/).filter(Boolean).map((part) => {
    if (!part.startsWith('"')) return part;
    return make("span", part.endsWith(":") ? "key" : "string", part);
  });
}

// A hue for each channel, far from those of the channels before.
const hues = new Map();
function hue(name) {
  if (!hues.has(name)) hues.set(name, Math.round(165 + hues.size * 137.508) % 360);
  return hues.get(name);
}

// For screen readers: one sentence every few seconds, however fast events come.
let sayable = [];
let saying = 0;
function say(items) {
  sayable.push(...items);
  saying ||= setTimeout(() => {
    const events = sayable.filter((item) => !item.note && !item.gap);
    const others = sayable.filter((item) => item.note || item.gap).map((item) => item.text);
    if (events.length === 1) others.unshift(`${events[0].channel}: ${events[0].data.slice(0, 200)}`);
    if (events.length > 1) others.unshift(`${events.length} new events`);
    $("said").textContent = others.slice(0, 3).join(" ");
    sayable = [];
    saying = 0;
  }, 3000);
}

setInterval(() => {
  const recent = perSecond.slice(-6, -1).reduce((sum, number) => sum + number, 0) / 5;
  $("rate").textContent = recent >= 10 || recent === 0 ? Math.round(recent).toLocaleString("en") : recent.toFixed(1);
  const top = Math.max(...perSecond, 1);
  const points = perSecond.map((number, index) => `${(index * 2).toFixed(0)},${(23 - (number / top) * 21).toFixed(1)}`);
  document.querySelector("#spark path").setAttribute("d", `M${points.join("L")}`);
  perSecond.shift();
  perSecond.push(0);
  $("count").textContent = count.toLocaleString("en");
  if (paused) $("pause").textContent = waiting.length ? `Resume (${waiting.length === MOST_ROWS ? `${MOST_ROWS}+` : waiting.length})` : "Resume";
}, 1000);

$("pause").onclick = () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Resume" : "Pause";
  if (!paused) flush();
};
$("clear").onclick = () => {
  $("log").replaceChildren();
  waiting = [];
  $("empty").hidden = false;
};

// ---- channels and types

function chip(name, label, remove) {
  const item = make("li", remove ? "" : "fixed");
  item.append(make("span", "", name));
  if (remove) {
    const button = make("button", "", "×");
    button.type = "button";
    button.setAttribute("aria-label", `${label} ${name}`);
    button.onclick = remove;
    item.append(button);
  }
  return item;
}

function listChannels() {
  const removable = channels.size > 1;
  $("channels").replaceChildren(
    ...[...channels].map((name) => {
      const item = chip(name, "Unsubscribe from", removable && (() => (channels.delete(name), changed())));
      item.classList.add("hue");
      item.style.setProperty("--hue", hue(name));
      return item;
    }),
  );
  const address = new URL(location.href);
  address.searchParams.delete("channels");
  channels.forEach((name) => address.searchParams.append("channels", name));
  history.replaceState(null, "", address);
}

function changed() {
  listChannels();
  if (source) open();
}

// Returns why the page can't subscribe, or null.
function subscribe(name) {
  const problem = channelProblem(name);
  if (problem || channels.has(name)) return problem;
  channels.add(name);
  added.add(name);
  changed();
  return null;
}

function listTypes() {
  $("listened").replaceChildren(...[...types].map((type) => chip(type, "Stop listening for", type !== "message" && (() => unlisten(type)))));
  $("types").replaceChildren(...[...types].map((type) => Object.assign(document.createElement("option"), { value: type })));
}

// EventSource delivers only the types that the page listens for. Returns why the page can't listen for this one, or null.
function listen(type) {
  const problem = typeProblem(type);
  if (problem || types.has(type)) return problem;
  types.add(type);
  source?.addEventListener(type, arrived);
  listTypes();
  return null;
}

function unlisten(type) {
  types.delete(type);
  source?.removeEventListener(type, arrived);
  listTypes();
}

const onSubmit = (id, act) =>
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act(event.target);
  });
// Adds each name of the form. Those that can't be added stay in the field, and the reason is shown.
const take = (add) => (form) => {
  const names = form.elements.name.value.split(",").map((name) => name.trim()).filter(Boolean);
  const results = names.map((name) => ({ name, problem: add(name) }));
  const refused = results.filter((result) => result.problem);
  form.elements.name.value = refused.map((result) => result.name).join(", ");
  complain(form, refused.map((result) => result.problem).join(" "));
};
function complain(form, problem) {
  form.nextElementSibling.textContent = problem;
  form.elements.name.setAttribute("aria-invalid", Boolean(problem));
}
for (const [id, add] of Object.entries({ "add-channel": subscribe, "add-type": listen })) {
  onSubmit(id, take(add));
  $(id).elements.name.addEventListener("input", () => complain($(id), ""));
}

// ---- publishing

onSubmit("publish", async (form) => {
  const fields = Object.fromEntries(new FormData(form));
  if (!fields.event || fields.event === "message") delete fields.event;
  // Before it is published, or the page would miss it. If it is refused, the page does not go on listening.
  const added = Boolean(fields.event) && !types.has(fields.event) && listen(fields.event) === null;
  const answer = $("answer");
  try {
    const response = await fetch("/publish", { method: "POST", body: new URLSearchParams(fields) });
    const text = await response.text();
    let reply = {};
    try {
      reply = JSON.parse(text);
    } catch {
      // Not JSON: not ssecast's answer.
    }
    answer.className = response.ok ? "" : "bad";
    if (!response.ok && added) unlisten(fields.event);
    if (!response.ok) return void (answer.textContent = reply.error ?? `${response.status} ${response.statusText}`);
    const readers = reply.subscribers;
    answer.textContent = readers === undefined ? "Published." : `Published to ${readers} ${readers === 1 ? "subscriber" : "subscribers"}.`;
    if (channels.has(fields.channel) || channelProblem(fields.channel)) return;
    const button = make("button", "", `Subscribe to ${fields.channel}`);
    button.type = "button";
    button.title = button.textContent;
    button.onclick = () => (subscribe(fields.channel), (answer.textContent = ""));
    answer.append(" ", button);
  } catch {
    answer.className = "bad";
    answer.textContent = "No answer: is the demo still running?";
  }
});
const message = $("publish").elements.message;
message.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("publish").requestSubmit();
};

// ---- the button that cuts the connection, publishes, and reconnects

const MISSED = 3;
const FAILED = "That did not work: is the demo still running?";
let trick = null;

$("trick").onclick = async () => {
  if (trick) return;
  const run = (trick = { waiting: new Set(), order: [] });
  $("trick").disabled = true;
  result("Disconnected …");
  disconnect();
  const [channel] = channels;
  const tag = Math.random().toString(36).slice(2, 6);
  try {
    for (let number = 1; number <= MISSED; number++) {
      await pause(450);
      const message = `Missed ${number} of ${MISSED} (${tag})`;
      run.waiting.add(message);
      const response = await fetch("/publish", { method: "POST", body: new URLSearchParams({ channel, message }) });
      if (!response.ok) throw new Error(`${response.status}`);
      result(`Disconnected; ${number} published …`);
    }
    await pause(700);
    open();
    // If the events don't arrive in time, the page says so.
    run.limit = setTimeout(() => finish(FAILED), 8000);
  } catch {
    open();
    finish(FAILED);
  }
};

function tricked(data) {
  if (!trick?.waiting.has(data)) return;
  trick.waiting.delete(data);
  trick.order.push(data);
  if (trick.order.length === MISSED) {
    const inOrder = trick.order.every((message, at) => message.startsWith(`Missed ${at + 1} `));
    finish(inOrder ? `All ${MISSED} arrived, in order.` : "All arrived, but not in order.", inOrder);
  }
}

function finish(text, good = false) {
  clearTimeout(trick.limit);
  trick = null;
  $("trick").disabled = false;
  result(text, good);
}

function result(text, good = false) {
  $("trick-result").textContent = text;
  $("trick-result").classList.toggle("good", good);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// ---- code to copy, for the channel in the form

const channelField = $("publish").elements.channel;
let places = null;
let language = "JavaScript";

function showSnippets() {
  if (!places) return;
  const channel = channelField.value || "demo";
  const all = snippets(channel, places, location.origin);
  $("use-channel").textContent = $("use-channel").title = channel;
  $("tabs").replaceChildren(...Object.keys(all).map(tab));
  $("panel").setAttribute("aria-labelledby", `tab-${language}`);
  $("snippets").replaceChildren(...all[language].map(snippet));
}

function tab(name) {
  const button = make("button", "", name);
  Object.assign(button, { type: "button", id: `tab-${name}`, tabIndex: name === language ? 0 : -1 });
  button.setAttribute("role", "tab");
  button.setAttribute("aria-selected", name === language);
  button.onclick = () => choose(name);
  button.onkeydown = (event) => {
    const names = [...$("tabs").children].map((other) => other.textContent);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) choose(names[(names.indexOf(name) + step + names.length) % names.length]);
  };
  return button;
}

function choose(name) {
  language = name;
  showSnippets();
  $(`tab-${name}`).focus();
}

function snippet([what, code]) {
  const box = make("div", "");
  const head = make("header", "");
  const copy = make("button", "", "Copy");
  copy.type = "button";
  copy.setAttribute("aria-label", `Copy: ${what}`);
  copy.onclick = async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  };
  head.append(make("span", "", what), copy);
  box.append(head, make("pre", "", code));
  return box;
}

async function findPlaces() {
  const response = await fetch("places.json").catch(() => null);
  if (response?.ok) places = await response.json();
  showSnippets();
}

channelField.addEventListener("input", showSnippets);
listChannels();
listTypes();
complain($("add-channel"), named.map(channelProblem).filter(Boolean).join(" "));
open();
findPlaces();
