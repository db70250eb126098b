"""Who is measured: this package, transformers and llama.cpp, each behind the same calls, each in a process of its own.

A peer takes ids and a number of tokens, decodes greedily and exactly that far, and says when tokens came.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from unmask.bench.gguf_copy import requantised
from unmask.bench.work import cache_bytes, forward, weight_bytes
from unmask.config import EngineConfig
from unmask.decoding.auto import Advice
from unmask.lm import LM, Generation, Piece
from unmask.lm.loading import load
from unmask.model import store

Reply = dict[str, Any]


class Peer(Protocol):
    """about: name and version of what runs. generate: prompts are decoded at once; see `reply`."""

    def about(self) -> Reply: ...
    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, **options: Any) -> Reply: ...


def reply(seconds: float, arrivals: Sequence[tuple[float, int]], tokens: int, ids: Sequence[Sequence[int]]) -> Reply:
    """seconds: until all prompts were answered. arrivals: of the first. tokens: of all. ids: where they are known."""
    return {
        "seconds": seconds,
        "arrivals": [list(pair) for pair in arrivals],
        "tokens": tokens,
        "ids": list(map(list, ids)),
    }


def peak_bytes() -> int:
    """The most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Ours:
    """This package. No prompt is remembered from one request to the next: prefill is part of what is measured."""

    def __init__(
        self,
        model: str,
        dtype: str | None = None,
        quantize: str | None = None,
        exactness: str | None = None,
        adapter: str | bool | None = None,
    ) -> None:
        self.before, self.rows = peak_bytes(), 0
        config = EngineConfig(exactness=exactness or "fast", prefix_reuse=False)  # type: ignore[arg-type]
        self.lm = LM(load(model, dtype=dtype, quantize=quantize, adapter=adapter or None, config=config))  # type: ignore[arg-type]
        self.dtype = str(self.lm.decoder.model.embed_tokens.weight.dtype).removeprefix("torch.")
        self.counts: list[list[float]] = []
        if self.lm.traits.mask_id is not None:
            self.lm.engine.measure_anew(self.lm.traits.draft_adapter)

    def about(self) -> Reply:
        traits = self.lm.traits
        return {
            "peer": "unmask",
            "version": version("unmask"),
            "dtype": self.dtype,
            "quantize": self.lm.quantize,
            "exactness": self.lm.engine.config.exactness,
            "drafts": traits.mask_id is not None,
            "trained": traits.trained,
            "max_position": self.lm.config.max_position,
            "draft_block_size": traits.draft_block_size or min(traits.block_size, 16),
            "forward_seconds": [list(pair) for pair in self.lm.engine.costs],
        }

    def encode(self, text: str, chat: bool = False) -> Reply:
        return {"ids": list(self.lm.encode_chat([{"role": "user", "content": text}]) if chat else self.lm.encode(text))}

    def natural(self, prompt: Sequence[int], tokens: int, stop: Sequence[str] = ()) -> Reply:
        """How many tokens AR answers with before it ends by itself, at most `tokens`."""
        return {"tokens": self.lm.generate(prompt, mode="ar", max_tokens=tokens, stop=tuple(stop)).stats.tokens}

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, **options: Any) -> Reply:
        before = list(self.lm.engine.experience)
        page = self.lm.engine.config.page_size
        self.rows = max(self.rows, sum(-(-(len(prompt) + tokens) // page) * page for prompt in prompts))
        begin = time.perf_counter()
        first, *others = [self.lm.stream(ids, max_tokens=tokens, ignore_eos=True, **options) for ids in prompts]
        came, done = list[tuple[float, int]](), list[Generation]()
        for event in first:
            if isinstance(event, Piece):
                came.append((time.perf_counter() - begin, len(event.tokens)))
            elif isinstance(event, Generation):
                done.append(event)
        done += [self.lm.finish(stream) for stream in others]
        seconds = time.perf_counter() - begin
        counts = accumulate(count for _, count in came)
        arrivals = [(when, count) for (when, _), count in zip(came, counts, strict=True) if count]
        stats = [one.stats for one in done]
        if arrivals and arrivals[-1][1] < stats[0].tokens:  # what ends in half a character
            arrivals.append((stats[0].seconds, stats[0].tokens))
        if len(prompts) == 1:
            self.learn(before)
        numbers = reply(seconds, arrivals, sum(one.tokens for one in stats), [one.token_ids for one in done])
        return numbers | {
            "strategy": done[0].strategy,
            "later": sum(one.tokens - one.prefill_tokens for one in stats),
            "nfe": sum(one.nfe for one in stats),
            "rounds": sum(one.rounds for one in stats),
        }

    def learn(self, before: Sequence[tuple[float, float]]) -> None:
        """Add up what the engine has just learned of draft slots; it halves what it knew (`Engine.learn`)."""
        for i, (won, tried) in enumerate(self.lm.engine.experience):
            old = before[i] if i < len(before) else (0.0, 0.0)
            self.counts += [[0.0, 0.0]] * (i + 1 - len(self.counts))
            self.counts[i] = [self.counts[i][0] + won - old[0] / 2, self.counts[i][1] + tried - old[1] / 2]

    def profile(self) -> Reply:
        """Share of the drafts in slot 1, 2, ... that were accepted, up to the first slot that was never tried."""
        shares = list[float]()
        for won, tried in self.counts:
            if tried < 1:
                break
            shares.append(min(max(won / tried, 0.0), 1.0))
        return {"profile": shares}

    def forwards(self, rows: Sequence[int], context: int) -> Reply:
        """Seconds of forwards of so many rows after `context` rows, and the bytes that the smallest of them reads."""
        work = forward(self.lm.config, self.dtype, self.lm.quantize, rows=min(rows), context=context)
        return {"seconds": [list(pair) for pair in self.lm.engine.timed(rows, kept=context)], "bytes": work.bytes}

    def memory(self) -> Reply:
        """Peak over what the process had before loading, beside the weights and the cache rows that were ever needed at
        a time. An adapter is not counted among the weights."""
        cache = cache_bytes(self.lm.config, self.dtype, self.rows)
        weights = weight_bytes(self.lm.config, self.dtype, self.lm.quantize)
        return {"peak": peak_bytes() - self.before, "weights": weights, "cache": cache}

    def advise(self, advice: Mapping[str, Any], keep: bool = False) -> Reply:
        """Give mode `auto` what was found; keep: write it down for later processes, too."""
        self.lm.engine.advice = Advice(**{**advice, "profile": tuple(advice["profile"])})
        if keep and self.lm.engine.known:
            self.lm.engine.known.advise(self.lm.engine.advice)
        return {}


class Transformers:
    """`generate` of transformers on the same weights, plain or with `prompt_lookup_num_tokens`."""

    def __init__(self, model: str, dtype: str = "bfloat16") -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from unmask.model.checkpoint import open_checkpoint

        source, number = store.resolve(model), getattr(torch, dtype)
        if source.suffix == ".gguf":
            config = AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name)
            config.__dict__.pop("quantization_config", None)
            self.model = AutoModelForCausalLM.from_config(config, dtype=number)
            self.model.load_state_dict({k: v.to(number) for k, v in open_checkpoint(source).tensors()}, strict=False)
            self.model.tie_weights()
        else:
            self.model = AutoModelForCausalLM.from_pretrained(source, dtype=number)
        self.model.eval()
        self.dtype = dtype

    def about(self) -> Reply:
        return {"peer": "transformers", "version": version("transformers"), "dtype": self.dtype}

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, **options: Any) -> Reply:
        import torch

        (prompt,) = prompts
        ids, clock = torch.tensor([list(prompt)]), Clock(len(prompt))
        with torch.inference_mode():
            found = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                streamer=clock,
                **options,
            )
        new = found[0, len(prompt) :].tolist()
        return reply(clock.seconds(), clock.arrivals, len(new), [new])


class Clock:
    """A streamer of transformers that notes when tokens come. It is given the prompt first."""

    def __init__(self, prompt: int) -> None:
        self.begin, self.count, self.arrivals = time.perf_counter(), -prompt, list[tuple[float, int]]()

    def put(self, tokens: Any) -> None:
        self.count += tokens.numel()
        if self.count > 0:
            self.arrivals.append((self.seconds(), self.count))

    def end(self) -> None: ...

    def seconds(self) -> float:
        return time.perf_counter() - self.begin


class Llama:
    """llama.cpp through xllamacpp, on the GGUF file or a requantised copy, with or without drafts from n-grams."""

    def __init__(self, model: str, kind: str | None = None, ngrams: bool = False, threads: int = 1) -> None:
        import xllamacpp

        source = store.resolve(model)
        if source.suffix != ".gguf":
            raise ValueError("llama.cpp needs a .gguf file")
        file = requantised(source, store.home() / "bench", kind) if kind else source
        settings = xllamacpp.CommonParams()
        settings.model.path = str(Path(file))
        settings.n_ctx, settings.n_parallel, settings.verbosity = 8192, 1, -1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        if ngrams:
            settings.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        self.server = xllamacpp.Server(settings)
        self.name = f"{kind or source.stem.rsplit('.', 1)[-1]}{', n-grams' if ngrams else ''}"

    def about(self) -> Reply:
        return {"peer": "llama.cpp", "version": version("xllamacpp"), "file": self.name}

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, **_: Any) -> Reply:
        (prompt,) = prompts
        came, begin = list[tuple[float, int]](), time.perf_counter()

        def took(chunk: dict[str, Any]) -> bool:
            # A chunk is what makes whole characters, the last one holds nothing: each says how many tokens there are.
            came.append((time.perf_counter() - begin, int(chunk["timings"]["predicted_n"])))
            return False

        asked = {"prompt": list(prompt), "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
        more = {"stream": True, "cache_prompt": False, "timings_per_token": True}
        self.server.handle_completions({**asked, **more}, took)
        if not came:
            raise RuntimeError("llama.cpp gave no answer")
        new = [pair for i, pair in enumerate(came) if not i or pair[1] > came[i - 1][1]]
        return reply(came[-1][0], new, came[-1][1], [])


class Machine:
    """The memory, measured in a process of its own so that no peer's peak holds what it takes."""

    def about(self) -> Reply:
        return {"peer": "memory"}

    def bandwidth(self) -> Reply:
        import torch

        from unmask.bench import machine

        return {"bandwidth": machine.bandwidth(torch.device("cpu"), machine.SIZE["cpu"])}


PEERS = {"unmask": Ours, "transformers": Transformers, "llama.cpp": Llama, "machine": Machine}
