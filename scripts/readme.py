"""Fill the measured parts of README.md and docs/ from benchmarks/results/, so that no number there was typed by hand.

Usage: python scripts/readme.py [--check]. A part stands between <!-- name --> and <!-- /name -->; one whose results are
not there says so. Pictures are made by scripts/plots.py.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from unmask.evaluation.measures import SHARES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEFORE, CONTROL = "AR only", "more AR (control)"  # rows of small_conversion.json
CHANGE_ALLOWED = 0.03  # of AR perplexity (issue 3)


def demo() -> str:
    shown = (RESULTS / "demo.txt").read_text(encoding="utf-8").rstrip()
    # What the model writes may hold fences of its own.
    return f"````text\n$ unmask demo\n{shown}\n````"


def against_transformers() -> str:
    found = json.loads((RESULTS / "against_transformers.json").read_text(encoding="utf-8"))
    lines = [
        f"{found['what']}; {found['machine']['processor']}, {found['machine']['threads']} threads,"
        f" torch {found['versions']['torch']}, transformers {found['versions']['transformers']}.",
        "",
        "| dtype | | prefill tokens/s | decode tokens/s | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['dtype']} | {row['peer']} | {row['prefill']:.0f} | {row['decode']:.1f} | {row['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def times() -> str:
    found = json.loads((RESULTS / "times.json").read_text(encoding="utf-8"))
    return (
        f"From a fresh clone: `make demo` {found['demo_seconds']} s with the downloads,"
        f" `make test` {found['test_seconds']} s after that ({found['machine']})."
    )


def small_conversion() -> str:
    found = json.loads((RESULTS / "small_conversion.json").read_text(encoding="utf-8"))
    rows: dict[str, Any] = found["rows"]
    before, control = (rows[name]["ar_ppl"] if name in rows else None for name in (BEFORE, CONTROL))
    buckets = [bucket for bucket, _, _ in rows[BEFORE]["accuracy_by_ratio"]]
    heads = ["", "AR perplexity", "against before", "against the control", "NELBO, nats per token"]
    heads += [f"masked accuracy, {bucket if isinstance(bucket, str) else f'up to {bucket:g}'}" for bucket in buckets]
    lines = [table_row([*heads, "tokens per round"]), "|" + "---|" * (len(heads) + 1)]
    for name, row in rows.items():
        changes = ["" if name == BEFORE else percent(row["ar_ppl"], before)]
        changes += ["" if name in (BEFORE, CONTROL) else percent(row["ar_ppl"], control)]
        shares = [f"{share:.3f}" for _, share, _ in row["accuracy_by_ratio"]]
        figures = [f"{row['ar_ppl']:.2f}", *changes, f"{row['nelbo']:.3f}", *shares, f"{row['tokens_per_round']:.2f}"]
        lines.append(table_row([name, *figures]))
    tokens = found["steps"] * found["tokens_per_step"] / 1e6
    converted = {name: row["ar_ppl"] / (control or before) - 1 for name, row in rows.items()}
    kept = [name for name, change in converted.items() if name not in (BEFORE, CONTROL) and change <= CHANGE_ALLOWED]
    text = [
        f"{found['what']}: {found['ar_minutes']:g} minutes of AR, then {found['steps']} steps"
        f" ({tokens:.1f} million tokens) of each row, all measured on the same held-out files and masks."
        f" The control is as many more steps of AR alone. At most {100 * CHANGE_ALLOWED:.0f} % above the control:"
        f" {', '.join(kept) or 'none'}.",
        "",
        *lines,
    ]
    if (ROOT / "docs" / "images" / "small_conversion.png").exists():
        text += ["", "![acceptance by slot and masked accuracy by ratio](images/small_conversion.png)"]
    return "\n".join(text)


def percent(value: float, of: float | None) -> str:
    """By how much `value` is above `of`."""
    return "" if of is None else f"{100 * (value / of - 1):+.1f} %"


def table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def training_speed() -> str:
    found = json.loads((RESULTS / "training_speed.json").read_text(encoding="utf-8"))
    machine, versions = found["machine"], found["versions"]
    lines = [
        f"{found['what']}; {machine['processor']}, {machine['threads']} threads, torch {versions['torch']},"
        f" transformers {versions['transformers']}.",
        "",
        table_row(["", "clean tokens/s", "against plain AR", "against plain doubled", "peak memory, MiB"]),
        "|" + "---|" * 5,
    ]
    for row in found["rows"]:
        speed = f"{row['speed']:.0f} ({row['low']:.0f} to {row['high']:.0f})"
        ratios = [f"{row[key]:.2f}" for key in ("against_ar", "against_doubled")]
        lines.append(table_row([row["peer"], speed, *ratios, f"{row['peak_mb']:.0f}"]))
    return "\n".join(lines)


def serve_load() -> str:
    found = json.loads((RESULTS / "serve_load.json").read_text(encoding="utf-8"))
    machine, rounds = found["machine"], len(found["ar"]["ratios"])
    heads = ["", "engine alone, tokens/s", "over HTTP, tokens/s", "ratio", "first token, s", "between events, s"]
    lines = [
        f"{found['what']}, {found['dtype']}; {machine['cores']} cores, {machine['threads']} thread each,"
        f" torch {found['versions']['torch']}. Medians of {rounds} rounds in turns.",
        "",
        table_row(heads),
        "|" + "---|" * len(heads),
    ]
    for name in ("ar", "all modes"):
        row = found[name]
        rates = [f"{median(row[key]):.1f}" for key in ("engine_tokens_per_second", "http_tokens_per_second")]
        times = [row[key] for key in ("first_token_seconds", "between_events_seconds")]
        ratios = f"{median(row['ratios']):.3f} ({min(row['ratios']):.3f} to {max(row['ratios']):.3f})"
        lines.append(table_row([name, *rates, ratios, *(f"{t['p50']:.2f}, 95 %: {t['p95']:.2f}" for t in times)]))
    if soak := found.get("soak"):
        memory = [soak[f"memory_{quarter}_quarter_mb"] for quarter in ("second", "last")]
        lines += [
            "",
            f"Soak: {soak['clients']} clients for {soak['seconds']:.0f} s, all modes: {soak['streams']} streams,"
            f" {soak['left']} left by their clients, {soak['slow']} read slowly, {soak['errors']} errors. Memory in the"
            f" second quarter of the time {memory[0]:.0f} MB, in the last {memory[1]:.0f} MB; pages in use afterwards:"
            f" {soak['health_after']['pages_in_use']}.",
        ]
    return "\n".join(lines)


MEASURES = {
    "acceptance_length": "tokens per draft+verify round",
    "tpf": "tokens per forward",
    "same_as_ar": "ids equal to AR",
}


def starter() -> str:
    return drafts("starter.json")


def second_model() -> str:
    """The same tables, and how much both models repeat themselves under AR, since that is easy to draft."""
    text = [drafts("second_model.json")]
    for file in ("second_model.json", "starter.json"):
        found = json.loads((RESULTS / file).read_text(encoding="utf-8"))
        repeated = {kind: ways["ar"].get("repeated") for kind, ways in found["kinds"].items()}
        shares = [f"{kind} {figure('repeated', share['value'])}" for kind, share in repeated.items() if share]
        text.append(
            f"Share of AR's tokens that end a run of four which its text had before, {found['model']}:"
            f" {', '.join(shares)}."
        )
    return "\n".join(text)


def drafts(file: str) -> str:
    """The table of issue 4, then every way of every kind, then fastdiffuser by threshold."""
    found = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    kinds, settings, machine = found["kinds"], found["settings"], found["machine"]
    adapter = found["adapter"]
    text = [
        f"{found['model']}, {found['dtype']}, {found['exactness']},"
        f" {'adapter ' + adapter['name'] if adapter else 'no adapter'}; {settings['limit']} prompts of each kind, seed"
        f" {settings['seed']}, at most {settings['max_tokens']} tokens; {machine['processor']}, {machine['threads']}"
        f" threads, torch {found['versions']['torch']}; {found['date']}. Made by `{found['command']}`.",
        "",
    ]
    asked = dict[tuple[str, str], dict[str, dict[str, Any]]]()
    for row in found["targets"]:
        asked.setdefault((row["measure"], row["way"]), {})[row["kind"]] = row
    names = list(dict.fromkeys(row["kind"] for row in found["targets"]))
    text += [table_row(["found (at least)", *names]), "|" + "---|" * (len(names) + 1)]
    for (measure, way), row in asked.items():
        cells = [f"{figure(measure, row[k]['found'])} ({figure(measure, row[k]['target'])})" for k in names]
        text.append(table_row([f"{MEASURES[measure]}, {way}", *cells]))
    text += ["", *ways_table(kinds, ("acceptance_length", "tpf", "tokens_per_second", "same_as_ar"), diffusers=False)]
    text += ["", *ways_table(kinds, ("tpf", "agreement", "log_likelihood", "repeated"), diffusers=True)]
    return "\n".join(text)


def ways_table(kinds: dict[str, Any], measures: tuple[str, ...], *, diffusers: bool) -> list[str]:
    """Total over total with its interval, a row per kind and way; empty where no such way was run."""
    lines = list[str]()
    for kind, ways in kinds.items():
        if all(way == "ar" or way.startswith("fastdiffuser") != diffusers for way in ways):
            continue
        for way, numbers in ways.items():
            if way == "ar" or way.startswith("fastdiffuser") == diffusers:
                cells = [interval(measure, numbers.get(measure)) for measure in measures]
                lines.append(table_row([kind, way, *cells]))
    heads = ["kind", "way", *(measure.replace("_", " ").replace("ar", "AR") for measure in measures)]
    return [table_row(heads), "|" + "---|" * len(heads), *lines] if lines else []


def figure(measure: str, value: float) -> str:
    return f"{100 * value:.1f} %" if measure in (*SHARES, *FILLED, "fixed", "first", "new") else f"{value:.2f}"


def interval(measure: str, number: dict[str, Any] | None) -> str:
    if number is None:
        return ""
    value, low, high = (figure(measure, number[key]) for key in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"


def humaneval() -> str:
    """A row per run, of the files humaneval-*.json."""
    files = sorted(RESULTS.glob("humaneval-*.json"))
    if not files:
        raise FileNotFoundError(2, "nothing measured", "humaneval-*.json")
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    measures = ("passed", "tpf", "tokens_per_second")
    heads = ["model", "adapter", "strategy", "threshold", "tasks", "pass@1", "tokens per forward", "tokens/s"]
    lines = [table_row(heads), "|" + "---|" * len(heads)]
    for found in runs:
        decoding, adapter = found["decoding"], found["adapter"]
        threshold = (decoding["settings"] or {}).get("confidence_threshold", "")
        cells = [
            found["model"],
            adapter["name"] if adapter else "",
            decoding["strategy"],
            str(threshold),
            str(found["tasks"]),
        ]
        lines.append(table_row(cells + [interval(measure, found["results"].get(measure)) for measure in measures]))
    return "\n".join(lines)


def roofline() -> str:
    """A row per number of rows: what a forward has to read and to compute, its floor, and what it took."""
    found = json.loads((RESULTS / "roofline.json").read_text(encoding="utf-8"))
    (roof,), machine = found["roofs"], found["machine"]
    heads = ["rows", "MB moved", "GFLOP", "FLOP per byte", "floor, ms", "set by", "took, ms", "times the floor"]
    lines = [table_row(heads), "|" + "---|" * len(heads)]
    for row in roof["forwards"]:
        work = [f"{row['rows']}", f"{row['bytes'] / 1e6:.0f}", f"{row['flops'] / 1e9:.1f}", f"{row['intensity']:.1f}"]
        times = [f"{1e3 * row['floor_seconds']:.1f}", row["limit"]]
        times += [f"{1e3 * row['seconds']:.1f}", f"{row['times_floor']:.1f}"] if "seconds" in row else ["", ""]
        lines.append(table_row([*work, *times]))
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {kind}" for kind, rate in roof["rates"].items())
    text = (
        f"{found['model']}, {found['dtype']}, after {found['context']} rows; {machine['processor']},"
        f" {machine['threads']} threads: {roof['bandwidth'] / 1e9:.1f} GB/s, {rates};"
        f" torch {found['versions']['torch']}; {found['date']}. Made by `{found['command']}`."
    )
    return "\n".join([text, "", *lines, "", "![the roof, and forwards below it](images/roofline.png)"])


def headline() -> str:
    """The goals of issue 6, and the medians of everything that was timed for them."""
    found = json.loads((RESULTS / "headline.json").read_text(encoding="utf-8"))
    machine, settings = found["machine"], found["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if name != "unmask")
    text = [
        f"{found['model']}; {machine['processor']}, {machine['threads']} threads, {versions}; {found['date']};"
        f" {settings['rounds']} rounds, at most {settings['tokens']} tokens, seed {settings['seed']}."
        f" Made by `{found['command']}`.",
        "",
        table_row(["", "asked", "found (least to most)", "of"]),
        "|" + "---|" * 4,
    ]
    for row in found["headline"]:
        asked = f"{'at least' if row['at_least'] else 'at most'} {row['bound']:g}"
        value = "" if row["found"] is None else f"{row['found']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        text.append(table_row([row["what"], asked, value if row["met"] is not False else f"**{value}**", row["of"]]))
    kinds = list(dict.fromkeys(row["kind"] for row in found["medians"]))
    text += ["", table_row(["tokens/s, median", *kinds]), "|" + "---|" * (1 + len(kinds))]
    speeds = dict[str, dict[str, str]]()
    for row in found["medians"]:
        speeds.setdefault(f"{row['load']}, {row['way']}", {})[row["kind"]] = f"{row['speed']:.1f}"
    text += [table_row([name, *(mine.get(kind, "") for kind in kinds)]) for name, mine in speeds.items()]
    if (ROOT / "docs" / "images" / "headline.png").exists():
        text += ["", "![tokens per second by kind of prompt](images/headline.png)"]
    return "\n".join(text)


def made_by(found: dict[str, Any]) -> str:
    """Of what and how a result of `unmask eval` was made."""
    adapter, machine = found["adapter"], found["machine"]
    return (
        f"{found['model']}, {found['dtype']}, {found['exactness']},"
        f" {'adapter ' + adapter['name'] if adapter else 'no adapter'}; {machine['processor']}, {machine['threads']}"
        f" threads, torch {found['versions']['torch']}; {found['date']}. Made by `{found['command']}`."
    )


def light() -> str:
    """Tokens per forward of every way and oracle, a column per kind of prompt; of how many blocks it is the most."""
    found = json.loads((RESULTS / "light.json").read_text(encoding="utf-8"))
    columns = {**found["kinds"], "all": found["all"]}
    lines = [table_row(["tokens per forward", *columns, "proved"]), "|" + "---|" * (len(columns) + 2)]
    for way in found["all"]:
        cells = [interval("tpf", ways.get(way, {}).get("tpf")) for ways in columns.values()]
        proved = found["proved"].get(way)
        lines.append(table_row([way, *cells, "" if proved is None else f"{100 * proved:.0f} % of blocks"]))
    return "\n".join([made_by(found), "", *lines])


def curve() -> str:
    """Points and areas of score over speed, group by group."""
    found = json.loads((RESULTS / "curve.json").read_text(encoding="utf-8"))
    heads = ["", "way", "score, per cent", "tokens per forward", "tokens/s", "AUP", "mean score"]
    lines = [table_row(heads), "|" + "---|" * len(heads)]
    for group, numbers in found["groups"].items():
        shown = set[str]()
        for point in numbers["points"]:
            area = numbers["areas"][point["family"]]
            areas = ["", ""] if point["family"] in shown else [f"{area[name]:.1f}" for name in ("aup", "mean")]
            shown.add(point["family"])
            score = f"{point['score']:.1f} ({point['low']:.1f} to {point['high']:.1f})"
            seconds = point["tokens_per_second"]
            speeds = [f"{point['tpf']:.2f}", "" if seconds is None else f"{seconds:.1f}"]
            lines.append(table_row([group, point["way"], score, *speeds, *areas]))
    text = [f"From {', '.join(found['files'])}.", "", *lines]
    if (ROOT / "docs" / "images" / "curve.png").exists():
        text += ["", "![score over tokens per forward and per second](images/curve.png)"]
    return "\n".join(text)


def decay() -> str:
    """Per run (files decay-*.json): strict A% and V% without rules and under most, decay and slope; the hypotheses."""
    files = sorted(RESULTS.glob("decay-*.json"))
    if not files:
        raise FileNotFoundError(2, "nothing measured", "decay-*.json")
    text = list[str]()
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        settings = found["settings"]
        first, last = (str(settings["levels"][end]) for end in (0, -1))
        heads = [f"tier {settings['tier']}, {found['tasks']} tasks"]
        for title in ("raw A%", "V%", "strict A%"):
            heads += [f"{title}, {first} to {last} rules", "decay, points"]
        lines = [table_row([*heads, "forwards"]), "|" + "---|" * (len(heads) + 1)]
        for way, numbers in found["ways"].items():
            cells = list[str]()
            for measure in ("raw", "satisfied", "strict"):
                levels, lost = numbers["levels"][measure], numbers["decay"].get(measure)
                cells.append(f"{100 * levels[first]['value']:.1f} to {100 * levels[last]['value']:.1f}")
                points = [100 * lost[key] for key in ("value", "low", "high")] if lost else []
                cells.append("{:.1f} ({:.1f} to {:.1f})".format(*points) if points else "")
            lines.append(table_row([way, *cells, f"{numbers['spent']['nfe']:.0f}"]))
        rows = [(name, row) for name, of in found["hypotheses"].items() for row in of]
        said = [
            f"{name} ({row['of']}): {row['verdict']}{', ' + row['why'] if row['why'] else ''}" for name, row in rows
        ]
        text += [made_by(found), "", *lines, "", f"{'; '.join(said)}.", ""]
        if (ROOT / "docs" / "images" / f"{file.stem}.png").exists():
            text += [f"![raw A%, V% and strict A% by number of rules](images/{file.stem}.png)", ""]
    return "\n".join(text).rstrip("\n")


def diffusion() -> str:
    """What held-out text says of the causal and the noisy rows: nats a token, masked tokens by mask ratio, drafts by
    slot."""
    found = json.loads((RESULTS / "diffusion.json").read_text(encoding="utf-8"))
    own = found["figures"]
    rows = {
        "nats a token": [f"AR {own['ar_nll']:.3f}", f"diffusion, an upper bound {own['nelbo']:.3f}"],
        "masked tokens that are right, by mask ratio": [
            f"{name if isinstance(name, str) else f'to {name:g}'}: {100 * share:.1f} %"
            for name, share, _ in own["accuracy_by_ratio"]
        ],
        "drafted tokens that are AR's, slot by slot": [f"{100 * share:.1f} %" for share in own["acceptance"]],
    }
    lines = [table_row([f"{found['tokens']} held-out tokens", ""]), "|---|---|"]
    lines += [table_row([name, ", ".join(values)]) for name, values in rows.items()]
    how = {"dtype": found["settings"]["dtype"], "exactness": found["settings"]["exactness"]}
    return "\n".join([made_by({**found, **how}), "", *lines])


def revision() -> str:
    """Last steps that are right, and what they cost, per way; the paired differences."""
    found = json.loads((RESULTS / "revision.json").read_text(encoding="utf-8"))
    columns = {**found["kinds"], "all": found["all"]}
    lines = [table_row(["last step right", *columns, "forwards", "taken back"]), "|" + "---|" * (len(columns) + 3)]
    for way, numbers in found["all"].items():
        cells = [interval("passed", ways[way]["passed"]) for ways in columns.values()]
        spent = [f"{numbers[name]['value']:.1f}" for name in ("nfe", "revisions")]
        lines.append(table_row([way, *cells, *spent]))
    said = list[str]()
    for pair, change in found["differences"].items():
        points = [100 * change[key] for key in ("change", "low", "high")]
        said.append(f"{pair}: " + "{:+.1f} points ({:+.1f} to {:+.1f})".format(*points))
    return "\n".join([made_by(found), "", *lines, "", f"{'; '.join(said)}."])


def schemas() -> str:
    """Per way: valid, over all and by level, and what the constraint costs; what it adds to a token of AR."""
    found = json.loads((RESULTS / "schemas.json").read_text(encoding="utf-8"))
    measures = ("tokens_per_second", "work_ms", "kept_ms", "compile_ms", "narrowed", "same_as_ar")
    heads = [f"{found['settings']['schemas']} schemas", "valid", *found["levels"], "tokens/s"]
    heads += ["work, ms a token", "kept, ms a token", "compiled, ms", "budget felt", "ids of AR"]
    lines = [table_row(heads), "|" + "---|" * len(heads)]
    for way, numbers in found["all"].items():
        shares = (of.get(way, {}).get("obeys") for of in found["levels"].values())
        cells = [interval("obeys", numbers.get("obeys"))]
        cells += ["" if share is None else figure("obeys", share["value"]) for share in shares]
        lines.append(table_row([way, *cells, *(interval(measure, numbers.get(measure)) for measure in measures)]))
    text = [made_by(found), "", *lines, ""]
    if (added := found["added_ms"]) is not None:
        text += ["A token of AR takes {change:+.2f} ms more ({low:+.2f} to {high:+.2f}) on the wall.".format(**added)]
    ends = [f"{way}: {', '.join(f'{n} {end}' for end, n in of.items())}" for way, of in found["finish"].items()]
    said = [f"{name}: {why}" for name, why in {**found["refusals"], **found["faults"]}.items()]
    last = f"How answers ended: {'; '.join(ends)}. Refused or invalid: {'; '.join(said) or 'none'}."
    return "\n".join([*text, "", last])


FILLED = {
    "exact": "exact match",
    "passed": "pass@1",
    "likeness": "likeness of characters",
    "ended": "ended by the model",
    "trimmed": "cut at the suffix",
}
MENDED = {
    "fixed": "fixed",
    "first": "by the first",
    "new": "new faults",
    "edit": "edit / smallest",
    "forwards": "forwards",
}


def infill(file: str = "infill.json") -> str:
    """What a suffix is worth, where the model can be asked; single lines and runs of lines beside their floors."""
    found = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    how, gaps = found["how"], found["gaps"]
    options = "".join(f", {name} {value}" for name, value in how["options"].items())
    text = [made_by(found), "", f"Layout {how['layout']}, candidates: {how['candidates']}{options}.", ""]
    if gaps:
        heads = [f"{found['settings']['samples']} held-out gaps", "nats a token", "suffix gain"]
        text += [table_row(heads), "|" + "---|" * len(heads)]
        for name, title in (("nelbo", "denoising (NELBO)"), ("ar", "causal rows")):
            if name in gaps:
                both = (gaps[name], gaps[f"gain_{name}"])
                text.append(
                    table_row([title, *("{value:.3f} ({low:.3f} to {high:.3f})".format(**one) for one in both)])
                )
        text.append("")
    heads, columns = [""], list[dict[str, str]]()
    for count, results, what in (("lines", "results", "lines"), ("multi", "multi_results", "runs of lines")):
        if found[count]:
            numbers = found[results]
            heads += [f"{found[count]} {what}", "prefix alone"]
            columns.append({name: interval(name, numbers.get(name)) for name in FILLED})
            columns.append({name: interval(name, numbers.get(f"floor_{name}")) for name in FILLED})
    if columns:
        text += [table_row(heads), "|" + "---|" * len(heads)]
        text += [table_row([title, *(column[name] for column in columns)]) for name, title in FILLED.items()]
    return "\n".join(text).rstrip("\n")


def patch() -> str:
    """Per kind of fault and way: the share mended, by the first candidate, with new faults; the edit; forwards."""
    found = json.loads((RESULTS / "patch.json").read_text(encoding="utf-8"))
    heads = ["faults", "", "way", *MENDED.values()]
    lines = [table_row(heads), "|" + "---|" * len(heads)]
    for kind, ways in found["results"].items():
        for way, numbers in ways.items():
            cells = [interval(name, numbers.get(name)) for name in MENDED]
            lines.append(table_row([kind, str(numbers["fixed"]["samples"]), way, *cells]))
    how = f"Layout {found['how']['layout']}, candidates: {found['settings']['candidates']}."
    return "\n".join([made_by(found), "", how, "", *lines])


# Page -> name of a part -> what makes it.
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"demo": demo, "against_transformers": against_transformers, "times": times},
    "docs/training.md": {"small_conversion": small_conversion, "training_speed": training_speed},
    "docs/performance.md": {"roofline": roofline, "headline": headline, "serve_load": serve_load},
    "docs/evaluation.md": {
        "starter": starter,
        "second_model": second_model,
        "humaneval": humaneval,
        "light": light,
        "curve": curve,
        "decay": decay,
        "diffusion": diffusion,
        "revision": revision,
        "schemas": schemas,
    },
    "docs/infill.md": {"infill": infill, "infill-prefix": partial(infill, "infill-prefix.json")},
    "docs/patching.md": {"patch": patch},
    "src/unmask/adapters/smollm2-135m/README.md": {"starter": starter},
}


def filled(page: str) -> str:
    """The text of a page (a path from the root) with every part made anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, part in PARTS[page].items():
        try:
            made = part()
        except FileNotFoundError as error:
            made = f"Not measured yet: there is no {Path(error.filename).name}."
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        text, count = pattern.subn(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{page}: expected the part {name} once, found it {count} times")
    return text


def main() -> None:
    for page in PARTS:
        made = filled(page)
        if "--check" in sys.argv:
            if made != (ROOT / page).read_text(encoding="utf-8"):
                sys.exit(f"{page} is stale: run  python scripts/readme.py")
        else:
            (ROOT / page).write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
