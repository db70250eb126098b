"""Each algorithm as a plain loop over a model, as the papers print it: the specification of the strategies.

Every function gives (output ids, forwards that are not all prompt). Caches, plans and spans do not exist here, except
that a commit costs a forward of its own where it does not fit beside the next one (`pieces`).
"""

from __future__ import annotations

from tests.decoding.scripted import Script
from unmask.types import Diffusion, Ids, Request, Row, Speculation


def ended(request: Request, output: Ids) -> bool:
    stopped = bool(output) and output[-1] in request.stop_ids and len(output) > request.min_tokens
    return stopped or len(output) == request.max_tokens


def guesses(script: Script, request: Request, known: dict[int, int], unknown: Ids) -> dict[int, Row]:
    return {position: script.guess(request, known, unknown, position) for position in unknown}


def ar(request: Request, script: Script) -> tuple[Ids, int]:
    output: Ids = ()
    while not ended(request, output):
        output += (script.next_id(request, request.prompt + output),)
    return output, len(output) - 1  # the first comes with the prompt


def linearspec(request: Request, script: Script) -> tuple[Ids, int]:
    settings = request.settings
    assert isinstance(settings, Speculation)
    output: Ids = (script.next_id(request, request.prompt),)
    nfe = 0
    while not ended(request, output):
        first, draft = len(request.prompt + output) + 1, dict[int, int]()
        after = first + max(min(settings.draft_block_size, request.max_tokens - len(output)) - 2, 0)
        while len(draft) < after - first:
            # The first forward of a round reads AR's own token too; drafts begin behind the mask that stands for it.
            seen = request.prompt + output
            unknown = tuple(p for p in range(len(seen), after) if p not in draft)
            rows = {
                p: row
                for p, row in guesses(script, request, dict(enumerate(seen)) | draft, unknown).items()
                if p >= first
            }
            nfe += 1
            if len(seen) < first:
                output += (script.next_id(request, seen),)
                if ended(request, output):
                    return output, nfe
            surest = max(rows, key=lambda p: rows[p].prob)
            for position, row in rows.items():
                if row.prob >= settings.draft_threshold or position == surest or settings.draft_threshold == 0:
                    draft[position] = row.id
        nfe += 1
        for position in range(first, after + 1):
            output += (script.next_id(request, request.prompt + output),)
            if ended(request, output) or draft.get(position) != output[-1]:
                break
    return output, nfe


def quadspec(request: Request, script: Script) -> tuple[Ids, int]:
    settings = request.settings
    assert isinstance(settings, Speculation)
    output: Ids = ()
    draft: Ids = ()
    nfe = 0
    while not ended(request, output):
        room = request.max_tokens - len(output) - 1
        masks = min(settings.draft_block_size, room)
        nfe += bool(output) or masks > 1
        accepted, seen = 0, request.prompt + output
        output += (script.next_id(request, seen),)
        while not ended(request, output) and accepted < min(len(draft), room) and output[-1] == draft[accepted]:
            accepted += 1
            seen = request.prompt + output
            output += (script.next_id(request, seen),)
        # The group for this acceptance saw the accepted draft only; its first mask stands for the verifier's token.
        group = guesses(script, request, dict(enumerate(seen)), tuple(range(len(seen), len(seen) + masks)))
        draft = tuple(row.id for row in group.values())[1:]
    return output, nfe


def fastdiffuser(request: Request, script: Script) -> tuple[Ids, int]:
    settings, traits, prompt = request.settings, request.traits, request.prompt
    assert isinstance(settings, Diffusion)
    output: Ids = ()
    nfe = 0
    start = len(prompt)
    if traits.context == "block":
        start -= start % settings.block_size
    while not ended(request, output):
        ids = prompt + output
        end = min(start + settings.block_size, len(prompt) + request.max_tokens)
        placed = dict(enumerate(ids[start:], start))
        fixed = set(placed)
        revised = dict.fromkeys(range(start, end), 0)
        nfe += pieces(request) if output else 0
        if (settings.seed_first or traits.shift) and not placed and start:
            placed[start] = script.next_id(request, ids)
            fixed.add(start)
            nfe += bool(output)
        step = 0
        while True:
            stops = [p for p in sorted(placed) if is_stop(request, p, placed[p])]
            last = stops[0] if stops else end - 1
            placed = {p: token for p, token in placed.items() if p <= last}
            unknown = tuple(p for p in range(start, last + 1) if p not in placed)
            if not unknown:
                break
            after_stop = dict.fromkeys(range(last + 1, end), placed.get(last, -1))
            known = dict(enumerate(ids[:start])) | placed | after_stop
            rows = guesses(script, request, known, unknown)
            nfe += 1
            step += 1
            forced = step == settings.steps
            chosen = set(unknown) if forced else choose(settings, rows, step - 1, end - start)
            if settings.revision_threshold is not None and not forced:
                for position in sorted(set(placed) - fixed):
                    row = script.guess(request, known, unknown, position, placed[position])
                    if row.given_prob < settings.revision_threshold and revised[position] < settings.max_revisions:
                        del placed[position]
                        revised[position] += 1
            placed |= {position: rows[position].id for position in chosen}
        output += tuple(placed[p] for p in range(len(ids), last + 1))
        start = end
    return output, nfe


def is_stop(request: Request, position: int, token: int) -> bool:
    return token in request.stop_ids and position >= len(request.prompt) + request.min_tokens


def pieces(request: Request) -> int:
    """Forwards that the commit of a block needs beside the one it shares."""
    settings = request.settings
    assert isinstance(settings, Diffusion)
    whole = request.traits.context == "block" or settings.block_size <= request.prefill_chunk
    return 0 if whole else -(-settings.block_size // request.prefill_chunk) - 1


def choose(settings: Diffusion, rows: dict[int, Row], step: int, size: int) -> set[int]:
    """Which masked positions to place now."""
    if settings.sampler == "entropy":
        ranked = sorted(rows, key=lambda p: rows[p].entropy)
        # The joint entropy of independent picks is off by at most the sum of all entropies but the largest.
        sizes = [n for n in range(1, len(ranked) + 1) if bound(rows, ranked[:n]) <= settings.entropy_bound]
        return set(ranked[: max(sizes)])
    score = {p: row.prob - (row.second_prob if settings.sampler == "margin" else 0.0) for p, row in rows.items()}
    ranked = sorted(rows, key=lambda p: -score[p])
    if settings.confidence_threshold is None:
        steps = settings.steps or size
        return set(ranked[: max(1, size // steps + (step < size % steps))])
    return {ranked[0]} | {p for p in ranked if score[p] >= settings.confidence_threshold}


def bound(rows: dict[int, Row], positions: list[int]) -> float:
    entropies = [rows[p].entropy for p in positions]
    return sum(entropies) - max(entropies)
