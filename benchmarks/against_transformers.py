"""AR in unmask beside transformers' `generate`: prefill and decode tokens per second, peak memory, in one run.

Each measurement is a process of its own (so that peak memory is its own), the two peers in turns, three rounds.
Usage: python benchmarks/against_transformers.py [--json FILE]. Both read the same Hugging Face folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 512, 64, 3


def write_folder(folder: Path, dtype: str) -> None:
    """SmolLM2 as safetensors in `dtype`: what both peers load, so that neither is charged for reading GGUF."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    from unmask.model import store
    from unmask.model.checkpoint import open_checkpoint

    path = store.resolve("smollm2-135m")
    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    config.__dict__.pop("quantization_config", None)
    config.dtype = getattr(torch, dtype)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in open_checkpoint(path).tensors()}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name).save_pretrained(folder)


def prompt(vocab_size: int) -> list[int]:
    return [(7919 * i + 101) % (vocab_size - 100) + 50 for i in range(PROMPT_TOKENS)]


def run_ours(folder: str, dtype: str, exactness: str) -> dict[str, float]:
    from unmask import LM

    lm = LM.load(folder, dtype=dtype, exactness=exactness)  # type: ignore[arg-type]
    ids = prompt(lm.config.vocab_size)
    lm.generate(ids[:16], max_tokens=4, mode="ar", ignore_eos=True)
    found = lm.generate(ids, max_tokens=NEW_TOKENS + 1, mode="ar", ignore_eos=True)
    first = found.stats.first_token_seconds
    return {"prefill": PROMPT_TOKENS / first, "decode": NEW_TOKENS / (found.stats.seconds - first)}


def run_transformers(folder: str, dtype: str) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    ids = torch.tensor([prompt(model.config.vocab_size)])
    mask = torch.ones_like(ids)
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        model.generate(ids[:, :16], attention_mask=mask[:, :16], max_new_tokens=4, **settings)
        begin = time.perf_counter()
        model.generate(ids, attention_mask=mask, max_new_tokens=1, **settings)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS + 1, **settings)
        whole = time.perf_counter() - begin
    return {"prefill": PROMPT_TOKENS / first, "decode": NEW_TOKENS / (whole - first)}


def one(peer: str, folder: str, dtype: str) -> None:
    """Child process: measure one peer and print it."""
    if peer == "transformers":
        numbers = run_transformers(folder, dtype)
    else:
        numbers = run_ours(folder, dtype, peer.removeprefix("unmask "))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(numbers | {"peak_mb": peak}))


def measure() -> dict[str, Any]:
    peers = ("unmask fast", "unmask exact", "transformers")
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("float32", "bfloat16"):
            folder = str(Path(temporary) / dtype)
            command = [sys.executable, __file__, "--write", folder, "--dtype", dtype]
            subprocess.run(command, check=True, capture_output=True)
            found: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
            for _ in range(ROUNDS):
                for peer in peers:
                    command = [sys.executable, __file__, "--one", peer, "--folder", folder, "--dtype", dtype]
                    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    found[peer].append(json.loads(printed.splitlines()[-1]))
            for peer, results in found.items():
                middle = {key: round(median(result[key] for result in results), 1) for key in results[0]}
                rows.append({"peer": peer, "dtype": dtype} | middle)
                print(rows[-1], flush=True)
    return {
        "what": f"SmolLM2-135M, {PROMPT_TOKENS} prompt tokens, {NEW_TOKENS} new, greedy, batch 1, median of {ROUNDS}",
        "units": {"prefill": "tokens/s", "decode": "tokens/s", "peak_mb": "MiB of the whole process"},
        "machine": {"processor": cpu_name(), "threads": threads(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "transformers", "unmask")},
        "rows": rows,
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def threads() -> int:
    import torch

    return torch.get_num_threads()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "against_transformers.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_folder(Path(given.write), given.dtype)
    elif given.one:
        one(given.one, given.folder, given.dtype)
    else:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
