// The page that `unmask serve` shows at `/`: a form, its requests to this server, and their streams as they come.

import { EventParser, requestsOf } from "./ask.mjs";
import { element } from "./lane.mjs";
import { Player, themed } from "./player.mjs";
import { Reader } from "./run.mjs";

const find = (name) => document.querySelector(`[data-${name}]`);
const form = find("form");
const player = new Player(find("player"), find("lanes"));
themed(find("theme-button"));
let asking = null; // the AbortController of what runs
let runs = [];

function headers() {
  const key = form.elements.key.value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

function problem(text) {
  find("problem").textContent = text;
}

/** The error of a reply that is not 200. */
async function refusal(reply) {
  if (reply.status === 401) find("key").hidden = false;
  const body = await reply.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${reply.status}`);
}

/** Ask what the model can do, and offer that. */
async function load() {
  const reply = await fetch("v1/models", { headers: headers() });
  if (!reply.ok) throw await refusal(reply);
  const card = (await reply.json()).data[0];
  const can = card.capabilities;
  find("model").textContent = `${card.id}, ${can.exactness}, context ${can.context}`;
  const three = can.modes.length > 2 ? [["all", "three side by side"]] : [];
  options(form.elements.mode, [...can.modes.map((mode) => [mode, mode]), ...three], can.default_mode);
  options(form.elements.spec_variant, can.spec_variants.map((name) => [name, name]), can.spec_variants.at(-1));
  form.elements.block_size.placeholder = String(can.block_size);
  const infill = form.querySelector("[value=infill]");
  infill.disabled = can.infill.length === 0;
  infill.parentElement.title = infill.disabled ? "this model has not learned to fill gaps" : "";
  find("run").disabled = false;
  fit();
}

function options(select, pairs, chosen) {
  const made = pairs.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    option.selected = value === chosen;
    return option;
  });
  select.replaceChildren(...made);
}

/** Show the fields that mean something for the chosen kind, mode and constraint. */
function fit() {
  const { kind, mode, constraint } = Object.fromEntries(new FormData(form));
  for (const part of form.querySelectorAll("[data-for]")) {
    const wanted = part.dataset.for.split(" ");
    part.hidden = ![kind, mode, constraint && "constraint"].some((one) => wanted.includes(one));
  }
}

async function ask(event) {
  event.preventDefault();
  if (asking) return;
  problem("");
  let requests;
  try {
    requests = requestsOf(Object.fromEntries(new FormData(form)));
  } catch (error) {
    problem(error.message);
    return;
  }
  const control = (asking = new AbortController());
  busy(true);
  const readers = requests.map(({ head }) => {
    const reader = new Reader();
    reader.begin(0, head);
    return reader;
  });
  runs = [...(form.elements.keep.checked ? runs : []), ...readers.flatMap((reader) => reader.runs)];
  player.set(runs);
  player.follow();
  const done = await Promise.allSettled(requests.map((one, number) => stream(one, readers[number], control.signal)));
  asking = null;
  busy(false);
  player.settle();
  const failed = done.find((one) => one.status === "rejected" && one.reason.name !== "AbortError");
  if (failed) problem(failed.reason.message);
  find("state").textContent = control.signal.aborted ? "cancelled" : failed ? "failed" : "done";
}

async function stream({ route, body }, reader, signal) {
  const begun = performance.now();
  try {
    const sent = { ...headers(), "content-type": "application/json" };
    const reply = await fetch(route, { method: "POST", headers: sent, body: JSON.stringify(body), signal });
    if (!reply.ok) throw await refusal(reply);
    const parser = new EventParser();
    const bytes = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await bytes.read();
      if (done) break;
      for (const event of parser.feed(value)) reader.take(event, (performance.now() - begun) / 1000);
      player.grown();
    }
    if (reader.failure) throw new Error(reader.failure.message);
  } finally {
    for (const run of reader.runs) run.end ??= { finish_reason: "cancelled" };
  }
}

function busy(is) {
  find("run").disabled = is;
  find("cancel").disabled = !is;
  if (is) find("state").textContent = "running";
  // The button that had the focus may be the one that is off now.
  if (document.activeElement === document.body) find(is ? "cancel" : "run").focus();
}

form.addEventListener("submit", ask);
form.addEventListener("change", (event) => {
  if (event.target.name === "key") load().then(() => problem(""), (error) => problem(error.message));
  else fit();
});
find("cancel").addEventListener("click", () => asking?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") asking?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !find("run").disabled) form.requestSubmit();
});
fit();
load().catch((error) => problem(error.message));
