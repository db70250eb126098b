// One generation on the page: its title, its numbers, its text as it stood after a step. Text only ever becomes a text
// node, so nothing that a model writes is ever taken for markup.

const MASK = "░";

/** Text that shows what it holds: control characters as pictures of themselves, what turns writing round as its code. */
export function visible(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (sign) => String.fromCharCode(0x2400 + sign.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (sign) => {
      return `⟨${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
    });
}

/** Class of a confidence between 0 and 1: five shades. */
export function shade(confidence) {
  return `shade${Math.min(4, Math.floor(Math.max(0, confidence) * 5))}`;
}

/** An element with classes, text and a tooltip. */
export function element(name, classes = "", text = "", title = "") {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text) made.textContent = text;
  if (title) made.title = title;
  return made;
}

function sure(confidence) {
  return typeof confidence === "number" ? `, ${Math.round(100 * confidence)} % sure` : "";
}

function revised(count) {
  return count ? `, taken back ${count}×` : "";
}

function tokenSpan(token) {
  const graded = typeof token.confidence === "number" ? ` ${shade(token.confidence)}` : "";
  const classes = `token${graded}${token.fresh ? " fresh" : ""}${token.accepted ? " accepted" : ""}`;
  const how = token.accepted ? "drafted and accepted" : `placed in forward ${token.step ?? "?"}`;
  return element("span", classes, visible(token.token), `${how}${sure(token.confidence)}${revised(token.revisions)}`);
}

function slotSpan(slot) {
  if (slot.state === "masked") {
    if (slot.taken) return element("del", "taken", visible(slot.taken), "taken back");
    return element("span", "mask", MASK, `position ${slot.position}: unknown${revised(slot.revisions)}`);
  }
  const title = `${slot.state}, forward ${slot.step}${sure(slot.confidence)}${revised(slot.revisions)}`;
  return element("span", `slot ${slot.state} ${shade(slot.confidence)}${slot.fresh ? " fresh" : ""}`, visible(slot.token), title);
}

/** "12 tokens in 4 forwards" and the like, for eyes and for screen readers. */
export function summary(run, state) {
  const now = state.now;
  if (!now) return "not begun";
  const parts = [`forward ${now.step}`, `${now.count} tokens`];
  if (now.count) parts.push(`${(now.count / now.step).toFixed(2)} per forward`);
  if (state.masked) parts.push(`${state.masked} masked`);
  if (typeof now.seconds === "number") parts.push(`${now.seconds.toFixed(2)} s`);
  return parts.join(" · ");
}

/** The numbers of a whole generation. */
export function outcome(run) {
  const { finish_reason: reason, stats } = run.end;
  const parts = [reason === "length" ? "ended by its limit" : reason === "cancelled" ? "cancelled" : "ended"];
  if (stats) {
    parts.push(`${stats.nfe} forwards after prefill`, `${stats.tpf.toFixed(2)} tokens per forward`);
    if (stats.acceptance_length) parts.push(`${stats.acceptance_length.toFixed(2)} tokens per round`);
  }
  return parts.join(" · ");
}

/** What a generation was asked with, in short. */
function settings(head) {
  const own = Object.entries(head.settings ?? {}).map(([name, value]) => `${name} ${value}`);
  const parts = [head.model, head.temperature === undefined ? "" : `temperature ${head.temperature}`, ...own];
  return parts.filter(Boolean).join(", ");
}

/** A column for one run. given: whether it shows the prompt and the suffix that were given. */
export class Lane {
  constructor(run, number, given = true) {
    this.run = run;
    this.given = given;
    this.root = element("section", "lane");
    const heading = element("h2", "", visible(run.title));
    heading.id = `lane${number}`;
    this.root.setAttribute("aria-labelledby", heading.id);
    this.kind = element("span", "kind");
    this.numbers = element("p", "numbers");
    this.progress = element("div", "bar");
    this.progress.append(element("div", "fill"));
    this.progress.setAttribute("aria-hidden", "true");
    this.text = element("div", "text");
    this.text.tabIndex = 0;
    this.text.setAttribute("role", "group");
    this.text.setAttribute("aria-label", `Text of ${visible(run.title)}`);
    this.rest = element("p", "rest");
    heading.append(" ", this.kind);
    this.root.append(heading, this.numbers, this.progress, this.text, this.rest);
  }

  /** Show the run in a state. share: how far along the axis that is, from 0 to 1. */
  show(state, share) {
    const { run } = this;
    const at = this.text;
    const follows = at.scrollHeight - at.scrollTop - at.clientHeight < 40;
    const strategy = run.head.strategy ?? run.head.mode ?? "";
    this.kind.textContent = strategy === run.title ? "" : visible(strategy);
    this.kind.title = visible(settings(run.head));
    this.numbers.textContent = summary(run, state);
    this.progress.firstChild.style.inlineSize = `${100 * share}%`;
    const parts = [];
    if (this.given && run.head.prompt) parts.push(element("span", "prompt", visible(run.head.prompt), "prompt"));
    for (const token of state.tokens) parts.push(tokenSpan(token));
    for (const token of state.rejected) parts.push(element("del", "rejected", visible(token.token), "drafted and rejected"));
    for (const slot of state.slots) parts.push(slotSpan(slot));
    if (run.head.suffix) parts.push(element("span", "prompt", visible(run.head.suffix), "suffix"));
    at.replaceChildren(...parts);
    if (follows) at.scrollTop = at.scrollHeight;
    this.rest.textContent = state.ended ? outcome(run) : "";
  }
}
