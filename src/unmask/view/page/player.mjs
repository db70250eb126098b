// Lanes side by side on one axis, moved through by slider, buttons, keys or by themselves.

import { stateAt } from "./run.mjs";
import { Lane, element, summary, visible } from "./lane.mjs";

const SPEEDS = [0.25, 0.5, 1, 2, 4, 8];
const FORWARDS_PER_SECOND = 4; // at speed 1, on the axis of forwards; that of time is real time

export class Player {
  /** root: the element that holds controls and prompt (see controls.html); lanes: the one that holds the lanes. */
  constructor(root, lanes) {
    this.at = 0;
    this.axis = "step";
    this.playing = false;
    this.live = this.following = false;
    this.lanes = [];
    this.holder = lanes;
    this.prompt = root.querySelector("[data-prompt]");
    this.slider = root.querySelector("[data-slider]");
    this.place = root.querySelector("[data-place]");
    this.button = root.querySelector("[data-play]");
    this.speed = root.querySelector("[data-speed]");
    this.axes = root.querySelector("[data-axis]");
    this.said = root.querySelector("[data-said]");
    for (const speed of SPEEDS) {
      const option = element("option", "", `${speed}×`);
      option.value = String(speed);
      option.selected = speed === 1;
      this.speed.append(option);
    }
    this.slider.addEventListener("input", () => this.jump(Number(this.slider.value)));
    this.button.addEventListener("click", () => this.toggle());
    root.querySelector("[data-back]").addEventListener("click", () => this.step(-1));
    root.querySelector("[data-on]").addEventListener("click", () => this.step(1));
    this.axes.addEventListener("change", () => this.setAxis(this.axes.value));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show these runs, from their beginning. */
  set(runs) {
    // One prompt for all is shown once, and leaves room for what differs.
    const prompt = runs[0]?.head.prompt ?? "";
    const same = prompt !== "" && runs.length > 1 && runs.every(({ head }) => head.prompt === prompt && !head.suffix);
    this.prompt.hidden = !same;
    this.prompt.querySelector("div").textContent = same ? visible(prompt) : "";
    this.lanes = runs.map((run, number) => new Lane(run, number, !same));
    this.holder.replaceChildren(...this.lanes.map((lane) => lane.root));
    this.timed = runs.length > 0 && runs.every((run) => run.steps.every((step) => typeof step.seconds === "number"));
    this.axes.querySelector("[value=seconds]").disabled = !this.timed;
    if (!this.timed) this.axis = this.axes.value = "step";
    this.stop();
    this.go(0);
  }

  /** Runs will grow: show their ends from now on, until somebody looks elsewhere. */
  follow() {
    this.live = this.following = true;
  }

  /** Runs have grown. However often that is said, they are drawn once a frame. */
  grown() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.go(this.following ? this.end : this.at);
    });
  }

  /** Runs have ended. */
  settle() {
    this.live = false;
    this.go(this.following ? this.end : this.at);
  }

  get end() {
    return Math.max(0, ...this.lanes.map((lane) => lane.run.last(this.axis)));
  }

  setAxis(axis) {
    // Stay where the run that is furthest stands.
    const lead = this.lanes.map((lane) => lane.run.steps[lane.run.at(this.axis, this.at)]).filter(Boolean);
    this.axis = axis;
    this.go(Math.max(0, ...lead.map((step) => step[axis])));
  }

  /** Move to a place on the axis, and show it. */
  go(value) {
    this.at = Math.min(Math.max(value, 0), this.end);
    const whole = this.axis === "step";
    const name = whole ? `forward ${Math.floor(this.at)} of ${this.end}` : `${this.at.toFixed(2)} s of ${this.end.toFixed(2)} s`;
    this.slider.max = String(whole ? this.end : Math.ceil(this.end * 100) / 100);
    this.slider.step = whole ? "1" : "0.01";
    this.slider.value = String(this.at);
    this.slider.setAttribute("aria-valuetext", name);
    this.place.textContent = name;
    const told = [name];
    for (const lane of this.lanes) {
      const state = stateAt(lane.run, lane.run.at(this.axis, this.at));
      lane.show(state, this.end ? Math.min(this.at, lane.run.last(this.axis)) / this.end : 0);
      told.push(`${lane.run.title}: ${summary(lane.run, state)}`);
    }
    // A screen reader is told of every place but those that are only passed.
    if (!this.playing && !this.live) this.said.textContent = told.join(". ");
  }

  /** To the next place, or the one before, where anything changes. */
  step(direction) {
    this.stop();
    const places = new Set([0, ...this.lanes.flatMap((lane) => lane.run.steps.map((step) => step[this.axis]))]);
    const sorted = [...places].sort((a, b) => a - b);
    const next = direction > 0 ? sorted.find((place) => place > this.at) : sorted.findLast((place) => place < this.at);
    if (next !== undefined) this.go(next);
  }

  toggle() {
    if (this.playing) {
      this.stop();
      this.go(this.at);
      return;
    }
    if (this.at >= this.end) this.go(0);
    this.following = false;
    this.playing = true;
    this.label("Pause", "⏸");
    let before = performance.now();
    const tick = (now) => {
      if (!this.playing) return;
      const rate = Number(this.speed.value) * (this.axis === "step" ? FORWARDS_PER_SECOND : 1);
      const reached = this.at + (rate * (now - before)) / 1000;
      before = now;
      if (reached >= this.end) this.stop();
      this.go(reached);
      if (this.playing) requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  stop() {
    this.playing = this.following = false;
    this.label("Play", "▶");
  }

  label(name, sign) {
    this.button.textContent = sign;
    this.button.setAttribute("aria-label", name);
    this.button.title = `${name} (space)`;
  }

  faster(by) {
    this.speed.selectedIndex = Math.min(Math.max(this.speed.selectedIndex + by, 0), SPEEDS.length - 1);
  }

  /** Keys work everywhere but where they are typed, or mean something of their own. */
  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, textarea, dialog")) return;
    if (event.key === " " && event.target.closest("button, summary, a")) return;
    const doing = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      Home: () => this.jump(0),
      End: () => this.jump(this.end),
      "+": () => this.faster(1),
      "-": () => this.faster(-1),
      t: () => turn(),
    }[event.key];
    if (doing) {
      event.preventDefault();
      doing();
    }
  }

  jump(place) {
    this.stop();
    this.go(place);
  }
}

/** The other theme. */
export function turn() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme ?? (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
}

/** Let the theme button of a page turn it. */
export function themed(button) {
  button.addEventListener("click", turn);
}
