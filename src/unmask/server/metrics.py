"""What `/metrics` says, in Prometheus' text format. One registry per app."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from unmask.lm import Generation

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
RATIOS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
QUANTILES = (0.5, 0.9, 0.95, 0.99)
RECENT = 2048


disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per series, which nobody asks for


class Metrics:
    """gauges: read when asked for, name -> (what it is, its value now)."""

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("unmask_requests", "HTTP requests", ["route", "status"], registry=registry)
        self.generations = Counter(
            "unmask_generations", "Finished generations", ["mode", "finish_reason"], registry=registry
        )
        self.prompt_tokens = Counter("unmask_prompt_tokens", "Prompt tokens of started requests", registry=registry)
        self.tokens = Counter("unmask_generated_tokens", "Tokens of finished generations", ["mode"], registry=registry)
        self.forwards = Counter(
            "unmask_forwards", "Forwards after prefill of finished generations", ["mode"], registry=registry
        )
        self.tpf = Histogram(
            "unmask_tokens_per_forward", "Tokens per forward after prefill", ["mode"], buckets=RATIOS, registry=registry
        )
        self.acceptance = Histogram(
            "unmask_acceptance_length", "Tokens per draft+verify round", ["mode"], buckets=RATIOS, registry=registry
        )
        self.first = Histogram(
            "unmask_time_to_first_token_seconds",
            "From arrival to the first certain text",
            buckets=SECONDS,
            registry=registry,
        )
        self.gap = Histogram(
            "unmask_inter_token_seconds",
            "Between two deliveries of one choice, per token delivered",
            buckets=GAPS,
            registry=registry,
        )
        self.whole = Histogram(
            "unmask_generation_seconds", "From arrival to the end of a choice", buckets=SECONDS, registry=registry
        )
        self.recent: dict[str, deque[float]] = {
            "unmask_time_to_first_token": deque(maxlen=RECENT),
            "unmask_inter_token": deque(maxlen=RECENT),
        }
        registry.register(_Now(gauges, self.recent))

    def first_token(self, seconds: float) -> None:
        self.first.observe(seconds)
        self.recent["unmask_time_to_first_token"].append(seconds)

    def next_tokens(self, seconds: float, tokens: int) -> None:
        self.gap.observe(seconds / tokens)
        self.recent["unmask_inter_token"].append(seconds / tokens)

    def finished(self, generation: Generation, seconds: float) -> None:
        mode, stats = generation.mode, generation.stats
        self.generations.labels(mode, generation.finish_reason).inc()
        self.tokens.labels(mode).inc(stats.tokens)
        self.forwards.labels(mode).inc(stats.nfe)
        self.whole.observe(seconds)
        if stats.nfe:
            self.tpf.labels(mode).observe(stats.tpf)
        if stats.acceptance_length is not None and generation.strategy != "ar":
            self.acceptance.labels(mode).observe(stats.acceptance_length)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Now(Collector):
    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]], recent: dict[str, deque[float]]) -> None:
        self.gauges, self.recent = gauges, recent

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, (text, value) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=value())
        for name, values in self.recent.items():
            family = GaugeMetricFamily(
                f"{name}_quantile_seconds", f"Of the last {RECENT} observations", labels=["quantile"]
            )
            ordered = sorted(values)
            for q in QUANTILES if ordered else ():
                family.add_metric([str(q)], ordered[min(int(q * len(ordered)), len(ordered) - 1)])
            yield family
