"""The peers themselves, on tiny models: they answer exactly as far as asked, and say when tokens came."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gguf
import numpy as np
import pytest

from tests.model.test_gguf import metadata, write
from unmask.bench import peers
from unmask.bench.gguf_copy import requantised
from unmask.bench.peers import Clock, Llama, Ours, Transformers
from unmask.bench.worker import PeerError, Remote, serve
from unmask.decoding.auto import Advice
from unmask.lm import LM


@pytest.fixture(scope="module")
def ours(tiny_folder: Path) -> Ours:
    return Ours(str(tiny_folder), dtype="float32")


def test_ours_answers_exactly_so_far(ours: Ours, tiny_folder: Path) -> None:
    ids = ours.encode("the cat")["ids"]
    assert ids == list(LM.load(tiny_folder, dtype="float32").encode("the cat"))
    assert ours.encode("the", chat=True)["ids"] == list(ours.lm.encode_chat([{"role": "user", "content": "the"}]))
    found = ours.generate([ids], 30, mode="ar")
    assert found["ids"] == [list(ours.lm.generate(ids, mode="ar", max_tokens=30, ignore_eos=True).token_ids)]
    assert (found["tokens"], found["later"], found["nfe"]) == (30, 29, 29)
    times, counts = zip(*found["arrivals"], strict=True)
    assert list(times) == sorted(times)
    assert list(counts) == sorted(counts)
    assert counts[-1] == 30
    assert found["seconds"] >= times[-1]
    assert ours.natural(ids, 12)["tokens"] == ours.lm.generate(ids, mode="ar", max_tokens=12).stats.tokens


def test_many_at_once_are_counted_together(ours: Ours) -> None:
    prompts = [ours.encode(text)["ids"] for text in ("a", "the the", "b c")]
    found = ours.generate(prompts, 10, mode="ar")
    assert found["tokens"] == 30
    assert found["ids"] == [ours.generate([ids], 10, mode="ar")["ids"][0] for ids in prompts]
    ours.lm.engine.check()
    page = ours.lm.engine.config.page_size
    assert ours.rows >= 3 * page
    memory = ours.memory()
    assert memory["peak"] >= 0
    assert memory["cache"] == ours.rows * 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, sizes, bytes
    assert memory["weights"] > 4 * ours.lm.config.parameters * 0.9


def test_no_prompt_is_remembered(ours: Ours) -> None:
    """The second answer computes the prompt again: as many rows of prefill as the first."""
    ids = list(range(5, 205))
    rows = [ours.lm.generate(ids, mode="ar", max_tokens=2, ignore_eos=True).stats.rows for _ in range(2)]
    assert rows[0] == rows[1] >= 200


def test_the_profile_is_what_drafts_were_worth(tiny_folder: Path) -> None:
    peer = Ours(str(tiny_folder), dtype="float32")
    peer.lm.engine.experience, won = [], [0.0] * 8
    learn, total = peer.lm.engine.learn, [[0.0, 0.0] for _ in range(8)]

    def spy(state: Any) -> None:
        before = [list(pair) for pair in peer.lm.engine.experience]
        learn(state)
        for i, (new_won, new_tried) in enumerate(peer.lm.engine.experience):
            old = before[i] if i < len(before) else [0.0, 0.0]
            total[i][0] += new_won - old[0] / 2
            total[i][1] += new_tried - old[1] / 2
            won[i] = new_won

    peer.lm.engine.learn = spy  # type: ignore[method-assign]
    for text in ("the cat", "a", "b b b b"):
        peer.generate(
            [peer.encode(text)["ids"]],
            24,
            mode="self-speculation",
            spec_variant="adaptivespec",
            lookup=0,
            draft_block_size=4,
        )
    assert peer.counts == pytest.approx(np.array(total[: len(peer.counts)]))
    shares = peer.profile()["profile"]
    assert shares == pytest.approx([a / b for a, b in total[: len(shares)]], abs=1e-9)
    assert len(shares) == next((i for i, (_, tried) in enumerate(total) if tried < 1), 8)


def test_advice_is_given_and_kept(tiny_folder: Path) -> None:
    peer = Ours(str(tiny_folder), dtype="float32", exactness="exact")
    told = {"strategy": "linearspec", "draft_block_size": 4, "profile": [0.5], "ar_from": None}
    peer.advise(told)
    assert peer.lm.engine.advice == Advice("linearspec", 4, (0.5,))
    assert peer.generate([[5, 6, 7]], 6, mode="auto")["strategy"] == "linearspec"
    assert LM.load(tiny_folder, dtype="float32", exactness="exact").engine.advice is None
    peer.advise(told, keep=True)
    again = LM.load(tiny_folder, dtype="float32", exactness="exact")
    assert again.engine.advice == Advice("linearspec", 4, (0.5,))
    assert again.generate("the", mode="auto", max_tokens=6).strategy == "linearspec"


def test_forwards_and_what_they_read(ours: Ours) -> None:
    found = ours.forwards([1, 32], 64)
    assert [rows for rows, _ in found["seconds"]] == [1, 32]
    assert all(seconds > 0 for _, seconds in found["seconds"])
    more = ours.forwards([1], 128)["bytes"] - found["bytes"]
    assert more == 64 * 2 * 2 * 2 * 8 * 4
    about = ours.about()
    assert (about["drafts"], about["draft_block_size"], about["dtype"]) == (True, 8, "float32")
    assert len(about["forward_seconds"]) == 5


def test_transformers_writes_what_we_write(tiny_folder: Path, ours: Ours) -> None:
    peer = Transformers(str(tiny_folder), dtype="float32")
    ids = ours.encode("the cat")["ids"]
    mine = ours.generate([ids], 20, mode="ar")["ids"]
    for options in ({}, {"prompt_lookup_num_tokens": 4}):
        found = peer.generate([ids], 20, **options)
        assert found["ids"] == mine
        assert found["arrivals"][-1][1] == found["tokens"] == 20
        assert found["seconds"] >= found["arrivals"][-1][0] > found["arrivals"][0][0]
    assert peer.about()["peer"] == "transformers"


def test_a_clock_leaves_the_prompt_out() -> None:
    clock = Clock(3)
    for count in (3, 1, 2):
        clock.put(np.zeros(count).view(Sized))
    assert [count for _, count in clock.arrivals] == [1, 3]


class Sized(np.ndarray):
    def numel(self) -> int:
        return self.size


class FakeServer:
    """What xllamacpp has: a chunk where characters are whole (here: of every second token), one more that sums up."""

    asked: ClassVar[list[Any]] = []

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def handle_completions(self, asked: dict[str, Any], took: Callable[[dict[str, Any]], bool]) -> None:
        FakeServer.asked.append((self.settings, asked))
        for count in range(2, asked["max_tokens"] + 1, 2):
            assert not took({"choices": [{"text": "x"}], "timings": {"predicted_n": count}})
        took({"choices": [], "timings": {"predicted_n": asked["max_tokens"]}})


@pytest.fixture
def xllamacpp(monkeypatch: pytest.MonkeyPatch) -> None:
    def params() -> SimpleNamespace:
        parts = {name: SimpleNamespace() for name in ("model", "cpuparams", "cpuparams_batch", "speculative")}
        return SimpleNamespace(**parts)

    kinds = SimpleNamespace(COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE="simple")
    module = SimpleNamespace(Server=FakeServer, CommonParams=params, common_speculative_type=kinds)
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    FakeServer.asked.clear()


@pytest.fixture
def small_gguf(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    tensors = {
        "token_embd.weight": random.standard_normal((80, 64), dtype=np.float32),
        "output_norm.weight": random.standard_normal(64, dtype=np.float32),
    }
    settings = {**metadata(), "tokenizer.ggml.tokens": ["a", "b"], "general.file_type": 0}
    settings.pop("general.architecture")
    return write(tmp_path / "small.F32.gguf", "llama", tensors, settings)


def test_llama_cpp_is_asked_for_as_many_tokens(
    xllamacpp: None, small_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    peer = Llama(str(small_gguf), threads=3)
    found = peer.generate([[1, 2, 3]], 7, mode="ar")
    assert (found["tokens"], [count for _, count in found["arrivals"]], found["ids"]) == (7, [2, 4, 6, 7], [])
    assert [count for _, count in peer.generate([[1]], 4)["arrivals"]] == [2, 4]
    settings, asked = FakeServer.asked[0]
    assert (settings.cpuparams.n_threads, settings.model.path) == (3, str(small_gguf))
    assert asked == {
        "prompt": [1, 2, 3],
        "max_tokens": 7,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "cache_prompt": False,
        "timings_per_token": True,
    }
    assert peer.name == "F32"
    other = Llama(str(small_gguf), kind="Q8_0", ngrams=True)
    assert (other.name, other.server.settings.speculative.types) == ("Q8_0, n-grams", ["simple"])
    assert Path(other.server.settings.model.path) == tmp_path / "home" / "bench" / "small.F32.Q8_0.gguf"


def test_llama_cpp_needs_a_gguf_file(xllamacpp: None, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("llama.cpp needs a .gguf file")):
        Llama(str(tiny_folder))


def test_a_requantised_file_is_the_same_model(small_gguf: Path, tmp_path: Path) -> None:
    target = requantised(small_gguf, tmp_path / "more")
    old, new = gguf.GGUFReader(small_gguf), gguf.GGUFReader(target)
    assert [tensor.tensor_type.name for tensor in new.tensors] == ["Q8_0", "F32"]
    for one, other in zip(old.tensors, new.tensors, strict=True):
        mine, theirs = (gguf.dequantize(each.data, each.tensor_type) for each in (one, other))
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= np.abs(mine).max() / 127
    kept = {name: field.contents() for name, field in old.fields.items() if not name.startswith("GGUF.")}
    again = {name: field.contents() for name, field in new.fields.items() if not name.startswith("GGUF.")}
    assert again == kept | {"general.file_type": int(gguf.LlamaFileType.MOSTLY_Q8_0)}
    stamp = target.stat().st_mtime_ns
    assert requantised(small_gguf, tmp_path / "more").stat().st_mtime_ns == stamp


class Echo:
    def __init__(self, number: int) -> None:
        self.number = number

    def add(self, more: int) -> dict[str, Any]:
        if more < 0:
            raise ValueError("more must be 0 or more\nand more")
        return {"sum": self.number + more}


class Absent:
    def __init__(self) -> None:
        import a_package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401


def test_the_worker_answers_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS", {"echo": Echo, "absent": Absent})
    messages: list[Any] = [
        {"peer": "absent", "settings": {}},
        {"peer": "echo", "settings": {"number": 3}},
        {"call": "add", "with": {"more": 4}},
        {"call": "add", "with": {"more": -1}},
        {"call": "add", "with": {"more": 1}},
    ]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(message) + "\n" for message in messages)), answers)
    assert list(map(json.loads, answers.getvalue().splitlines())) == [
        {"error": "a_package_that_nobody_has is not installed"},
        {"ok": {}},
        {"ok": {"sum": 7}},
        {"error": "ValueError: more must be 0 or more"},
        {"ok": {"sum": 4}},
    ]


def test_a_process_of_its_own(tiny_folder: Path, ours: Ours) -> None:
    peer = Remote("unmask", {"model": str(tiny_folder), "dtype": "float32"}, threads=1)
    try:
        ids = peer.call("encode", text="the cat", chat=False)["ids"]
        assert (
            peer.call("generate", prompts=[ids], tokens=8, mode="ar")["ids"]
            == ours.generate([ids], 8, mode="ar")["ids"]
        )
        with pytest.raises(PeerError, match="mode must be one of"):
            peer.call("generate", prompts=[ids], tokens=8, mode="sideways")
        peer.process.kill()
        with pytest.raises(PeerError, match="the process ended: "):
            peer.call("about")
    finally:
        peer.close()
    assert peer.process.returncode is not None


def test_a_process_that_cannot_begin_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, begin = list[Any](), subprocess.Popen

    def spied(*arguments: Any, **options: Any) -> Any:
        made.append(begin(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", spied)
    for script, message in (
        ('read line; echo \'{"error": "llama is not installed"}\'; cat', "llama is not installed"),
        ("echo cannot >&2; exit 3", "the process ended: cannot"),
    ):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(PeerError, match=message):
            Remote("nobody", {}, threads=1)
    assert [process.returncode for process in made] == [0, 3]
