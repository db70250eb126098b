"""Small vocabularies for the tests of this room: byte-level BPE and SentencePiece, as objects and as GGUF metadata."""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Core

from unmask.text import Tokenizer

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©"), ("ð", "Ł"), ("Ċ", "Ċ")]
SPECIAL = ["<|mask|>", "<|im_start|>", "<|im_end|>"]


def byte_level_core() -> Core:
    vocab = {entry: id for id, entry in enumerate([*LETTERS, *(a + b for a, b in MERGES)])}
    core = Core(models.BPE(vocab=vocab, merges=MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    core.add_tokens([AddedToken("<think>", normalized=False)])
    return core


def sentencepiece_fields() -> dict[str, object]:
    pieces = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)]
    pieces += [(f"<0x{byte:02X}>", 6, 0.0) for byte in range(256)]
    merged = ["▁a", "▁▁", "s>", "bb", "ab", "abb"]
    pieces += [(piece, 1, -1.0 - rank) for rank, piece in enumerate(merged)]
    pieces += [(letter, 1, -100.0) for letter in "▁abs<>/"] + [("<think>", 4, 0.0)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece for piece, _, _ in pieces],
        "tokenizer.ggml.token_type": [kind for _, kind, _ in pieces],
        "tokenizer.ggml.scores": [score for _, _, score in pieces],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def gpt2_fields(pre: str = "gpt-2", **extra: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*LETTERS, *(a + b for a, b in MERGES), *SPECIAL, "<think>"],
        "tokenizer.ggml.token_type": [1] * (256 + len(MERGES)) + [3] * 3 + [4],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
    }
    return fields | {f"tokenizer.ggml.{key}": value for key, value in extra.items()}


BYTES = Tokenizer(byte_level_core())
PIECES = Tokenizer.from_gguf(sentencepiece_fields())


def entry_id(tokenizer: Tokenizer, entry: str) -> int:
    return tokenizer.core.get_vocab()[entry]


def entries(tokenizer: Tokenizer, text: str, special: bool = False) -> list[str]:
    return [str(tokenizer.core.id_to_token(id)) for id in tokenizer.encode(text, special=special)]
