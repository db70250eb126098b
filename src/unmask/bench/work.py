"""What one forward has to read and to compute, from a model's sizes alone: bytes, FLOPs, and how many per byte.

Counted: the matrices of the layers and the head, keys and values, the products of attention. Left out, being small
beside them or staying in a processor's cache: norms, activations, the rows of the embedding, an adapter's matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

from unmask.config import ModelConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bits of a weight, and bytes beside them: a float32 scale per output; two bfloat16 numbers per 32 weights.
INT4_WEIGHT = 0.5 + 4 / 32
INT8_SCALE = 4


@dataclass(frozen=True, slots=True)
class Work:
    """One forward. weights, cache: bytes read (and, of the cache, written). products: FLOPs with the weights;
    attention: FLOPs with keys and values. A multiplication and an addition are two."""

    weights: float
    cache: float
    products: float
    attention: float

    @property
    def bytes(self) -> float:
        return self.weights + self.cache

    @property
    def flops(self) -> float:
        return self.products + self.attention

    @property
    def intensity(self) -> float:
        """FLOPs per byte.

        For one request and a short context: 2 N rows / (N bytes per weight), so 1 for a single row in bfloat16 and 32
        for a block of 32. The article that started this project (its sections 2 and 3) divides by 2 N bytes per weight
        and so halves it: 0.5, 16 for a block of 32, 64 for a batch of 128. A weight is read once, not twice.
        """
        return self.flops / self.bytes


def forward(
    config: ModelConfig, dtype: str, quantize: str | None = None, *, rows: int, context: int = 0, requests: int = 1
) -> Work:
    """The work of a forward of `requests` requests at once, each of `rows` rows that see `context` rows before them and
    each other; all rows are read. Weights are read once for all, keys and values once for each request.

    Causal rows see half of each other only: of that the numbers are bounds from above.
    """
    width, everyone = config.heads * config.head_dim, rows * requests
    layer = layer_weights(config)
    head = config.vocab_size * config.hidden_size
    seen = context + rows
    return Work(
        weights=config.layers * stored(layer, layer_outputs(config), dtype, quantize)
        # The head keeps 8 bits where the layers have 4.
        + stored(head, config.vocab_size, dtype, quantize and "int8"),
        cache=float(config.kv_bytes_per_token * BYTES[dtype] * requests * (seen + rows)),
        products=2.0 * everyone * (config.layers * layer + head),
        attention=4.0 * everyone * config.layers * width * seen,
    )


def layer_weights(config: ModelConfig) -> int:
    attention = config.hidden_size * config.head_dim * 2 * (config.heads + config.kv_heads)
    return attention + 3 * config.hidden_size * config.intermediate_size


def layer_outputs(config: ModelConfig) -> int:
    """Of all matrices of a layer together."""
    attention = config.head_dim * (config.heads + 2 * config.kv_heads) + config.hidden_size
    return attention + 2 * config.intermediate_size + config.hidden_size


def stored(weights: int, outputs: int, dtype: str, quantize: str | None) -> float:
    """Bytes of so many weights in matrices of so many outputs."""
    if quantize == "int8":
        return float(weights + INT8_SCALE * outputs)
    return weights * (INT4_WEIGHT if quantize == "int4" else BYTES[dtype])


def weight_bytes(config: ModelConfig, dtype: str, quantize: str | None) -> float:
    """Bytes of the weights in memory: those of a forward, and the embedding where it is not the head itself.

    A quantised head is another matrix than the embedding that tokens are looked up in.
    """
    embedding = config.vocab_size * config.hidden_size * BYTES[dtype]
    apart = quantize is not None or not config.tied
    return forward(config, dtype, quantize, rows=1).weights + apart * embedding


def cache_bytes(config: ModelConfig, dtype: str, rows: int) -> float:
    """Bytes of so many rows of keys and values."""
    return float(config.kv_bytes_per_token * BYTES[dtype] * rows)
