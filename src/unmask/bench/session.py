"""One run: peers in turns on the same prompts, round after round, so that what disturbs the machine disturbs all alike.

Every sample is a plain dict; a peer that fails is left out from then on, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from unmask.bench.arrivals import ahead_from, decode_speed, percentile, waits
from unmask.bench.plan import AR, Caller, Cell, Prompt, Text
from unmask.bench.worker import PeerError

Sample = dict[str, Any]
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None: ...


@dataclass
class Session:
    """The peers that run, by the names of their loads, and why the others do not."""

    peers: dict[str, Caller]
    absent: dict[str, str] = field(default_factory=dict)
    progress: Progress = silent

    def ask(self, load: str, name: str, **arguments: Any) -> dict[str, Any] | None:
        """What a peer answers; None, and no more of that peer, where it fails."""
        if load not in self.peers:
            return None
        try:
            return self.peers[load].call(name, **arguments)
        except PeerError as error:
            self.absent[load] = str(error)
            del self.peers[load]
            return None


def prompts_of(ours: Caller, texts: Sequence[Text], count: int, tokens: int, room: int) -> list[Prompt]:
    """The first `count` texts that AR answers with a quarter of `tokens` or more before it ends by itself.

    Each is answered exactly that far by everyone: equal work, and no text beyond its natural end, where a model repeats
    itself and speculation looks better than it is. Where too few answers are that long, shorter ones are taken too.
    room: positions of the context; what does not fit is passed over. ValueError where nothing does.
    """
    long, short = list[Prompt](), list[Prompt]()
    for text in texts:
        if len(long) == count:
            break
        ids = ours.call("encode", text=text.text, chat=text.chat)["ids"]
        if len(ids) + tokens > room:
            continue
        natural = ours.call("natural", prompt=ids, tokens=tokens, stop=text.stop)["tokens"]
        kept = long if natural >= tokens / 4 else short
        kept.append(Prompt(text.kind, text.name, tuple(ids), max(natural, 2)))
    if not long and not short:
        raise ValueError(f"no prompt and {tokens} tokens fit the context of {room}")
    return (long + sorted(short, key=lambda prompt: -prompt.tokens))[:count]


def measure(
    session: Session, cells: Sequence[Cell], prompts: Mapping[str, Sequence[Prompt]], rounds: Sequence[int]
) -> list[Sample]:
    """A sample of each cell per kind and round. prompts: of each kind, one for each round; larger batches take the next
    ones, too, and begin again where there are no more."""
    found, total, done = list[Sample](), len(rounds) * len(prompts) * len(cells), 0
    for number in rounds:
        for place, (kind, pool) in enumerate(prompts.items()):
            shift = (number + place) % max(len(cells), 1)
            replies = list[tuple[Cell, Sample, dict[str, Any]]]()
            for cell in [*cells[shift:], *cells[:shift]]:  # nobody is always the first
                session.progress(f"round {number + 1}, {kind}: {cell.name}", done, total)
                done += 1
                chosen = [pool[(number + i) % len(pool)] for i in range(cell.batch)]
                reply = generate(session, cell, chosen)
                if reply is not None:
                    replies.append((cell, sample(cell, chosen[0], number, reply), reply))
            found += compared(replies)
    return found


def generate(session: Session, cell: Cell, prompts: Sequence[Prompt]) -> dict[str, Any] | None:
    ids = [list(prompt.ids) for prompt in prompts]
    return session.ask(cell.load, "generate", prompts=ids, tokens=prompts[0].tokens, **cell.way.options)


def sample(cell: Cell, prompt: Prompt, number: int, reply: Mapping[str, Any]) -> Sample:
    """speed: tokens per second after the first arrival (one request), or throughput (several). throughput: tokens over
    the whole time. Waits in seconds."""
    arrivals = reply["arrivals"]
    throughput = reply["tokens"] / reply["seconds"] if reply["seconds"] else 0.0
    found: Sample = {
        "load": cell.load,
        "way": cell.way.name,
        "batch": cell.batch,
        "kind": prompt.kind,
        "prompt": prompt.name,
        "round": number,
        "tokens": reply["tokens"],
        "seconds": reply["seconds"],
        "first_seconds": arrivals[0][0] if arrivals else reply["seconds"],
        "speed": decode_speed(arrivals) if cell.batch == 1 else throughput,
        "throughput": throughput,
    }
    if between := waits(arrivals):
        found |= {f"wait_p{round(100 * share)}": percentile(between, share) for share in (0.5, 0.9, 0.99)}
    if reply.get("nfe"):
        found["tpf"] = reply["later"] / reply["nfe"]
    if reply.get("rounds"):
        found["acceptance_length"] = reply["later"] / reply["rounds"]
    if "strategy" in reply:
        found["strategy"] = reply["strategy"]
    return found


def compared(replies: Sequence[tuple[Cell, Sample, Mapping[str, Any]]]) -> Iterator[Sample]:
    """The samples of one prompt, each beside AR of its own load and batch: whether the ids are the same, the share of
    AR's ids before the first difference, and from how many tokens on it was ahead of AR."""
    plain = {(cell.load, cell.batch): reply for cell, _, reply in replies if cell.way == AR}
    for cell, found, reply in replies:
        other = plain.get((cell.load, cell.batch))
        if other is not None and cell.way != AR and reply["ids"]:
            pairs = list(zip(reply["ids"], other["ids"], strict=True))
            found["same_as_ar"] = all(mine == theirs for mine, theirs in pairs)
            found["agreement_prefix"] = sum(map(shared, pairs)) / sum(len(theirs) for _, theirs in pairs)
            if cell.batch == 1 and reply["arrivals"] and other["arrivals"]:
                found["ahead_from"] = ahead_from(reply["arrivals"], other["arrivals"])
        yield found


def shared(pair: tuple[Sequence[int], Sequence[int]]) -> int:
    """Length of the common start."""
    return next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), min(map(len, pair)))


def concurrent(
    session: Session, cells: Sequence[Cell], pool: Sequence[Prompt], rounds: int, tokens: int
) -> list[Sample]:
    """Each cell's `batch` prompts one after the other and all at once, in turns: total tokens per second of both."""
    found = list[Sample]()
    for number in range(rounds):
        for i, cell in enumerate(cells):
            session.progress(f"round {number + 1}: {cell.name}", number * len(cells) + i, rounds * len(cells))
            chosen = [pool[(number + i) % len(pool)] for i in range(cell.batch)]
            same = [Prompt(one.kind, one.name, one.ids, tokens) for one in chosen]
            single = [generate(session, cell, [prompt]) for prompt in same]
            together = generate(session, cell, same)
            if together is None or any(reply is None for reply in single):
                continue
            alone = sum(reply["tokens"] for reply in single if reply) / sum(
                reply["seconds"] for reply in single if reply
            )
            throughput = together["tokens"] / together["seconds"]
            base = {"load": cell.load, "way": cell.way.name, "kind": "all", "round": number}
            found.append({**base, "batch": 1, "throughput": alone})
            found.append({**base, "batch": cell.batch, "throughput": throughput, "ratio": throughput / alone})
    return found


MEASURES = (
    "speed",
    "throughput",
    "first_seconds",
    "wait_p50",
    "wait_p90",
    "wait_p99",
    "tpf",
    "acceptance_length",
    "same_as_ar",
    "agreement_prefix",
    "ahead_from",
)


def medians(samples: Sequence[Sample]) -> list[Sample]:
    """Per load, way, batch and kind: the median of every measure that its samples have (of `same_as_ar` the mean)."""
    groups = dict[tuple[Any, ...], list[Sample]]()
    for one in samples:
        groups.setdefault(tuple(one[key] for key in ("load", "way", "batch", "kind")), []).append(one)
    return [summed(key, mine) for key, mine in groups.items()]


def summed(key: tuple[Any, ...], samples: Sequence[Sample]) -> Sample:
    found: Sample = {**dict(zip(("load", "way", "batch", "kind"), key, strict=True)), "samples": len(samples)}
    for measure in MEASURES:
        values = [one[measure] for one in samples if one.get(measure) is not None]
        if values and measure == "same_as_ar":
            found[measure] = sum(values) / len(values)
        elif values:
            found[measure] = median(values)
    return found
