// The page that `unmask view` writes: the events are in it, and nothing is fetched.

import { Reader } from "./run.mjs";
import { Player, themed } from "./player.mjs";

const player = new Player(document.querySelector("[data-player]"), document.querySelector("[data-lanes]"));
themed(document.querySelector("[data-theme-button]"));
const runs = [];
for (const file of JSON.parse(document.getElementById("data").textContent)) {
  const reader = new Reader();
  for (const event of file.events) reader.take(event);
  if (file.name) for (const run of reader.runs) run.head = { ...run.head, title: `${file.name}: ${run.title}` };
  runs.push(...reader.runs);
}
player.set(runs);
