"""Streamed text: equal to the one-shot decode however ids arrive, never half a character, cut at stop strings."""

import codecs
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers

from unmask.text import StopHit, TextStream, Tokenizer


def byte_level(*texts: str) -> Tokenizer:
    """Ids 0-255 are the bytes, then `texts` in turn, then one special token."""
    letter = {data: text for text, data in spelled_bytes().items()}
    entries = [letter[byte] for byte in range(256)]
    entries += ["".join(letter[byte] for byte in text.encode()) for text in texts]
    core = Core(models.BPE(vocab={entry: id for id, entry in enumerate(entries)}, merges=[]))
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|end|>"])
    return Tokenizer(core)


def spelled_bytes() -> dict[str, int]:
    probe = Core(models.BPE())
    probe.decoder = decoders.ByteLevel()
    spelling = Tokenizer(probe).spelling
    return {letter: spelling.to_bytes(letter)[0] for letter in pre_tokenizers.ByteLevel.alphabet()}


def sentencepiece(*pieces: str) -> Tokenizer:
    """As `byte_level`, but ids 0-255 are byte tokens and "▁" stands for a space."""
    entries = [f"<0x{byte:02X}>" for byte in range(256)] + list(pieces)
    fields = {"model": "llama", "tokens": [*entries, "<|end|>"], "scores": [0.0] * (len(entries) + 1)}
    fields["token_type"] = [6] * 256 + [1] * len(pieces) + [3]
    return Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in fields.items()})


BYTES = byte_level("ab", "aab", "bé", " a", "€b")
PIECES = sentencepiece("▁a", "a", "b", "ab", "▁", "▁▁", "bé", "€b")
# Few different ids, so that characters are cut, joined and repeated all the time: 😀 is f0 9f 98 80, € is e2 82 ac.
IDS = st.lists(st.sampled_from([97, 98, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xFF, *range(256, 265)]), max_size=24)
STOPS = st.lists(st.text("ab é€😀\ufffd", min_size=1, max_size=4), max_size=4).map(tuple)


def run(stream: TextStream, chunks: list[list[int]]) -> tuple[str, StopHit | None]:
    shown = ""
    for chunk in chunks:
        stream, piece = stream.feed(chunk)
        shown += piece
    stream, piece = stream.finish()
    return shown + piece, stream.hit


def cut(ids: list[int], borders: list[int]) -> list[list[int]]:
    edges = [0, *sorted(border % (len(ids) + 1) for border in borders), len(ids)]
    return [ids[start:end] for start, end in pairwise(edges)]


def settled(stream: TextStream, ids: list[int]) -> str:
    """Text of `ids` but for a character that a further id may finish, decoded from the start."""
    data = b"".join(stream.tokenizer.visible_bytes(id, stream.skip_special) for id in ids)
    data = data.removeprefix(b" ") if stream.tokenizer.spelling.artificial_space and not stream.continues else data
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def expected(stream: TextStream, ids: list[int]) -> tuple[str, StopHit | None]:
    """The rule, by brute force: after each id look at every end that is new, then at every start."""
    before, whole = "", stream.tokenizer.decode(ids, skip_special=stream.skip_special, continues=stream.continues)
    steps = [(count, settled(stream, ids[:count])) for count in range(1, len(ids) + 1)] + [(len(ids), whole)]
    for count, text in steps:
        for end in range(len(before) + 1, len(text) + 1):
            for start in range(stream.skip, end):
                if count > stream.min_ids and text[start:end] in stream.stops:
                    return text[stream.skip : start], StopHit(text[start:end], count)
        before = text
    return whole[stream.skip :], None


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@given(
    ids=IDS,
    borders=st.lists(st.integers(0, 24)),
    stops=STOPS,
    min_ids=st.integers(0, 6),
    flags=st.integers(0, 3),
    skip=st.integers(0, 4),
)
@example(ids=[97, 98], borders=[], stops=("ab", "b", "a"), min_ids=1, flags=0, skip=0)
@example(ids=[0xE2, 0x82], borders=[1], stops=("\ufffd",), min_ids=0, flags=0, skip=0)
@example(ids=[97, 98, 97], borders=[], stops=("ab", "a"), min_ids=0, flags=0, skip=1)
def test_a_stream_is_the_one_shot_decode_cut_at_the_stop(
    tokenizer: Tokenizer,
    ids: list[int],
    borders: list[int],
    stops: tuple[str, ...],
    min_ids: int,
    flags: int,
    skip: int,
) -> None:
    special, continues = not flags & 1, bool(flags & 2)
    stream = TextStream(tokenizer, stops, min_ids, skip_special=special, continues=continues, skip=skip)
    assert run(stream, cut(ids, borders)) == expected(stream, ids)


def begins(text: str, stops: tuple[str, ...]) -> bool:
    return any(stop != text and stop.startswith(text) for stop in stops)


@given(ids=IDS, stops=STOPS, min_ids=st.integers(0, 6))
@example(ids=[97], stops=("a", "xy"), min_ids=1)
def test_text_comes_as_early_as_it_is_safe_and_little_is_remembered(
    ids: list[int], stops: tuple[str, ...], min_ids: int
) -> None:
    stream, shown = TextStream(BYTES, stops, min_ids), ""
    for count, id in enumerate(ids, 1):
        stream, piece = stream.feed([id])
        shown += piece
        if stream.hit:
            break
        text = settled(stream, ids[:count])
        undecided = (
            size
            for size in range(len(text), 0, -1)
            if any(s != text[-size:] and s.startswith(text[-size:]) for s in stops)
        )
        assert shown == text[: len(text) - next(undecided, 0)]
        assert len(stream.held) < max(map(len, stops), default=1)
        assert len(stream.unfinished) < 4


@given(ids=IDS, more=IDS, stops=STOPS)
def test_a_stream_is_a_value(ids: list[int], more: list[int], stops: tuple[str, ...]) -> None:
    stream, _ = TextStream(BYTES, stops).feed(ids)
    assert stream.feed(more) == stream.feed(more)
    assert stream.finish() == stream.finish()


def test_plain_text_without_stops_is_the_librarys_decode() -> None:
    ids = [*"héllo €😀 \n".encode(), 256, 261, 263, "é".encode()[0]]
    assert run(TextStream(BYTES), [ids]) == (BYTES.core.decode(ids), None)


def feed_text(text: str, stops: tuple[str, ...], min_ids: int = 0) -> tuple[str, StopHit | None]:
    return run(TextStream(BYTES, stops, min_ids), [list(text.encode())])


@pytest.mark.parametrize(
    ("text", "stops", "shown", "hit"),
    [
        ("one END two", ("END",), "one ", StopHit("END", 7)),
        ("one EN", ("END",), "one EN", None),
        ("EEND", ("END",), "E", StopHit("END", 4)),
        ("aabaabaaa", ("aabaaa",), "aab", StopHit("aabaaa", 9)),
        ("xabc", ("abc", "ab"), "x", StopHit("ab", 3)),
        ("xabcd", ("bcd", "abcd"), "x", StopHit("abcd", 5)),
        ("xabcd", ("abcde", "bc"), "xa", StopHit("bc", 4)),
        ("x😀y", ("😀",), "x", StopHit("😀", 5)),
        ("x\n\n\ny", ("\n\n",), "x", StopHit("\n\n", 3)),
    ],
)
def test_which_stop_wins(text: str, stops: tuple[str, ...], shown: str, hit: StopHit | None) -> None:
    assert feed_text(text, stops) == (shown, hit)


def test_of_two_matches_in_one_token_the_one_that_ends_first_wins() -> None:
    tokenizer = byte_level("xabby")
    assert run(TextStream(tokenizer, ("abb", "b")), [[256]]) == ("xa", StopHit("b", 1))
    assert run(TextStream(tokenizer, ("bb", "abb")), [[256]]) == ("x", StopHit("abb", 1))


def test_a_match_must_end_late_enough() -> None:
    assert feed_text("abab", ("ab",), min_ids=1) == ("", StopHit("ab", 2))
    assert feed_text("abab", ("ab",), min_ids=2) == ("ab", StopHit("ab", 4))
    assert feed_text("aaa", ("aa",), min_ids=2) == ("a", StopHit("aa", 3)), "it may begin early"
    assert feed_text("abab", ("ab",), min_ids=4) == ("abab", None)


def test_ids_after_a_hit_are_ignored() -> None:
    stream, shown = TextStream(BYTES, ("b",)).feed(b"ab")
    assert (shown, stream.hit) == ("a", StopHit("b", 2))
    assert stream.feed(b"cd") == (stream, "")
    assert stream.finish() == (stream, "")


def test_stops_reach_across_skipped_special_tokens() -> None:
    end = BYTES.token_id("<|end|>")
    assert end is not None
    assert run(TextStream(BYTES, ("ab",)), [[120, 97, end, 98]]) == ("x", StopHit("ab", 4))
    assert run(TextStream(BYTES, ("ab",), skip_special=False), [[97, end, 98]]) == ("a<|end|>b", None)


def test_the_space_before_a_sentencepiece_text() -> None:
    a, space = PIECES.token_id(" a"), PIECES.token_id(" ")
    assert a is not None
    assert space is not None
    assert run(TextStream(PIECES), [[a], [a]]) == ("a a", None)
    assert run(TextStream(PIECES, continues=True), [[a], [a]]) == (" a a", None)
    assert run(TextStream(PIECES), [[space], [a]]) == (" a", None)
    end = max(PIECES.special_ids)
    assert run(TextStream(PIECES), [[end], [a], [a]]) == ("a a", None), "skipped tokens are not the text's beginning"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a stop string must not be empty$"):
        TextStream(BYTES, ("a", ""))
