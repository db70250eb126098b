"""unmask in lm-evaluation-harness, offline: local tasks on the tiny model, likelihoods that add up, batches."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from unmask import LM
from unmask.evaluation import likelihood
from unmask.evaluation.likelihood import bounded, drawn, scored


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32")


def test_the_bound_of_one_token_is_what_fastdiffuser_says(lm: LM) -> None:
    ids = lm.encode("the cat")
    done = lm.generate(ids, mode="fastdiffuser", max_tokens=1, logprobs=0, ignore_eos=True)
    total, greedy = bounded(lm, ids, done.token_ids, samples=3)
    assert greedy
    assert done.tokens[0].confidence is not None
    assert total == pytest.approx(math.log(done.tokens[0].confidence), abs=1e-4)
    assert not bounded(lm, ids, ((done.token_ids[0] + 1) % 200,))[1]


def test_the_bound_is_the_mean_over_all_masks(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every set of masks of every size in turn, the estimator is the order-agnostic bound by its definition."""
    context, block = lm.encode("the "), lm.encode("cat")
    every = [list(slots) for size in (1, 2, 3) for slots in itertools.combinations(range(3), size)]
    loss = {
        tuple(slots): [math.log(row.given_prob) for row in rows]
        for slots in every
        for rows in [denoised_alone(lm, context, block, slots)]
    }
    by_size = {size: [v for v in every if len(v) == size] for size in (1, 2, 3)}
    means = [sum(3 / size * sum(loss[tuple(v)]) for v in views) / len(views) for size, views in by_size.items()]
    # Three views of each size: 3, 3 and the one view thrice.
    views = [*by_size[1], *by_size[2], *by_size[3] * 3]
    monkeypatch.setattr(likelihood, "drawn", lambda *_: views)
    assert bounded(lm, context, block, samples=9)[0] == pytest.approx(sum(means) / 3, abs=1e-4)


def denoised_alone(lm: LM, context: tuple[int, ...], block: tuple[int, ...], slots: list[int]) -> list[Any]:
    with likelihood.memory(lm, len(context) + len(block)) as pages:
        list(likelihood.causal(lm, (*context, *block), 0, len(context), len(context), pages))
        return likelihood.denoised(lm, block, len(context), slots, pages)


def test_views_are_drawn_evenly() -> None:
    views = drawn(5, 5000, Random(0))
    sizes = [sum(len(view) == size for view in views) for size in range(1, 6)]
    assert sizes == pytest.approx([1000] * 5, abs=2), "one stratum a size"
    assert [sum(slot in view for view in views) for slot in range(5)] == pytest.approx([3000] * 5, rel=0.05)
    assert drawn(1, 4, Random(0)) == [[0]] * 4


def test_the_bound_goes_block_by_block(lm: LM) -> None:
    context, text = lm.encode("the"), lm.encode(" cat and the dog and the bird")[:20]
    size = lm.traits.block_size
    assert len(text) > 2 * size
    assert bounded(lm, context, text, seed=4) == bounded(lm, context, text, seed=4)
    assert bounded(lm, context, text, seed=4) != bounded(lm, context, text, seed=5)
    lm.engine.check()
    assert lm.engine.pages.in_use == 0


def task(folder: Path, name: str, rows: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
    return {"task": name, **data, **config}


ROWS: list[dict[str, Any]] = [
    {"question": "the cat", "answers": ["and", "or", "the dog"], "right": 1, "text": "the cat and the dog"}
] * 2


def test_local_tasks(lm: LM, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="the harness is in the extra `lm-eval`, which is not installed here")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval import simple_evaluate

    from unmask.evaluation.harness import Harness, options_of_task

    choice = {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "answers"}
    tasks = [
        task(tmp_path, "choice", ROWS, doc_to_target="right", **choice),
        task(tmp_path, "rolling", ROWS, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="text"),
        task(
            tmp_path, "writing", ROWS, output_type="generate_until", doc_to_text="{{question}}", doc_to_target="text",
            generation_kwargs={"until": ["\n"], "max_gen_toks": 5, "do_sample": False, "temperature": 0.7},
        ),
    ]  # fmt: skip
    arguments = {"pretrained": str(tiny_folder), "dtype": "float32", "mode": "self-speculation", "batch_size": 2}
    found = simple_evaluate(model="unmask", model_args=arguments, tasks=tasks, bootstrap_iters=0, log_samples=True)
    assert found is not None
    before = lm.encode("the cat")
    scores = [
        sum(one.log_likelihood for one in scored(lm, before, lm.encode(f"the cat {answer}")[len(before) :]))
        for answer in ROWS[0]["answers"]
    ]
    (sample, _) = found["samples"]["choice"]
    assert [resp[0][0] for resp in sample["resps"]] == pytest.approx(scores, abs=1e-3)
    assert found["results"]["choice"]["acc,none"] == float(scores.index(max(scores)) == 1)
    text = ROWS[0]["text"]
    whole = scored(lm, (lm.stop_ids[0],), lm.encode(text))
    bits = -sum(one.log_likelihood for one in whole) / math.log(2) / len(text)
    assert found["results"]["rolling"]["bits_per_byte,none"] == pytest.approx(bits, abs=1e-3)
    greedy = lm.generate("the cat", mode="ar", max_tokens=5, stop="\n").text
    assert [sample["resps"] for sample in found["samples"]["writing"]] == [[[greedy]]] * 2
    assert found["config"]["scored_by"] == "AR, exact"
    model = Harness(pretrained=str(tiny_folder), dtype="float32", score="nelbo", mc_samples=2)
    request = SimpleNamespace(args=("the cat", " and the"))
    assert model.loglikelihood([request])[0] == bounded(lm, lm.encode("the cat"), lm.encode(" and the"), 2)
    assert model.get_model_info()["scored_by"] == "NELBO, 2 draws per block (a bound)"
    long = SimpleNamespace(args=("the cat and the dog " * 40,))
    assert model.loglikelihood_rolling([long])[0] < 0, "longer than the context"
    assert options_of_task({"until": "x", "do_sample": True, "temperature": 0.5}) == {
        "stop": ("x",), "max_tokens": 256, "temperature": 0.5
    }  # fmt: skip
    with pytest.raises(ValueError, match="the task sets 'magic'"):
        options_of_task({"magic": 1})
    with pytest.raises(ValueError, match="score must be one of ar, nelbo"):
        Harness(pretrained=str(tiny_folder), score="x")
    assert model.apply_chat_template([{"role": "user", "content": "hi"}]).endswith("assistant\n")
