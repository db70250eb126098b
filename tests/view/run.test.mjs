// The pages' own logic under node: events become runs, runs become states, a form becomes a request.

import assert from "node:assert/strict";
import { test } from "node:test";

const page = new URL("../../src/unmask/view/page/", import.meta.url);
const { Reader, stateAt } = await import(new URL("run.mjs", page));
const { EventParser, requestsOf } = await import(new URL("ask.mjs", page));
const { shade, visible } = await import(new URL("lane.mjs", page));

const slot = (position, token, state, more = {}) => ({
  position, id: 1, token, state, confidence: 0.5, step: 1, revisions: 0, ...more,
});
const frame = (step, slots, checked) => ({ version: 1, index: 0, step, prompt_tokens: 3, dropped: 0, slots, checked });
const token = (text, step, more = {}) => ({ id: 1, token: text, step, confidence: null, revisions: 0, ...more });
const step = (number, text, tokens, made = null) => ({
  object: "unmask.step", index: 0, seconds: number / 10, step: number, nfe: number, prefills: 0, rows: 1,
  text, token_details: tokens, frame: made,
});

function run(...events) {
  const reader = new Reader();
  reader.take({ object: "unmask.start", index: 0, title: "one", prompt_tokens: 3 });
  for (const event of events) reader.take(event);
  return reader.runs[0];
}

const words = (tokens) => tokens.map((one) => one.token);

test("masks are filled, taken back and committed", () => {
  const made = run(
    step(1, "", [], frame(1, [slot(3, "?", "masked"), slot(4, "b", "tentative")])),
    step(2, "", [], frame(2, [slot(3, "a", "tentative", { step: 2 }), slot(4, "?", "masked", { revisions: 1 })])),
    step(3, "aB", [token("a", 2), token("B", 3)], frame(3, [slot(3, "a", "committed"), slot(4, "B", "committed", { step: 3 })])),
    { object: "unmask.end", index: 0, finish_reason: "stop" },
  );
  const first = stateAt(made, 0);
  assert.deepEqual([first.masked, words(first.slots), first.ended], [1, ["?", "b"], false]);
  const second = stateAt(made, 1);
  assert.deepEqual(second.slots.map((one) => one.taken), [null, "b"]);
  assert.deepEqual(second.slots.map((one) => one.fresh), [true, false]);
  const third = stateAt(made, 2);
  assert.deepEqual([words(third.tokens), third.slots, third.masked, third.ended], [["a", "B"], [], 0, true]);
  assert.deepEqual(stateAt(made, -1).tokens, []);
});

test("a verifier's accepted prefix and what it rejected", () => {
  const draft = ["x", "y", "z"].map((text, place) => ({ position: 4 + place, id: place, token: text }));
  const made = run(
    step(1, "s", [token("s", 1)], frame(1, [slot(4, "x", "tentative"), slot(5, "y", "tentative"), slot(6, "z", "tentative")])),
    step(2, "xq", [token("x", 2), token("q", 2)], frame(2, [slot(6, "w", "tentative")], { accepted: 1, draft })),
  );
  const state = stateAt(made, 1);
  assert.deepEqual(state.tokens.map((one) => [one.token, one.fresh, one.accepted]), [["s", false, false], ["x", true, true], ["q", true, false]]);
  assert.deepEqual(words(state.rejected), ["y", "z"]);
  assert.deepEqual(words(state.slots), ["w"]);
  assert.deepEqual(stateAt(made, 0).rejected, []);
});

test("half characters, special tokens and held back text", () => {
  const made = run(
    step(1, "", [token("\ufffd", 1)]),
    step(2, "é", [token("\ufffd", 2)]),
    step(3, "end", [token("end", 3), token("<|im_end|>", 3)]),
  );
  assert.deepEqual(words(stateAt(made, 0).tokens), []);
  assert.deepEqual(words(stateAt(made, 1).tokens), ["é"]);
  assert.equal(words(stateAt(made, 2).tokens).join(""), "éend");
});

test("places along forwards and along time", () => {
  const made = run(step(2, "a", [token("a", 2)]), step(5, "b", [token("b", 5)]));
  assert.deepEqual([0, 2, 4, 5, 9].map((at) => made.at("step", at)), [-1, 0, 0, 1, 1]);
  assert.deepEqual([0.1, 0.2, 0.49, 0.5].map((at) => made.at("seconds", at)), [-1, 0, 0, 1]);
  assert.equal(made.last("step"), 5);
});

test("a trace that begins anew has runs of its own", () => {
  const reader = new Reader();
  for (const name of ["one", "two"]) {
    reader.take({ object: "unmask.trace", version: 1 });
    reader.take({ object: "unmask.start", index: 0, title: name });
    reader.take(step(1, name, [token(name, 1)]));
    reader.take({ object: "something.new", index: 0 });
  }
  assert.deepEqual(reader.runs.map((one) => [one.title, one.steps.length]), [["one", 1], ["two", 1]]);
});

test("a server's stream tells the same as a trace", () => {
  const chunk = (content, details, finish = null) => ({
    object: "chat.completion.chunk", model: "m",
    choices: [{ index: 0, delta: { content }, token_details: details, finish_reason: finish }],
  });
  const reader = new Reader();
  const events = [
    { choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] },
    { object: "unmask.frame", choices: [], frame: frame(1, [slot(3, "a", "committed"), slot(4, "?", "masked")]) },
    chunk("a", [token("a", 1)]),
    { object: "unmask.frame", choices: [], frame: frame(2, [slot(3, "a", "committed"), slot(4, "b", "committed")]) },
    chunk("b", [token("b", 2)]),
    chunk("", [], "stop"),
    {
      choices: [],
      usage: {
        completion_tokens: 2,
        completion_tokens_details: { forwards: 2, prefill_forwards: 0, tpf: 1, acceptance_length: null, strategy: "fastdiffuser" },
      },
    },
  ];
  events.forEach((event, number) => reader.take(event, number));
  const [made] = reader.runs;
  assert.equal(reader.runs.length, 1);
  assert.deepEqual(made.steps.map((one) => [one.step, one.text, one.count]), [[1, "a", 1], [2, "b", 2]]);
  assert.deepEqual(stateAt(made, 0).slots.map((one) => one.state), ["masked"]);
  assert.deepEqual([made.end.finish_reason, made.end.stats.tpf, made.title], ["stop", 1, "fastdiffuser"]);
  reader.take({ error: { message: "no" } });
  assert.equal(reader.failure.message, "no");
});

test("a stream without token details shows its text, and only open slots", () => {
  const reader = new Reader();
  reader.take({ object: "unmask.frame", choices: [], frame: frame(1, [slot(3, "a", "committed"), slot(4, "?", "masked")]) });
  reader.take({ object: "text_completion", choices: [{ index: 0, text: "a", finish_reason: null }] });
  const state = stateAt(reader.runs[0], 0);
  assert.deepEqual([words(state.tokens), state.slots.map((one) => one.state)], [["a"], ["masked"]]);
});

const form = {
  kind: "chat", mode: "fastdiffuser", prompt: "hi", prefix: "", suffix: "", spec_variant: "quadspec", block_size: "8",
  confidence_threshold: "0.7", draft_block_size: "4", temperature: "0", max_tokens: "16", seed: " ", constraint: "", rule: "",
};

test("a form asks only for what its mode has", () => {
  const { route, body } = requestsOf(form)[0];
  assert.equal(route, "v1/chat/completions");
  assert.deepEqual(body.messages, [{ role: "user", content: "hi" }]);
  assert.deepEqual([body.block_size, body.confidence_threshold, body.temperature, body.max_tokens], [8, 0.7, 0, 16]);
  for (const name of ["spec_variant", "draft_block_size", "seed", "constraints"]) assert.ok(!(name in body), name);
  const spec = requestsOf({ ...form, mode: "self-speculation" })[0].body;
  assert.deepEqual([spec.spec_variant, spec.draft_block_size, spec.block_size], ["quadspec", 4, undefined]);
  assert.deepEqual(requestsOf({ ...form, mode: "all" }).map((one) => one.body.generation_mode), ["ar", "fastdiffuser", "self-speculation"]);
});

test("a gap has two sides, a constraint a rule", () => {
  const gap = requestsOf({ ...form, kind: "infill", prefix: "a(", suffix: ")" })[0];
  assert.deepEqual([gap.route, gap.body.prompt, gap.body.suffix, gap.body.fim_mode], ["v1/completions", "a(", ")", true]);
  const ruled = (constraint, rule) => requestsOf({ ...form, constraint, rule })[0].body.constraints;
  assert.deepEqual(ruled("regex", "a+"), [{ type: "regex", pattern: "a+" }]);
  assert.deepEqual(ruled("choice", "yes\nno\n"), [{ type: "choice", values: ["yes", "no"] }]);
  assert.deepEqual(ruled("json_schema", '{"type": "object"}'), [{ type: "json_schema", schema: { type: "object" } }]);
  assert.throws(() => ruled("json_schema", "{"), /not JSON/);
  assert.throws(() => ruled("regex", "  "), /empty/);
  assert.throws(() => requestsOf({ ...form, max_tokens: "many" }), /max_tokens must be a number/);
});

test("events come whole however they were cut", () => {
  const text = 'event: unmask.frame\ndata: {"a": 1}\n\n: keep-alive\n\ndata: {"b": "\\n"}\n\ndata: [DONE]\n\n';
  for (let size = 1; size <= text.length; size++) {
    const parser = new EventParser();
    const found = [];
    for (let at = 0; at < text.length; at += size) found.push(...parser.feed(text.slice(at, at + size)));
    assert.deepEqual(found, [{ a: 1 }, { b: "\n" }]);
  }
});

test("what cannot be seen is made visible", () => {
  assert.equal(visible("a\tb\nc"), "a\tb\nc");
  assert.equal(visible("\u0000\u001b[31m"), "␀␛[31m");
  assert.equal(visible("x\u202ey\u2066"), "x⟨202E⟩y⟨2066⟩");
  assert.deepEqual([-1, 0, 0.2, 0.99, 1].map(shade), ["shade0", "shade0", "shade1", "shade4", "shade4"]);
});
