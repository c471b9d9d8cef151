"""A blend whose gate learns while its parts stay as they are: LoRA-Flow's gate and RAMoLE's router.

The parts are what serving has of them (`inference.adapters.blend`), and so is what a gate makes of a row; here autograd
goes back through it. Of each example some parts may be left out, which get no coefficient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from inference.adapters.gate import Gate
from inference.adapters.weights import AdapterWeights
from inference.tasks.recipe import Lora
from inference.training.adapter import Pair
from inference.training.decoder import Shares
from inference.training.mixed import Rectangle


@dataclass(frozen=True)
class Frozen:
    """The parts of one target: `a` [layers, in, ranks] and `b` [layers, ranks, out], of which part i has the ranks from
    the end of the one before it to `ends[i]`."""

    a: Tensor
    b: Tensor
    ends: tuple[int, ...]

    @cached_property
    def membership(self) -> Tensor:
        """float32 [ranks, parts]: 1 where a rank is of a part. A product with it is exact, and back far faster on a CPU
        than columns that are picked."""
        widths = [end - start for start, end in zip((0, *self.ends), self.ends, strict=False)]
        owners = torch.repeat_interleave(torch.arange(len(self.ends)), torch.tensor(widths))
        return torch.nn.functional.one_hot(owners, len(self.ends)).float().to(self.a.device)


FrozenParts = dict[str, Frozen]
"""By target."""


def frozen(weights: AdapterWeights, device: torch.device) -> FrozenParts:
    """The parts of a blend, whose `weights` have gates, without what their ranks are padded with."""
    found = {}
    for target, pair in weights.items():
        assert pair.gate is not None, "a blend has a gate for each target"
        ends = pair.gate.ends
        found[target] = Frozen(pair.a[:, :, : ends[-1]].to(device), pair.b[:, : ends[-1]].to(device), ends)
    return found


class Gated(ABC):
    """Frozen parts, and what works out the coefficients of each row."""

    lora = Lora()
    scaling = 1.0
    top_k = 0
    temperature = 1.0

    def __init__(self, parts: FrozenParts) -> None:
        self.parts = parts
        some = next(iter(parts.values()))
        self.num_layers, self.num_parts, self.device = len(some.a), len(some.ends), some.a.device

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimizer steps over."""
        return []

    @abstractmethod
    def scores(self, target: str, layer: int, shrunk: Tensor, seen: Tensor, residual: Tensor) -> Tensor:
        """[rows, parts] of `shrunk` [rows, ranks], which is `seen` times A, of the inputs and of the residual."""

    def coefficients(self, layer: int, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """[rows, parts]: the softmax of those that are `allowed`, of which `top_k` are the best; 0 for the others."""
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        if 0 < self.top_k < self.num_parts:
            order = scores.sort(dim=-1, descending=True, stable=True).indices
            scores = scores.scatter(-1, order[:, self.top_k :], -torch.inf)
        return torch.softmax(scores / self.temperature, dim=-1)

    def shares(self, rectangle: Rectangle) -> Shares:
        """For one pass over the examples of `rectangle`."""
        allowed = self._allowed(rectangle)

        def of(target: str, layer: int, rows: Tensor, residual: Tensor) -> tuple[Tensor, Tensor] | None:
            if target not in self.parts:
                return None
            part = self.parts[target]
            shrunk = rows @ part.a[layer]
            wide = torch.promote_types(rows.dtype, torch.float32)
            scores = self.scores(target, layer, shrunk.to(wide), rows.to(wide), residual.to(wide))
            weights = self.coefficients(layer, scores, allowed)
            return (shrunk.to(wide) * (weights @ part.membership.to(wide).T)).to(rows.dtype), part.b[layer]

        return of

    def _allowed(self, rectangle: Rectangle) -> Tensor | None:
        """Whether a part may answer a row, bool [rows, parts]; None where all may."""
        if not any(rectangle.parts):
            return None
        allowed = torch.zeros(rectangle.examples, self.num_parts, dtype=torch.bool)
        for example, parts in enumerate(rectangle.parts):
            allowed[example, list(parts) or slice(None)] = True
        return allowed.repeat_interleave(rectangle.length, dim=0).to(self.device)

    # An adapter that learns is asked for these, too; a blend has no pairs of its own.

    def pairs(self) -> tuple[dict[str, Pair], ...]:
        return tuple({} for _ in range(self.num_layers))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that was learned, under the name that a gate's file has for it."""
        yield from ()

    def round(self) -> None:  # noqa: B027 - nothing to do is what it means
        """A gate is served in float32, as it learned."""

    def config(self) -> dict[str, Any]:
        raise NotImplementedError("a gate is saved in a file of its own and has no adapter_config.json")


class FlowGate(Gated):
    """LoRA-Flow's gate: of the residual stream x where a layer begins, softmax(`weight` x / temperature) + `bias`.

    It begins at the part `start` alone: with `weight` zero the softmax is even, and `bias` makes up for it.
    """

    def __init__(self, parts: FrozenParts, hidden: int, start: int, temperature: float = 1.0) -> None:
        super().__init__(parts)
        self.temperature = temperature
        bias = torch.full((self.num_layers, self.num_parts), -1 / self.num_parts)
        bias[:, start] += 1
        self.weight = torch.zeros(self.num_layers, self.num_parts, hidden, device=self.device).requires_grad_()
        self.bias = bias.to(self.device).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight, self.bias]

    def scores(self, target: str, layer: int, shrunk: Tensor, seen: Tensor, residual: Tensor) -> Tensor:
        return residual @ self.weight[layer].T

    def coefficients(self, layer: int, scores: Tensor, allowed: Tensor | None) -> Tensor:
        return super().coefficients(layer, scores, allowed) + self.bias[layer]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for layer in range(self.num_layers):
            yield f"layers.{layer}.weight", self.weight[layer].detach()
            yield f"layers.{layer}.bias", self.bias[layer].detach()


class RamoleGate(Gated):
    """RAMoLE's router: of an input x and a part's update v = B A x, (A_r x) · (B_rᵀ v) / √g, and the softmax of that.

    v is never needed: its share of the score is z · (B B_r A_r x) with z = A x. A_r begins as PEFT draws an A, B_r with
    a deviation of 0.01, so that all parts begin with about the same coefficient.
    """

    def __init__(self, parts: FrozenParts, g: int, seed: int, temperature: float = 1.0, top_k: int = 0) -> None:
        super().__init__(parts)
        self.temperature, self.top_k, self._g = temperature * math.sqrt(g), top_k, g
        chance = torch.Generator().manual_seed(seed)
        self.queries, self.outputs = dict[str, Tensor](), dict[str, Tensor]()
        for target, part in parts.items():
            inputs, outputs = part.a.shape[1], part.b.shape[2]
            bound = 1 / math.sqrt(inputs)
            queries = torch.empty(self.num_layers, g, inputs).uniform_(-bound, bound, generator=chance)
            keys = torch.empty(self.num_layers, outputs, g).normal_(0, 0.01, generator=chance)
            self.queries[target] = queries.to(self.device).requires_grad_()
            self.outputs[target] = keys.to(self.device).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.queries.values(), *self.outputs.values()]

    def scores(self, target: str, layer: int, shrunk: Tensor, seen: Tensor, residual: Tensor) -> Tensor:
        part = self.parts[target]
        queries = seen @ self.queries[target][layer].T
        keys = part.b[layer].to(shrunk.dtype) @ self.outputs[target][layer]
        return (shrunk * (queries @ keys.T)) @ part.membership.to(shrunk.dtype)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for layer in range(self.num_layers):
            for target in self.parts:
                yield f"layers.{layer}.{target}.A_r", self.queries[target][layer].detach()
                yield f"layers.{layer}.{target}.B_r", self.outputs[target][layer].detach()


class ArrowGate(Gated):
    """Arrow's coefficients, of which nothing learns: they follow from the parts, as their `gates` have them."""

    def __init__(self, parts: FrozenParts, gates: dict[str, Gate], top_k: int, temperature: float = 1.0) -> None:
        super().__init__(parts)
        self.top_k, self.temperature = top_k, temperature
        self._prototypes = {target: gate.projection.to(self.device) for target, gate in gates.items()}

    def scores(self, target: str, layer: int, shrunk: Tensor, seen: Tensor, residual: Tensor) -> Tensor:
        return (seen @ self._prototypes[target][layer]).abs()


class EvenGate(Gated):
    """1 / k of each of the k parts that may answer."""

    def scores(self, target: str, layer: int, shrunk: Tensor, seen: Tensor, residual: Tensor) -> Tensor:
        return shrunk.new_zeros(len(shrunk), self.num_parts)


def surviving(parts: Sequence[int], chance: Any, dropout: float, least: int = 2) -> tuple[int, ...]:
    """Those of `parts` that are left when each is dropped with the probability `dropout`, `least` or more of them;
    `chance` is a `random.Random`."""
    kept = [part for part in parts if chance.random() >= dropout]
    while len(kept) < min(least, len(parts)):
        kept.append(chance.choice([part for part in parts if part not in kept]))
    return tuple(sorted(kept))
