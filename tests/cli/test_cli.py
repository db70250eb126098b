"""The command line on a tiny model: what is printed, what programs read, and one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unmask import __version__
from unmask.cli import run


def ok(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = run(list(arguments))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


@pytest.fixture
def tiny(tiny_folder: Path) -> list[str]:
    return ["--model", str(tiny_folder), "--dtype", "float32"]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert ok(capsys, "--version") == f"unmask {__version__}\n"
    whole = ok(capsys, "--help")
    for verb in ("demo", "pull", "chat", "generate"):
        assert verb in whole
        assert "--help" in ok(capsys, verb, "--help")


def test_the_command_line_answers_without_torch() -> None:
    """`--help` must not wait for a tensor library."""
    script = "import sys; from unmask.cli import run; run(['generate', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_generate_prints_the_text(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    text = ok(capsys, "generate", "the", "-n", "6", "--mode", "ar", *tiny)
    found = json.loads(ok(capsys, "generate", "the", "-n", "6", "--mode", "ar", "--json", *tiny))
    assert text == found["text"] + "\n"


def test_generate_as_json(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    printed = ok(capsys, "generate", "the", "a", "-n", "6", "--logprobs", "2", "--json", "--ignore-eos", *tiny)
    first, second = map(json.loads, printed.splitlines())
    assert first.keys() == second.keys() >= {"text", "token_ids", "finish_reason", "mode", "strategy", "stats"}
    assert len(first["token_ids"]) == first["stats"]["tokens"] == len(first["logprobs"]) == 6
    assert len(first["logprobs"][0]["top"]) == 2
    assert first["stats"].keys() >= {"nfe", "tpf", "acceptance_length", "tokens_per_second"}


@pytest.mark.parametrize("variant", ["linearspec", "quadspec", "adaptivespec"])
def test_the_articles_flags(capsys: pytest.CaptureFixture[str], tiny: list[str], variant: str) -> None:
    base = ["generate", "the", "--json", "-n", "9", *tiny]
    plain = json.loads(ok(capsys, *base, "--generation-mode", "ar"))
    flags = ["--generation-mode", "self-speculation", "--spec-variant", variant, "--draft-block-size", "4"]
    assert json.loads(ok(capsys, *base, *flags))["token_ids"] == plain["token_ids"]
    flags = ["--diffusion-block-size", "4", "--diffusion-steps", "2", "--confidence-threshold", "0.5"]
    assert json.loads(ok(capsys, *base, "-m", "fastdiffuser", *flags))["stats"]["nfe"] <= 3 * 2 + 1


def test_prompt_from_standard_input(
    capsys: pytest.CaptureFixture[str], tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("the"))
    piped = ok(capsys, "generate", "-", "-n", "4", *tiny)
    assert piped == ok(capsys, "generate", "the", "-n", "4", *tiny)


def test_watching_ends_with_the_text(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    arguments = ["generate", "the", "-n", "8", "-m", "fastdiffuser", "--block-size", "4", *tiny]
    assert ok(capsys, *arguments).strip() == ok(capsys, *arguments, "--watch").strip()


def test_demo_compares_every_mode(capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> None:
    model = ["--model", str(tiny_folder), "-n", "8", "--dtype", "float32"]
    rows = list(map(json.loads, ok(capsys, "demo", "--json", *model).splitlines()))
    assert [row["title"] for row in rows] == ["ar", "fastdiffuser", "linearspec", "quadspec", "adaptivespec", "auto"]
    assert [row["same_ids_as_ar"] for row in rows] == [True, None, True, True, True, True]
    table = ok(capsys, "demo", *model)
    assert "same ids as AR" in " ".join(table.split())
    assert "not promised" in " ".join(table.split())


def test_an_interrupted_command_says_so(
    capsys: pytest.CaptureFixture[str], tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmask.lm.LM.stream", interrupted)
    monkeypatch.setattr("unmask.lm.LM.start", interrupted)
    assert run(["generate", "the", *tiny]) == 130
    assert capsys.readouterr().err.strip().endswith("unmask: interrupted")


def chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lines: list[str], *more: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    code = run(["chat", *more])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out + printed.err


def test_chat_keeps_history_and_changes_mode(
    capsys: pytest.CaptureFixture[str], tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [*tiny, "-n", "5"]
    once = chat(capsys, monkeypatch, ["the"], *short)
    twice = chat(capsys, monkeypatch, ["the", "/mode linearspec", "the"], *short)
    assert twice.startswith(once)
    assert twice[len(once) :] != once, "the second answer must see the first"
    again = chat(capsys, monkeypatch, ["the", "/reset", "/mode ar", "the"], *short)
    assert again == once + once
    printed = chat(
        capsys, monkeypatch, ["/mode banana", "/set top_p 7", "/set colour red", "/help", "/quit", "the"], *short
    )
    assert "mode must be one of" in printed
    assert "unknown option 'colour'" in printed
    assert "/reset" in printed
    assert once not in printed, "nothing is answered after /quit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "Missing argument 'prompts'"),
        (["generate", "x", "--colour"], "No such option: --colour"),
        (["generate", "x", "--top-k", "many"], "Invalid value for '--top-k'"),
        (["paint"], "No such command 'paint'"),
        (["generate", "x", "--model", "no-such-model"], "no model 'no-such-model'; give a short name (smollm2-135m)"),
        (["pull", "no-such-model"], "no model is called 'no-such-model'; short names: smollm2-135m"),
        (["generate", "x", "-m", "diffuse", "TINY"], "mode must be one of ar, fastdiffuser, self-speculation, auto"),
        (["generate", "x", "-m", "fastdiffuser", "--block-size", "0", "TINY"], "block_size must be at least 1, got 0"),
        (
            ["generate", "x", "-m", "fastdiffuser", "--confidence-threshold", "1.5", "TINY"],
            "confidence_threshold must be between 0 and 1, got 1.5",
        ),
        (["generate", "x" * 400, "TINY"], "the prompt has 400 tokens, but the context of 256"),
        (["generate", "x", "-n", "400", "TINY"], "exceed the context of 256 tokens"),
        (["generate", "", "TINY"], "prompt must be at least one token long"),
        (["generate", "x", "--dtype", "int3", "TINY"], "dtype must be one of"),
        (["generate", "x", "--logprobs", "2", "TINY"], "--logprobs is part of the JSON: add --json"),
        (["generate", "x", "y", "--watch", "TINY"], "--watch shows one text as it is made"),
        (["demo", "-n", "0", "TINY"], "max_tokens must be at least 1"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, arguments: list[str], message: str
) -> None:
    code = run([part for word in arguments for part in (["--model", str(tiny_folder)] if word == "TINY" else [word])])
    printed = capsys.readouterr()
    assert code == 2
    assert message in printed.err
    assert printed.err.startswith("unmask: ")
    assert printed.err.count("\n") == 1
    assert printed.out.strip() in ("", "ar " + "─" * 77)


def test_broken_files_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Path) -> None:
    for name, content in {"a.gguf": b"GGUF but not really", "b.gguf": b"", "c.txt": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        assert run(["generate", "x", "--model", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in tiny_folder.iterdir():
        (cut / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    assert run(["generate", "x", "--model", str(cut)]) == 2
    assert "is not a complete safetensors file" in capsys.readouterr().err


def heeding_sigint() -> None:
    """Where the tests are a shell's background job, they and their children ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_and_a_closed_pipe(tiny_folder: Path) -> None:
    command = [sys.executable, "-m", "unmask", "generate", "the", "--model", str(tiny_folder), "--ignore-eos"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, "preexec_fn": heeding_sigint}
    with subprocess.Popen([*command, "-n", "200"], **pipes) as one:  # type: ignore[call-overload]
        assert one.stdout.read(1)
        one.stdout.close()
        assert one.stderr.read() == b""
        assert one.wait(60) in (0, 1)
    waiting = [*command[:3], "chat", *command[5:7]]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, **pipes) as two:  # type: ignore[call-overload]
        two.stdin.write(b"/help\n")
        two.stdin.flush()
        assert two.stdout.read(1)
        two.send_signal(signal.SIGINT)
        assert two.wait(60) == 130
        assert b"Traceback" not in two.stderr.read()
