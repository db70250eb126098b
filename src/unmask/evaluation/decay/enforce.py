"""Ways to have rules obeyed: asking alone, the best of several answers, masks, an oracle, patches.

Each gets a model, a task under some rules, and options of `LM.generate` for the mode; what it spent is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.evaluation.decay.blame import RulesOracle
from unmask.evaluation.decay.patch import patch
from unmask.evaluation.decay.tasks import Judged, Task
from unmask.lm import LM, Generation
from unmask.lm.result import Numbers

# Best-of-n and patching may spend the forwards of so many answers; re-masking writes a block so often, at most.
ROUNDS = 4
TEMPERATURE = 0.8  # of all answers but the first, which is greedy


@dataclass(frozen=True, slots=True)
class Answer:
    """text: the one that counts. tokens, prefill_tokens, prefills, nfe: of all that were written for it. tried:
    how many answers, or fillings of one."""

    text: str
    judged: Judged
    tokens: int
    prefill_tokens: int
    prefills: int
    nfe: int
    tried: int


Options = Mapping[str, Any]
Enforcement = Callable[[LM, Task, Sequence[str], int, Options], Answer]


def written(lm: LM, task: Task, active: Sequence[str], padding: int, options: Options) -> Generation:
    return lm.generate(task.prompt(active, padding), max_tokens=task.max_tokens, **options)


def answer_of(task: Task, active: Sequence[str], all_of: Sequence[Generation]) -> Answer:
    """The generation that obeys most rules, the first among equals. Assertions have no say: they are what counts."""
    obeyed = [sum(task.kept(one.text, active).values()) for one in all_of]
    return counted(task, active, all_of[obeyed.index(max(obeyed))].text, [one.stats for one in all_of])


def counted(task: Task, active: Sequence[str], text: str, spent: Sequence[Numbers], scored: int = 0) -> Answer:
    """scored: forwards beside those of `spent`."""
    return Answer(
        text,
        task.judge(text, active),
        sum(one.tokens for one in spent),
        sum(one.prefill_tokens for one in spent),
        sum(one.prefills for one in spent),
        sum(one.nfe for one in spent) + scored,
        len(spent),
    )


def prompt_only(lm: LM, task: Task, active: Sequence[str], padding: int, options: Options) -> Answer:
    return answer_of(task, active, [written(lm, task, active, padding, {**options, "stop": task.stops})])


def best_of_n(lm: LM, task: Task, active: Sequence[str], padding: int, options: Options) -> Answer:
    """Greedy first, then sampled, until one obeys all rules or the next would likely be over ROUNDS times the forwards
    of the first."""
    options = {**options, "stop": task.stops}
    made = [written(lm, task, active, padding, options)]
    first = forwards(made)
    while not all(task.kept(made[-1].text, active).values()):
        if forwards(made) + first > ROUNDS * first:
            break
        made.append(written(lm, task, active, padding, {**options, "temperature": TEMPERATURE, "seed": len(made)}))
    return answer_of(task, active, made)


def forwards(made: Sequence[Generation]) -> int:
    """Without prefills, whose number depends on what the engine still has of the prompt."""
    return sum(one.stats.nfe for one in made)


def masked(lm: LM, task: Task, active: Sequence[str], padding: int, options: Options) -> Answer:
    """The form of an answer, and the rules that a grammar can hold, are enforced token by token."""
    constraint = {**options, "constraints": [task.grammar(active)]}
    return answer_of(task, active, [written(lm, task, active, padding, constraint)])


def remasked(lm: LM, task: Task, active: Sequence[str], padding: int, options: Options) -> Answer:
    """An oracle looks at what was written, and what it blames is written anew, ROUNDS - 1 times at most: within a block
    in fastdiffuser, by going back in the other modes."""
    asked = {**options, "stop": task.stops, **with_oracle(task, active)}
    return answer_of(task, active, [written(lm, task, active, padding, asked)])


def masked_and_remasked(lm: LM, task: Task, active: Sequence[str], padding: int, options: Options) -> Answer:
    asked = {**options, **with_oracle(task, active)}
    asked["constraints"] = [task.grammar(active), *asked.get("constraints", ())]
    return answer_of(task, active, [written(lm, task, active, padding, asked)])


def patched(lm: LM, task: Task, active: Sequence[str], padding: int, options: Options) -> Answer:
    """A whole answer, then the lines of it that break rules filled again, by ROUNDS - 1 times its forwards at most."""
    first = written(lm, task, active, padding, {**options, "stop": task.stops})
    budget = (ROUNDS - 1) * forwards([first])
    done = patch(lm, task, active, task.prompt(active, padding), first.text, budget, options)
    return counted(task, active, done.text, [first.stats, *done.spent], done.scored)


def with_oracle(task: Task, active: Sequence[str]) -> dict[str, Any]:
    """Options of `LM.generate`; none without a rule to look for."""
    if not active:
        return {}
    return {"constraints": [RulesOracle(task, tuple(active))], "constraint_refinement_rounds": ROUNDS - 1}


ENFORCEMENTS: dict[str, Enforcement] = {
    "prompt": prompt_only,
    "best-of-n": best_of_n,
    "mask": masked,
    "remask": remasked,
    "mask+remask": masked_and_remasked,
    "patch": patched,
}
