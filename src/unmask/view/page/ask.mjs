// From a filled form to the body of a request, and from the bytes of a reply to its events. No DOM here.

/** Modes that "all" stands for: the three side by side. */
export const THREE = ["ar", "fastdiffuser", "self-speculation"];

const ALWAYS = ["temperature", "max_tokens", "seed"];
// Options that only some modes have; the server refuses them elsewhere.
const OF_MODE = {
  fastdiffuser: ["block_size", "confidence_threshold"],
  "self-speculation": ["draft_block_size"],
  auto: ["draft_block_size"],
  ar: [],
};

/** The requests that a form asks for: [{route, body, head}]. values: the form's fields, all of them strings.
 * Throws an Error that says what is to be mended. */
export function requestsOf(values) {
  const modes = values.mode === "all" ? THREE : [values.mode];
  return modes.map((mode) => requestOf(values, mode));
}

function requestOf(values, mode) {
  const body = { stream: true, frames: true, return_token_details: true, stream_options: { include_usage: true } };
  body.generation_mode = mode;
  if (mode === "self-speculation" && values.spec_variant) body.spec_variant = values.spec_variant;
  for (const name of [...ALWAYS, ...OF_MODE[mode]]) {
    if (values[name]?.trim()) body[name] = number(name, values[name]);
  }
  const constraint = constraintOf(values);
  if (constraint) body.constraints = [constraint];
  const head = { title: body.spec_variant ?? mode, mode, strategy: body.spec_variant ?? mode };
  if (values.kind === "chat") {
    body.messages = [{ role: "user", content: values.prompt }];
    return { route: "v1/chat/completions", body, head: { ...head, prompt: `${values.prompt}\n` } };
  }
  if (values.kind === "infill") {
    Object.assign(body, { prompt: values.prefix, suffix: values.suffix, fim_mode: true });
    return { route: "v1/completions", body, head: { ...head, prompt: values.prefix, suffix: values.suffix } };
  }
  body.prompt = values.prompt;
  return { route: "v1/completions", body, head: { ...head, prompt: values.prompt } };
}

function number(name, text) {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Error(`${name} must be a number, got ${text}`);
  return value;
}

function constraintOf({ constraint, rule }) {
  if (!constraint) return null;
  if (!rule.trim()) throw new Error("the constraint is empty");
  if (constraint === "regex") return { type: "regex", pattern: rule };
  if (constraint === "choice") return { type: "choice", values: rule.split("\n").filter((line) => line !== "") };
  try {
    return { type: "json_schema", schema: JSON.parse(rule) };
  } catch (error) {
    throw new Error(`the JSON Schema is not JSON: ${error.message}`);
  }
}

/** Cuts the text of a stream into the data of its events, however it arrives. */
export class EventParser {
  constructor() {
    this.rest = "";
  }

  /** The events that `text` completes. */
  feed(text) {
    const parts = (this.rest + text).split("\n\n");
    this.rest = parts.pop();
    return parts
      .map((part) => part.split("\n").filter((line) => line.startsWith("data:")))
      .filter((lines) => lines.length)
      .map((lines) => lines.map((line) => line.slice(5).trimStart()).join("\n"))
      .filter((data) => data !== "[DONE]")
      .map((data) => JSON.parse(data));
  }
}
