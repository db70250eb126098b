// What happened in a generation, step by step: events in, the state after any step out. No DOM here.
//
// Events are the lines of a trace (docs/viewer.md) or the data of a server's stream (docs/server.md): both tell of a
// step by the same frame and the same token details.

/** One generation: `head` as its start said, `steps` in order, `end` once it has come. */
export class Run {
  constructor(head) {
    this.head = head;
    this.steps = [];
    this.end = null;
  }

  get title() {
    return this.head.title || this.head.strategy || this.head.mode || "generation";
  }

  /** Add what a step brought: {step, seconds, text, tokens, frame, nfe, prefills}. */
  add(step) {
    const before = this.steps.at(-1);
    this.steps.push({ ...step, shown: pieces(step), count: (before?.count ?? 0) + step.tokens.length });
  }

  /** Index of the last step up to a forward ("step") or a time ("seconds"); -1 is before the first. */
  at(axis, value) {
    let index = -1;
    while (index + 1 < this.steps.length && this.steps[index + 1][axis] <= value) index++;
    return index;
  }

  /** The last value that a step has on an axis. */
  last(axis) {
    return this.steps.at(-1)?.[axis] ?? 0;
  }
}

/** The tokens of a step as they are shown: one by one where their texts make up the step's text, else as a whole
 * (half characters and what may begin a stop string are held back, special tokens are left out). */
function pieces(step) {
  const joined = step.tokens.map((token) => token.token).join("");
  if (joined === step.text) return step.tokens;
  if (!step.text) return [];
  return [{ ...(step.tokens.at(-1) ?? {}), token: step.text }];
}

/** What to show after step number `index` of a run:
 * tokens   committed ones, each with `fresh` (by this step) and `accepted` (it was drafted, and a verifier agreed)
 * rejected drafted tokens that this step's verifier did not take
 * slots    the open block or draft, without what is committed; `taken` is a token that this step took back
 * masked   how many of the slots are unknown */
export function stateAt(run, index) {
  const steps = run.steps.slice(0, index + 1);
  const now = steps.at(-1);
  const accepted = now?.frame?.checked?.accepted ?? 0;
  const tokens = steps.flatMap((step) =>
    step.shown.map((token, place) => ({ ...token, fresh: step === now, accepted: step === now && place < accepted })),
  );
  const rejected = now?.frame?.checked?.draft.slice(accepted) ?? [];
  const slots = openSlots(steps, now);
  const masked = slots.filter((slot) => slot.state === "masked").length;
  const ended = run.end !== null && index === run.steps.length - 1;
  return { now, tokens, rejected, slots: ended ? [] : slots, masked: ended ? 0 : masked, ended };
}

function openSlots(steps, now) {
  const place = steps.findLastIndex((step) => step.frame);
  if (place < 0) return [];
  const frame = steps[place].frame;
  // A stream without token details does not say how many tokens its text is; committed slots are then left out.
  const counted = steps.every((step) => step.tokens.length || !step.text);
  const certain = frame.prompt_tokens + now.count;
  const before = new Map();
  if (steps[place] === now) {
    const earlier = steps.slice(0, place).findLast((step) => step.frame)?.frame;
    for (const slot of earlier?.slots ?? []) before.set(slot.position, slot);
  }
  return frame.slots
    .filter((slot) => slot.position >= certain && slot.state !== "frozen" && (counted || slot.state !== "committed"))
    .map((slot) => {
      const old = before.get(slot.position);
      const taken = slot.state === "masked" && old && old.revisions < slot.revisions ? old.token : null;
      return { ...slot, taken, fresh: slot.step === now.step && slot.state !== "masked" };
    });
}

/** Turns events into runs. Events of unknown kinds are passed over; `failure` is an error that a stream ended with. */
export class Reader {
  constructor() {
    this.runs = [];
    this.open = new Map();
    this.failure = null;
  }

  /** seconds: when an event came, for those that do not say. head: of a run that has no start of its own. */
  take(event, seconds = null, head = {}) {
    if (event.error) this.failure = event.error;
    else if (event.object === "unmask.trace") this.open = new Map();
    else if (event.object === "unmask.start") this.begin(event.index, event);
    else if (event.object === "unmask.step") this.open.get(event.index)?.add({ ...event, tokens: event.token_details });
    else if (event.object === "unmask.end") this.finish(event.index, event);
    else if (event.object === "unmask.frame") this.frame(event.frame, seconds, { model: event.model, ...head });
    else if (event.choices) this.chunk(event, seconds, { model: event.model, ...head });
  }

  begin(index, head) {
    const run = new Run(head);
    this.runs.push(run);
    this.open.set(index, run);
    return run;
  }

  finish(index, end) {
    const run = this.open.get(index);
    if (run) run.end = end;
  }

  run(index, head) {
    return this.open.get(index) ?? this.begin(index, head);
  }

  frame(frame, seconds, head) {
    this.run(frame.index, head).add({ step: frame.step, seconds, text: "", tokens: [], frame });
  }

  /** A chunk of a stream. The text of a step comes after its frame, and is joined to it. */
  chunk(event, seconds, head) {
    for (const choice of event.choices) {
      const run = this.run(choice.index, head);
      const text = choice.delta?.content ?? choice.text ?? "";
      const tokens = choice.token_details ?? [];
      if (text || tokens.length) {
        const last = run.steps.at(-1);
        const joins = last?.frame && !last.tokens.length && !last.text;
        if (joins) run.steps.pop();
        const step = joins ? last.step : Math.max((last?.step ?? 0) + 1, tokens.at(-1)?.step ?? 0);
        run.add({ step, seconds, text, tokens, frame: joins ? last.frame : null });
      }
      if (choice.finish_reason) run.end = { ...run.end, finish_reason: choice.finish_reason, seconds };
    }
    const details = event.usage?.completion_tokens_details;
    if (details && this.open.size === 1) {
      // Counts of several choices come as one sum.
      const stats = { nfe: details.forwards, prefills: details.prefill_forwards, tokens: event.usage.completion_tokens };
      for (const run of this.open.values()) {
        run.end = { ...run.end, stats: { ...stats, tpf: details.tpf, acceptance_length: details.acceptance_length } };
        run.head = { ...run.head, strategy: details.strategy };
      }
    }
  }
}
