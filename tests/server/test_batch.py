"""Batches: the replies are the server's, every line is answered once whatever is killed or torn, bad lines say why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.serving import WAYS, Running, wait_until
from unmask import LM
from unmask.cli import run
from unmask.server import Settings, batch_ask
from unmask.server.batch import Batch, Summary, gathered
from unmask.server.batch_ask import BrokenOffError, InProcess, OverHttp
from unmask.server.batch_files import CHUNK, answered, opened, repair, requests
from unmask.server.service import Service


def line(name: str, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    plain = {"prompt": "the cat", "max_tokens": 6, "temperature": 0} if url == "/v1/completions" else {}
    return {"custom_id": name, "method": "POST", "url": url, "body": plain | body}


def chat(name: str, **body: Any) -> dict[str, Any]:
    plain = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 6}
    return line(name, "/v1/chat/completions", **plain | body)


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(one) for one in data.splitlines()]


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32", exactness="exact", max_live=4)


def done(
    lm: LM, source: Path, out: Path, errors: Path | None = None, told: Callable[[Batch, Summary], None] | None = None
) -> Summary:
    with opened(source, out, errors) as found:
        asking = InProcess(lm, Settings(names=("tiny", "other")))
        batch = Batch(asking, requests(source), found, lambda s: told(batch, s) if told else None)
        summary = asyncio.run(batch.run())
    assert not lm.engine.requests
    lm.engine.check()
    assert lm.engine.pages.in_use == 0
    return summary


def service_of(batch: Batch) -> Service:
    assert isinstance(batch.asking, InProcess)
    return batch.asking.service


def without_clock(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply without what differs from one time to the next."""
    return {name: value for name, value in reply.items() if name not in ("id", "created", "usage")}


REFUSED = {"refused", "misspelt", "no model", "too long", "empty", "tools"}


def test_a_line_gets_what_the_server_says(server: Running, lm: LM, tmp_path: Path) -> None:
    sampled: dict[str, Any] = {"temperature": 0.9, "seed": 11}
    asked = [line(f"{n}", **way) for n, way in enumerate(WAYS)]
    asked += [line(f"sampled {n}", **way, **sampled) for n, way in enumerate(WAYS)]
    asked += [chat("chat", model="other", **sampled), chat("chat ar", generation_mode="ar", temperature=0)]
    asked += [line("many", prompt=["a", "the"], n=2, logprobs=2, **sampled), line("json", stream=False)]
    asked += [line("limited", constraints=[{"type": "choice", "values": ["yes", "no"]}], max_tokens=8)]
    asked += [line("refused", max_tokens=0), line("misspelt", generation_mod="ar"), line("no model", model="gpt-4")]
    asked += [line("too long", max_tokens=4000), chat("empty", messages=[]), chat("tools", tools=[{"type": "f"}])]
    summary = done(lm, written(tmp_path / "in", asked), tmp_path / "out")
    found = {result["custom_id"]: result for result in read(tmp_path / "out")}
    assert len(found) == len(asked) == summary.succeeded + summary.failed
    assert {name for name, result in found.items() if result["error"]} == REFUSED
    for one in asked:
        http = server.post(one["url"], one["body"])
        result = found[one["custom_id"]]
        response, body = result["response"], http.json()
        assert response["status_code"] == http.status_code
        if http.status_code == 200:
            assert result["error"] is None
            assert without_clock(response["body"]) == without_clock(body)
            counts = ("prompt_tokens", "completion_tokens")
            assert [response["body"]["usage"][c] for c in counts] == [body["usage"][c] for c in counts]
        else:
            assert response["body"] == body
            assert result["error"]["message"] == body["error"]["message"]
            assert result["error"]["code"] == body["error"]["code"]
    good = [result["response"]["body"]["usage"] for result in found.values() if result["error"] is None]
    assert summary.completion_tokens == sum(usage["completion_tokens"] for usage in good)
    assert summary.prompt_tokens == sum(usage["prompt_tokens"] for usage in good)
    assert summary.forwards == sum(usage["nfe"] for usage in good)
    assert len({result["id"] for result in found.values()}) == len(found)


def test_lines_share_forwards(lm: LM, tmp_path: Path) -> None:
    asked = [line(f"{n}", max_tokens=20, ignore_eos=True, generation_mode="ar") for n in range(8)]
    source = written(tmp_path / "in", asked)
    steps = list[int]()
    summary = done(lm, source, tmp_path / "out", told=lambda batch, _: steps.append(service_of(batch).worker.steps))
    assert (summary.succeeded, summary.forwards) == (8, 8 * 19)
    assert steps[-1] < summary.forwards / 2  # four of them run at a time


BAD: list[tuple[Any, str, str]] = [
    ("{", "invalid_json", "the line is not valid JSON: "),
    ('{"custom_id": "\\ud800"}', "invalid_json", "the line is not valid JSON: "),
    ("NaN", "invalid_json", "the line is not valid JSON: "),
    ("[1]", "invalid_line", "the line must be a JSON object with custom_id, method, url and body"),
    ({"method": "POST", "url": "/v1/completions", "body": {}}, "missing_field", "custom_id is missing"),
    (line("") | {"custom_id": ""}, "invalid_value", "custom_id: String should have at least 1 character"),
    (line("x") | {"custom_id": 5}, "invalid_value", "custom_id: Input should be a valid string"),
    (line("get") | {"method": "GET"}, "invalid_value", "method: Input should be 'POST'"),
    (line("url") | {"url": "/v1/embeddings"}, "invalid_value", "url: Input should be '/v1/chat/completions' or"),
    (line("body") | {"body": "x"}, "invalid_value", "body: Input should be a valid dictionary"),
    (line("more") | {"model": "x"}, "unknown_field", "unknown field 'model'"),
    (line("stream", stream=True), "unsupported_field", "stream is refused: in a batch nobody listens"),
    (line("prompt") | {"body": {}}, "missing_field", "prompt is missing"),
    (line("engine", prompt=""), "invalid_value", "the prompt is empty"),
]


def test_bad_lines_say_why_and_do_no_harm(lm: LM, tmp_path: Path) -> None:
    asked = [line("first"), "", *(bad for bad, _, _ in BAD), "   ", line("last")]
    source, out, errors = written(tmp_path / "in", asked), tmp_path / "out", tmp_path / "errors"
    summary = done(lm, source, out, errors)
    assert (summary.succeeded, summary.failed, summary.left) == (2, len(BAD), 0)
    assert {result["custom_id"] for result in read(out)} == {"first", "last"}
    found = {result["error"]["line"]: result for result in read(errors)}
    for number, (bad, code, message) in enumerate(BAD, 3):  # after "first" and a blank line
        error = found[number]["error"]
        assert error["code"] == code, error
        assert error["message"].startswith(message)
        name = bad.get("custom_id") if isinstance(bad, dict) else None
        assert found[number]["custom_id"] == (name if isinstance(name, str) and name else None)
        named = found[number]["custom_id"] in ("stream", "prompt", "engine")
        assert (found[number]["response"] is not None) == named  # only what is a request has a reply
    again = done(lm, source, out, errors)
    assert (again.skipped, again.failed_before, again.succeeded, again.failed) == (len(BAD) + 2, len(BAD), 0, 0)
    assert len(read(out)) + len(read(errors)) == len(BAD) + 2


@pytest.fixture(scope="module")
def whole(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A batch of five lines, one of them bad, and its results."""
    folder = tmp_path_factory.mktemp("whole")
    asked = [line(f"line {n}", prompt="x" * n, generation_mode="ar", max_tokens=3) for n in range(1, 5)]
    source = written(folder / "in", [*asked, "{"])
    done(lm, source, folder / "out")
    return source, (folder / "out").read_bytes()


def once(source: Path, out: Path) -> None:
    """Every line of the batch has one result."""
    names = Counter(result["custom_id"] or result["error"]["line"] for result in read(out))
    assert names == Counter(asked.key for asked in requests(source))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.37, 0.5, 0.71, 0.9, 0.999, 1.0])
def test_results_cut_anywhere_are_completed(lm: LM, whole: tuple[Path, bytes], share: float, tmp_path: Path) -> None:
    source, data = whole
    cut = data[: round(share * len(data))]
    (tmp_path / "out").write_bytes(cut)
    summary = done(lm, source, tmp_path / "out")
    assert summary.skipped == cut.count(b"\n")
    once(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes().startswith(cut[: cut.rfind(b"\n") + 1])

    def texts(results: list[dict[str, Any]]) -> dict[str, str]:
        good = (result for result in results if result["error"] is None)
        return {result["custom_id"]: result["response"]["body"]["choices"][0]["text"] for result in good}

    assert texts(read(tmp_path / "out")) == texts([json.loads(one) for one in data.splitlines()])


@pytest.mark.parametrize("kept", [b"", b"a\n", b"a\nb\n", b"a" * CHUNK + b"\n"])
@pytest.mark.parametrize("torn", [b"", b"x", b"y" * (CHUNK - 1), b"y" * CHUNK, b"y" * (3 * CHUNK + 1)])
def test_repair_cuts_what_has_no_end(kept: bytes, torn: bytes, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(kept + torn)
    repair(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == kept


def test_stopping_keeps_what_has_begun(lm: LM, tmp_path: Path) -> None:
    source = written(tmp_path / "in", [line(f"{n}", max_tokens=9) for n in range(40)])

    def stop(batch: Batch, summary: Summary) -> None:
        if summary.succeeded == 2:
            batch.stop()

    summary = done(lm, source, tmp_path / "out", told=stop)
    assert summary.stopped
    assert 2 < summary.succeeded <= 2 + 2 * (lm.engine.config.max_live + 4)
    assert summary.left == 40 - summary.succeeded
    assert len(read(tmp_path / "out")) == summary.succeeded
    rest = done(lm, source, tmp_path / "out")
    assert (rest.skipped, rest.succeeded, rest.left) == (summary.succeeded, summary.left, 0)
    once(source, tmp_path / "out")


def test_stopping_twice_drops_what_has_begun(lm: LM, tmp_path: Path) -> None:
    asked = [line("quick", max_tokens=1), *(line(f"{n}", max_tokens=200, ignore_eos=True) for n in range(30))]
    source = written(tmp_path / "in", asked)

    def stop(batch: Batch, _: Summary) -> None:
        batch.stop()
        batch.stop()

    summary = done(lm, source, tmp_path / "out", told=stop)
    assert summary.left > 20
    once(written(tmp_path / "begun", [a for a in asked if a["custom_id"] == "quick"]), tmp_path / "out")


def test_a_model_that_cannot_go_on_is_no_fault_of_the_lines(lm: LM, tmp_path: Path) -> None:
    source = written(tmp_path / "in", [line(f"{n}", max_tokens=3 + n) for n in range(30)])

    def lose(batch: Batch, summary: Summary) -> None:
        if summary.succeeded == 3:
            service_of(batch).break_off()

    with pytest.raises(BrokenOffError):
        done(lm, source, tmp_path / "out", told=lose)
    assert [result["error"] for result in read(tmp_path / "out")] == [None] * 3
    assert done(lm, source, tmp_path / "out").succeeded == 27
    once(source, tmp_path / "out")


def over_http(source: Path, out: Path, asking: OverHttp) -> Summary:
    with opened(source, out) as found:
        return asyncio.run(Batch(asking, requests(source), found).run())


def test_a_server_is_asked_for_the_same(server: Running, lm: LM, tmp_path: Path) -> None:
    asked = [line(f"{n}", temperature=0.9, seed=n, **way) for n, way in enumerate(WAYS)]
    asked += [
        chat("chat", temperature=0),
        line("refused", max_tokens=0),
        line("stream", stream=True),
        line("far", n=65),
    ]
    source = written(tmp_path / "in", [*asked, "{"])
    summary = over_http(source, tmp_path / "there", OverHttp(f"{server.url}/v1", 3))
    assert (summary.succeeded, summary.failed) == (len(WAYS) + 1, 4)
    done(lm, source, tmp_path / "here")

    def plain(path: Path) -> list[Any]:
        found = read(path)
        for result in found:
            result["id"] = None
            if result["response"]:
                assert len(result["response"].pop("request_id")) == 32
                if result["error"] is None:
                    result["response"]["body"] = without_clock(result["response"]["body"])
        return sorted(found, key=lambda result: result["custom_id"] or "")

    assert plain(tmp_path / "there") == plain(tmp_path / "here")


class Moody(httpx.MockTransport):
    """A server that answers as told, and for ever after with an empty reply. calls: what it was asked."""

    def __init__(self, *moods: int | Exception) -> None:
        self.moods, self.calls = list(moods), list[httpx.Request]()
        super().__init__(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        mood = self.moods.pop(0) if self.moods else 200
        if isinstance(mood, Exception):
            raise mood
        if mood == 200:
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "nfe": 1}
            return httpx.Response(200, json={"usage": usage}, headers={"x-request-id": "7"})
        error = {"message": "not now", "code": "busy", "param": None, "type": "server_error"}
        return httpx.Response(mood, json={"error": error}, headers={"retry-after": "0"} if mood == 429 else {})


GONE = httpx.ConnectError("nobody is there")


@pytest.mark.parametrize(
    ("moods", "calls", "status"),
    [
        ([], 1, 200),
        ([GONE, 503, httpx.ReadError("cut"), 200], 4, 200),
        ([*[429] * 50, 503, 200], 52, 200),  # a full server may be asked for ever
        ([500], 1, 500),
        ([504], 1, 504),
        ([404], 1, 404),
    ],
)
def test_a_server_that_has_no_time_is_asked_again(
    moods: list[Any], calls: int, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(batch_ask, "PAUSES", (0.0,) * 7)
    moody = Moody(*moods)
    summary = over_http(
        written(tmp_path / "in", [line("a")]), tmp_path / "out", OverHttp("http://x", 2, ["key", "other"], moody)
    )
    (result,) = read(tmp_path / "out")
    assert result["response"]["status_code"] == status
    assert (summary.succeeded, summary.failed) == (int(status == 200), int(status != 200))
    assert len(moody.calls) == calls
    assert {(str(call.url), call.headers["authorization"]) for call in moody.calls} == {
        ("http://x/v1/completions", "Bearer key")
    }
    assert json.loads(moody.calls[0].content) == line("a")["body"]


@pytest.mark.parametrize(
    ("moods", "kind", "message"),
    [
        ([GONE] * 9, BrokenOffError, "http://x cannot be reached: nobody is there"),
        ([503] * 9, BrokenOffError, "not now"),
        ([401], ValueError, "http://x refuses the key: not now"),
    ],
)
def test_a_server_that_never_answers(
    moods: list[Any], kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(batch_ask, "PAUSES", (0.0,) * 7)
    source = written(tmp_path / "in", [line("a"), line("b")])
    with pytest.raises(kind, match=message):
        over_http(source, tmp_path / "out", OverHttp("http://x", 1, (), Moody(200, *moods)))
    assert [result["custom_id"] for result in read(tmp_path / "out")] == ["a"]
    assert over_http(source, tmp_path / "out", OverHttp("http://x", 1, (), Moody())).succeeded == 1
    once(source, tmp_path / "out")


def test_the_command_asks_a_server(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_ask, "PAUSES", ())
    source, out = written(tmp_path / "in", [line("a"), line("b")]), tmp_path / "out"
    call = ["batch", str(source), str(out)]
    assert run([*call, "--server", "http://127.0.0.1:9"]) == 1
    assert "the same command goes on with what is left" in capsys.readouterr().err
    for more, message in [
        (["--server", "127.0.0.1:9"], "--server must be like http://127.0.0.1:30000, got '127.0.0.1:9'"),
        (["--server", server.url, "--mode", "ar"], "--server has its own model and defaults"),
        (["--server", server.url, "--model", "other"], "--server has its own model and defaults"),
        (["--server", server.url, "--ray"], "--server has its own model and defaults"),
        (["--replicas", "2"], "--replicas and --cpus-per-replica need --ray"),
        (["--ray", "--oracle", "x=json:loads"], "--oracle does not go with --ray"),
    ]:
        assert run([*call, *more]) == 2
        assert message in capsys.readouterr().err
    assert run([*call, "--server", server.url]) == 0
    once(source, out)


def test_results_of_others_are_written_once(tmp_path: Path) -> None:
    source, out = written(tmp_path / "in", [line("a"), line("b"), "{", line("c")]), tmp_path / "out"
    bad: dict[str, Any] = {"custom_id": None, "error": {"line": 3}}
    good: dict[str, Any] = {"error": None, "response": {"body": {"usage": Counter()}}}
    a, b, c = ({"custom_id": name, **good} for name in "abc")
    told = list[int]()

    def interrupted(*sent: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from sent
        raise KeyboardInterrupt

    def run_on(results: Iterator[dict[str, Any]]) -> Summary:
        with opened(source, out) as found:
            return gathered(results, found, lambda summary: told.append(summary.left))

    stopped = run_on(interrupted(a, a))
    assert (stopped.succeeded, stopped.stopped, stopped.left) == (1, True, 3)
    with pytest.raises(BrokenOffError, match="1 lines came back without an answer"):
        run_on(iter([a, bad, b, bad, b]))
    last = run_on(iter([b, c]))
    assert (last.skipped, last.failed_before, last.succeeded, last.failed, last.left) == (3, 1, 1, 0, 0)
    assert told == [3, 2, 1, 0]
    once(source, out)


def test_a_full_disk_ends_the_batch(lm: LM, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    source = written(tmp_path / "in", [line(f"{n}") for n in range(20)])
    with opened(source, tmp_path / "out") as found, open("/dev/full", "wb", buffering=0) as full:
        found.good = found.bad = full
        with pytest.raises(OSError, match="No space left"):
            asyncio.run(Batch(InProcess(lm, Settings()), requests(source), found).run())
    assert not lm.engine.requests


@pytest.mark.parametrize(
    ("lines", "result", "message"),
    [
        ([line("a"), line("b"), line("a")], "", "in: custom_id 'a' is in lines 1 and 3: it must be unique"),
        ([line("a")], json.dumps({"custom_id": "b", "error": None}), "out answers 'b', which is not in "),
        ([line("a")], "hello", "out, line 1: not a result of a batch; choose another file"),
        ([line("a")], '{"custom_id": null, "error": null}', "out, line 1: not a result of a batch"),
    ],
)
def test_files_that_are_refused(lines: list[Any], result: str, message: str, tmp_path: Path) -> None:
    source, out = written(tmp_path / "in", lines), written(tmp_path / "out", [result] if result else [])
    before = out.read_bytes()
    with pytest.raises(ValueError, match=message), opened(source, out):
        pass
    assert out.read_bytes() == before


def test_one_process_at_a_time_and_one_file_for_one_thing(tmp_path: Path) -> None:
    source, out = written(tmp_path / "in", [line("a")]), tmp_path / "out"
    with opened(source, out), pytest.raises(ValueError, match="another process is writing to it"), opened(source, out):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"in", "out"}, "nothing else is left behind"
    for files in [(source, source), (source, out, out), (source, out, source)]:
        with pytest.raises(ValueError, match="must be different ones"), opened(*files):
            pass
    errors = written(tmp_path / "errors", [json.dumps({"custom_id": "a", "error": {"line": 1}})])
    written(out, [json.dumps({"custom_id": "a", "error": None})])
    with pytest.raises(ValueError, match="answers 'a' again"), opened(source, out, errors):
        pass
    assert answered(errors) == {"a": False}


@pytest.fixture
def command(tiny_folder: Path, tmp_path: Path) -> list[str]:
    model = ["--model", str(tiny_folder), "--dtype", "float32", "--max-concurrent", "2"]
    return ["batch", str(tmp_path / "in"), str(tmp_path / "out"), *model, "--served-model-name", "tiny"]


def test_the_command(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "in", [line("a", model="tiny", max_tokens=3), line("b", temperature=9)])
    assert run([*command, "--json", "--mode", "ar", "--seed", "3"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["lines"], found["succeeded"], found["failed"], found["left"]) == (2, 1, 1, 0)
    assert found["completion_tokens"] == 3
    by_name = {result["custom_id"]: result for result in read(tmp_path / "out")}
    details = by_name["a"]["response"]["body"]["usage"]["completion_tokens_details"]
    assert (details["mode"], details["seed"]) == ("ar", 3)
    assert run(command) == 3  # nothing to do, and what went wrong is still so
    assert "2 done before, 1 of them wrongly" in capsys.readouterr().err
    written(tmp_path / "in", [line("a")])
    written(tmp_path / "out", [])
    assert run(command) == 0
    assert "1 answered" in capsys.readouterr().err
    assert run(["batch", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_trace_of_a_batch(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modes = ("ar", "fastdiffuser", "self-speculation")
    written(tmp_path / "in", [line(mode, model="tiny", max_tokens=9, generation_mode=mode) for mode in modes])
    assert run([*command, "--trace", str(tmp_path / "trace")]) == 0
    seen = read(tmp_path / "trace")
    assert [one["mode"] for one in seen if one["object"] == "unmask.start"] == list(modes)
    ended = {one["index"]: one for one in seen if one["object"] == "unmask.end"}
    replies = {result["custom_id"]: result["response"]["body"] for result in read(tmp_path / "out")}
    for index, mode in enumerate(modes):
        steps = [one for one in seen if one["object"] == "unmask.step" and one["index"] == index]
        text = "".join(one["text"] for one in steps)
        assert text == replies[mode]["choices"][0]["text"]
        assert ended[index]["finish_reason"] == replies[mode]["choices"][0]["finish_reason"]
        assert ended[index]["stats"]["nfe"] == replies[mode]["usage"]["nfe"]
    capsys.readouterr()
    for elsewhere in (["--server", "http://127.0.0.1:1"], ["--ray"]):
        where = [*command[:3], *elsewhere, "--trace", str(tmp_path / "trace")]
        assert run(where) == 2
        assert "neither with --server nor with --ray" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_of_a_shared_model_that_dies(lm: LM, tiny_folder: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "in", [line(f"{n}", max_tokens=5 + n, ignore_eos=True) for n in range(30)])
    two = LM.load(tiny_folder, dtype="float32", exactness="exact", max_live=4, tp=2)
    assert two.crew is not None
    follower = two.crew.processes[0].pid

    def kill(_: Batch, summary: Summary) -> None:
        if summary.succeeded == 3:
            os.kill(follower, signal.SIGKILL)

    with opened(source, tmp_path / "out") as found:
        batch = Batch(InProcess(two, Settings()), requests(source), found, lambda s: kill(batch, s))
        with pytest.raises(BrokenOffError):
            asyncio.run(batch.run())
    two.close()
    before = read(tmp_path / "out")
    assert 3 <= len(before) < 30
    assert all(result["error"] is None for result in before)
    assert done(lm, source, tmp_path / "out").succeeded == 30 - len(before)
    once(source, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=lambda sign: sign.name)
def test_a_process_that_is_ended_in_the_middle(
    command: list[str], sign: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [line(f"{n}", max_tokens=40, ignore_eos=True, generation_mode="ar", seed=n) for n in range(40)]
    source, out = written(tmp_path / "in", asked), tmp_path / "out"
    with subprocess.Popen([sys.executable, "-m", "unmask", *command], stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 3, 120)
        os.kill(process.pid, sign)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-sign if sign is signal.SIGKILL else 130), said
    before = out.read_bytes().count(b"\n")
    assert 3 <= before < 40
    if sign is signal.SIGTERM:
        assert "left: run the same command to go on" in said
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["skipped"], found["succeeded"], found["left"]) == (before, 40 - before, 0)
    once(source, out)
