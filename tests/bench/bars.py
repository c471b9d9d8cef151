"""What the figures must reach: each bar is a ratio or a limit over the record of one whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import Any, Final

Record = dict[str, Any]
ANY, TUNED, PLAIN = "vllm any adapter", "vllm tuned to the set", "vllm without LoRA"
TORCH = ("torch avx2 bf16", "torch avx2 float32")


@dataclass(frozen=True)
class Bar:
    """`value` of a record should be at least `bar` (at most, if `is_limit`); None where it was not measured."""

    name: str
    value: Callable[[Record], float | None]
    bar: float
    goal: float | None = None
    is_limit: bool = False
    unit: str = "×"

    def line(self, record: Record) -> tuple[str, str, str, str, str]:
        value = self.value(record)
        sign = "≤" if self.is_limit else "≥"
        goal = f"{self.goal:g} {self.unit}" if self.goal else ""
        if value is None:
            return self.name, "–", f"{sign} {self.bar:g} {self.unit}", goal, "not measured"
        reached = value <= self.bar if self.is_limit else value >= self.bar
        verdict = "reached" if reached else "MISSED"
        if reached and self.goal and (value <= self.goal if self.is_limit else value >= self.goal):
            verdict = "goal reached"
        return self.name, f"{value:.3g} {self.unit}", f"{sign} {self.bar:g} {self.unit}", goal, verdict


def figure(record: Record, system: str, workload: str, name: str = "tokens_per_second") -> float | None:
    """The median over the runs of one figure."""
    return record["medians"].get(system, {}).get(workload, {}).get(name)


def scenario(record: Record, name: str, figure: str) -> float | None:
    return record["medians"].get("scenarios", {}).get(name, {}).get(figure)


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _over(workload: str, peer: str, name: str = "tokens_per_second") -> Callable[[Record], float | None]:
    return lambda record: ratio(figure(record, "site", workload, name), figure(record, peer, workload, name))


def _tax(workload: str) -> Callable[[Record], float | None]:
    def tax(record: Record) -> float | None:
        kept = ratio(figure(record, "site", workload), figure(record, "site", "w4"))
        return None if kept is None else (1 - kept) * 100

    return tax


def _better_w2(record: Record) -> float | None:
    peers = [rate for peer in (ANY, "peft") if (rate := figure(record, peer, "w2"))]
    return ratio(figure(record, "site", "w2"), max(peers)) if peers else None


def _fewer_bits(record: Record) -> float | None:
    rates = [rate for bits in ("int8", "int4") if (rate := figure(record, f"site {bits}", "w1"))]
    return ratio(max(rates, default=None), figure(record, "llama.cpp", "w1"))


def _engines(
    workload: str, system: str, peer: str, name: str = "tokens_per_second"
) -> Callable[[Record], float | None]:
    return lambda record: ratio(figure(record, system, workload, name), figure(record, peer, workload, name))


def _over_torch(workload: str) -> Callable[[Record], float | None]:
    """Over the better type of torch, on a processor that has AVX2 and no more."""

    def over(record: Record) -> float | None:
        rates = [rate for name in TORCH if (rate := figure(record, name, workload))]
        return ratio(figure(record, "engine avx2", workload), max(rates, default=None))

    return over


def _told_of_peak(record: Record) -> float | None:
    return figure(record, "engine", "w3", "of_peak")


def _products(record: Record) -> float | None:
    """W3 has as many rows of prompts as of answers."""
    told = record["medians"].get("parts", {}).get("bf16")
    shares = [told[shape]["products"]["of_peak"] for shape in ("answers", "prompts")] if told else []
    return harmonic_mean(shares) if shares else None


def _share_of_engine(record: Record) -> float | None:
    part = ratio(figure(record, "site", "w3"), figure(record, "engine", "w3"))
    return None if part is None else part * 100


def _told(name: str, figure: str) -> Callable[[Record], float | None]:
    return lambda record: scenario(record, name, figure)


def _share(name: str, above: str, below: str, factor: float = 1.0) -> Callable[[Record], float | None]:
    def share(record: Record) -> float | None:
        part = ratio(scenario(record, name, above), scenario(record, name, below))
        return None if part is None else part * factor

    return share


BARS: Final = (
    Bar("W3 over vLLM serving any adapter", _over("w3", ANY), 5, 7),
    Bar("W3 over vLLM tuned to the set", _over("w3", TUNED), 1.4, 2),
    Bar("W3 first token, of vLLM's serving any adapter", _over("w3", ANY, "first_ms"), 0.2, is_limit=True),
    Bar("W5 over vLLM serving any adapter", _over("w5", ANY), 3, 5),
    Bar("W2 over the better peer", _better_w2, 2.5, 4),
    Bar("W1 over vLLM serving any adapter", _over("w1", ANY), 2.5),
    Bar("W1 with 8 or 4 bits over llama.cpp with 4 (reported)", _fewer_bits, 0, 1),
    Bar("W4 over vLLM without LoRA", _over("w4", PLAIN), 1.2, 1.5),
    Bar("W3 with int8 over bf16, engine", _engines("w3", "engine int8", "engine"), 1.5),
    Bar("W3 with int4 over bf16, engine", _engines("w3", "engine int4", "engine"), 1),
    Bar(
        "W1 with int8: first token over bf16's, engine",
        _engines("w1", "engine int8", "engine", "first_ms"),
        1,
        is_limit=True,
    ),
    Bar("W1 on AVX2 over torch restricted to it", _over_torch("w1"), 6),
    Bar("W2 on AVX2 over torch restricted to it", _over_torch("w2"), 4),
    Bar("W1 with int4 on AVX2 over llama.cpp built for it", _engines("w1", "engine avx2 int4", "llama.cpp avx2"), 0.9),
    Bar("W3: products, of the peak of bf16", _products, 75, unit="%"),
    Bar("W3: all of the engine, of the peak (reported)", _told_of_peak, 0, 75, unit="%"),
    Bar("W3 of the site, of the engine's", _share_of_engine, 92, unit="%"),
    Bar("W3: what LoRA takes from W4", _tax("w3"), 20, is_limit=True, unit="%"),
    Bar("W5: what LoRA takes from W4 (reported)", _tax("w5"), 100, is_limit=True, unit="%"),
    Bar("2,000 adapters by Zipf, of the rate with 25", _share("crowd", "zipf", "few", 100), 94, unit="%"),
    Bar("First use of an adapter adds", _told("cold", "added_ms"), 30, is_limit=True, unit="ms"),
    Bar("Worker ready after", _told("startup", "ready_seconds"), 5, is_limit=True, unit="s"),
    Bar("Worker's memory after W3", _told("memory", "worker_mb"), 1200, is_limit=True, unit="MB"),
    Bar(
        "Prefix cache: second first token over the first, an instruction of 512 tokens before",
        _share("prefix", "instruction_second_ms", "instruction_first_ms", 100),
        40,
        is_limit=True,
        unit="%",
    ),
    Bar(
        "The same, the card's examples before",
        _share("prefix", "examples_second_ms", "examples_first_ms", 100),
        40,
        is_limit=True,
        unit="%",
    ),
    Bar("W1 beside one busy core, of the quiet rate", _share("busy", "w1_beside_1", "w1_beside_0", 100), 45, unit="%"),
    Bar("W3 beside one busy core, of the quiet rate", _share("busy", "w3_beside_1", "w3_beside_0", 100), 45, unit="%"),
    Bar("W1 beside two busy cores, of the quiet rate", _share("busy", "w1_beside_2", "w1_beside_0", 100), 30, unit="%"),
    Bar("W3 beside two busy cores, of the quiet rate", _share("busy", "w3_beside_2", "w3_beside_0", 100), 30, unit="%"),
    Bar(
        "W1: slowest request beside one busy core, over its quiet time",
        _told("busy", "w1_beside_1_longest"),
        5,
        is_limit=True,
    ),
    Bar(
        "W3: slowest request beside one busy core, over its quiet time",
        _told("busy", "w3_beside_1_longest"),
        5,
        is_limit=True,
    ),
    Bar(
        "Fairness: beside 200 queued over alone",
        _share("fairness", "queued_first_ms", "alone_first_ms"),
        1.5,
        is_limit=True,
    ),
    Bar(
        "Fairness: beside 200 queued over beside 31 running",
        _share("fairness", "queued_first_ms", "busy_first_ms"),
        1.5,
        is_limit=True,
    ),
    Bar(
        "Chat beside a training over alone, p95", _share("training", "beside_p95_ms", "alone_p95_ms"), 2, is_limit=True
    ),
    Bar(
        "Chat beside a training over alone, p95 of first tokens",
        _share("training", "beside_first_p95_ms", "alone_first_p95_ms"),
        2,
        is_limit=True,
    ),
)
