"""What a model and an engine are made of: frozen, validated once.

`ModelConfig` is architecture-neutral; `model.families` turns a Hugging Face config or GGUF metadata into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding, rotate-half layout (first half of a head paired with the second).

    kind "yarn": arXiv 2309.00071 with rounded correction range; "llama3": the smoothed frequency scaling of Llama 3.1;
    "linear": positions divided by `factor`. `attention_factor` multiplies cos and sin (YaRN's temperature).
    """

    theta: float = 10_000.0
    kind: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: float = 1.0
    original_max_position: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Llama-style decoder: pre-norm, SwiGLU, grouped-query attention.

    query_scale: (beta, n): queries are multiplied by 1 + beta * ln(1 + floor(position / n)) after RoPE
    (Llama 4; Ministral 3; Nemotron-Labs-Diffusion).
    qk_norm: RMSNorm over each head of q and k before RoPE (Qwen3). max_position: longest context, in tokens.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position: int
    rope: Rope = Rope()
    norm_eps: float = 1e-5
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    query_scale: tuple[float, int] | None = None
    stop_ids: tuple[int, ...] = ()
    bos_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")

    @property
    def parameters(self) -> int:
        """Number of weights, embeddings and head included (the head once where it is tied)."""
        attention = self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads)
        attention += self.qkv_bias * self.head_dim * (self.heads + 2 * self.kv_heads) + self.o_bias * self.hidden_size
        mlp = 3 * self.hidden_size * self.intermediate_size
        mlp += self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        norms = 2 * self.hidden_size + self.qk_norm * 2 * self.head_dim
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.layers * (attention + mlp + norms) + embeddings + self.hidden_size

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values per byte of the cache's dtype: multiply by the dtype's size."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How much one engine may hold and how it computes.

    page_size: KV rows per page. max_tokens_cached: rows of KV memory over all requests (None: chosen at load).
    max_rows: rows of one forward over all requests. max_live: requests decoded at a time.
    exactness: in "exact" the ids of a request do not depend on mode, batch mates, arrival or preemption; "fast" runs
        the kernels that are quickest for each shape.
    oracle_seconds: what an oracle may take for one look at a text.
    graphs: forwards of few rows are recorded on a GPU (`engine.graphs`), where they turn out to be the same.
    """

    page_size: int = 64
    max_tokens_cached: int | None = None
    max_rows: int = 512
    max_live: int = 64
    prefill_chunk: int = 256
    exactness: Literal["exact", "fast"] = "fast"
    prefix_reuse: bool = True
    oracle_seconds: float = 10.0
    graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("page_size", "max_rows", "max_live", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.oracle_seconds > 0:
            raise ValueError(f"oracle_seconds must be above 0, got {self.oracle_seconds}")
        if self.exactness not in ("exact", "fast"):
            raise ValueError(f"exactness must be 'exact' or 'fast', got {self.exactness!r}")
