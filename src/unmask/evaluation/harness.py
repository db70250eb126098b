"""unmask as a model of EleutherAI's lm-evaluation-harness (the extra `lm-eval`): any of its tasks, in any of our modes.

    python -m unmask.evaluation.harness --model unmask --model_args pretrained=smollm2-135m,mode=ar --tasks ...

is the harness's own command line with this model known to it: it looks for models in no entry points (0.4.13), so
somebody has to import this module. Multiple-choice scores say in `get_model_info` how they were scored.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from unmask.evaluation.likelihood import bounded, scored
from unmask.lm import LM
from unmask.text import render_chat

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("lm-evaluation-harness is not installed: pip install 'unmask[lm-eval]'") from error

SCORES = ("ar", "nelbo")
DEFAULT_NEW_TOKENS = 256
# Of a task's generation settings -> our option; `do_sample` and `until` are read apart.
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "seed": "seed"}
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")


@register_model("unmask")
class Harness(TemplateLM):  # type: ignore[misc]
    """model_args: pretrained (a name that `LM.load` takes), adapter, dtype, device, exactness, mask_id as there;
    score: "ar" (exact) or "nelbo" (a bound, by `mc_samples` draws per block); all others are options of `LM.generate`.
    """

    def __init__(
        self,
        pretrained: str = "smollm2-135m",
        score: str = "ar",
        mc_samples: int = 16,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        exactness: Any = None,
        adapter: Any = None,
        mask_id: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        chosen = {"device": device, "dtype": dtype, "exactness": exactness, "mask_id": mask_id}
        self.lm = LM.load(pretrained, adapter=False if adapter == "none" else adapter, **chosen)
        self.score, self.mc_samples, self.options = score, int(mc_samples), options
        self.templated = False
        self.batch = int(batch_size) if str(batch_size).isdigit() else 8  # "auto" is a batch that always fits

    @property
    def eot_token_id(self) -> int:
        return self.lm.stop_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What an empty context becomes: the bos token, else the end token, as other models of the harness do."""
        own = self.lm.tokenizer.bos_id
        return self.eot_token_id if own is None else own

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return list(self.lm.tokenizer.encode(string) if add_special_tokens is False else self.lm.encode(string))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return [self.log_likelihood(context, continuation) for _, context, continuation in requests]

    def log_likelihood(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """(log-likelihood, greedy), the context cut from its left where both do not fit."""
        room = self.lm.config.max_position - len(continuation)
        context = tuple(context)[-room:] if room > 0 else ()
        if self.score == "nelbo":
            return bounded(self.lm, context, continuation, self.mc_samples)
        found = scored(self.lm, context, continuation)
        return sum(one.log_likelihood for one in found), all(one.greedy for one in found)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts: every token once, after as much of its text as the context holds."""
        found = list[float]()
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.lm.config.max_position - 1,
                context_len=1,
            )
            found.append(sum(self.log_likelihood(*make_disjoint_window(window))[0] for window in windows))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Batches through the engine, each request under its own settings."""
        texts = list[str]()
        for group in batches((request.args for request in requests), self.batch):
            streams = [self.stream(context, dict(settings)) for context, settings in group]
            texts += [self.lm.finish(stream).text for stream in streams]
        return texts

    def stream(self, context: str, settings: dict[str, Any]) -> Any:
        options = {**options_of_task(settings), **self.options}
        ids = self.lm.tokenizer.encode(context, special=True) if self.templated else self.lm.encode(context)
        ids = ids or (self.prefix_token_id,)
        room = self.lm.config.max_position - options["max_tokens"]
        if room < 1:
            raise ValueError(f"{options['max_tokens']} new tokens leave no room in {self.lm.config.max_position}")
        return self.lm.stream(ids[-room:], **options)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        self.templated = True  # from now on contexts bring their special tokens with them
        return render_chat(self.lm.template, chat_history, add_generation_prompt=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        return self.lm.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results: how likelihoods were scored, and how text was made."""
        traits = self.lm.traits
        return {
            "scored_by": "AR, exact" if self.score == "ar" else f"NELBO, {self.mc_samples} draws per block (a bound)",
            "options": self.options,
            "block_size": traits.block_size,
            "adapter": traits.draft_adapter,
        }


def options_of_task(settings: dict[str, Any]) -> dict[str, Any]:
    """Options of `LM.generate` for a task's generation settings; ValueError for one that we do not know."""
    until = settings.pop("until", None) or ()
    options: dict[str, Any] = {"stop": (until,) if isinstance(until, str) else tuple(filter(None, until))}
    lengths = [settings.pop(name) for name in LENGTHS if name in settings]
    options["max_tokens"] = int(lengths[0]) if lengths else DEFAULT_NEW_TOKENS
    sampled = settings.pop("do_sample", bool(settings.get("temperature")))
    for name, ours in SAMPLING.items():
        if (value := settings.pop(name, None)) is not None and sampled:
            options[ours] = value
    if settings:
        raise ValueError(
            f"the task sets {next(iter(settings))!r}, which unmask does not know; it knows {', '.join(SAMPLING)}"
        )
    return options


def batches(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    rest = iter(items)
    return iter(lambda: list(itertools.islice(rest, size)), [])


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
