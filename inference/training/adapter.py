"""An adapter that learns: its pairs in float32 in one piece of memory, so that an optimizer steps over one tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.invocation import KEY
from inference.model.architecture import Architecture
from inference.tasks.recipe import Lora

CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Pair:
    """The factors of one target in one layer, as PEFT lays them out: `a` [rank, in] and `b` [out, rank].

    Both are leaves of autograd whose gradients lie in the adapter's `values.grad`.
    """

    a: Tensor
    b: Tensor


Pairs = tuple[dict[str, Pair], ...]
"""The pairs of each layer, by target."""


class Learned(Protocol):
    """What is asked of any adapter that learns."""

    lora: Lora

    @property
    def parameters(self) -> list[Tensor]: ...

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]: ...

    def round(self) -> None: ...

    def config(self) -> dict[str, Any]: ...


class OfPairs(Learned, Protocol):
    """What a decoder asks of an adapter besides."""

    scaling: float

    def pairs(self) -> Pairs: ...


class Adapter:
    """A fresh adapter: A drawn by `seed` as PEFT draws it (uniform within 1 / √in), B zero.

    `values` float32 [number of parameters] holds all of it, and `values.grad` the gradients that passes add to.
    `invocation` are the tokens from which on it acts; none for one that does from the start.
    """

    def __init__(
        self,
        architecture: Architecture,
        lora: Lora,
        seed: int,
        device: torch.device = CPU,
        invocation: tuple[int, ...] = (),
    ) -> None:
        self.lora, self.scaling, self._invocation = lora, lora.lora_alpha / lora.rank, invocation
        self._module_name = architecture.module_name
        shapes = {name: architecture.target_shape(name) for name in lora.target_modules}
        size = architecture.num_layers * sum(lora.rank * (rows_in + out) for rows_in, out in shapes.values())
        self.values = torch.zeros(size, device=device)
        self.values.grad = torch.zeros_like(self.values)
        self._places = _Places(self.values)
        self.layers = tuple(
            {name: self._pair(*shape) for name, shape in shapes.items()} for _ in range(architecture.num_layers)
        )
        self._draw(seed)

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimizer steps over."""
        return [self.values]

    def pairs(self) -> Pairs:
        return self.layers

    def config(self) -> dict[str, Any]:
        """adapter_config.json, but for the base's name."""
        invoked = {KEY: list(self._invocation)} if self._invocation else {}
        return peft_config(self.lora) | invoked

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every factor under the name that PEFT saves it by."""
        for index, layer in enumerate(self.layers):
            for target, pair in layer.items():
                prefix = f"base_model.model.{self._module_name(target, index)}"
                yield f"{prefix}.lora_A.weight", pair.a.detach()
                yield f"{prefix}.lora_B.weight", pair.b.detach()

    @torch.no_grad()
    def round(self) -> None:
        """Round to bfloat16 in place, so that what is scored is what is saved."""
        self.values.copy_(self.values.to(torch.bfloat16))

    def _pair(self, rows_in: int, out: int) -> Pair:
        return Pair(self._places.take(self.lora.rank, rows_in), self._places.take(out, self.lora.rank))

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            for pair in layer.values():
                bound = 1 / math.sqrt(pair.a.shape[1])
                pair.a.copy_(torch.empty(pair.a.shape).uniform_(-bound, bound, generator=chance))


def save_adapter(adapter: Learned, base_name: str, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors (bfloat16) into `folder`, as PEFT reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in adapter.named_tensors()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = adapter.config() | {"base_model_name_or_path": base_name, "inference_mode": True}
    text = json.dumps({key: _plain(value) for key, value in config.items()}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def peft_config(lora: Lora) -> dict[str, Any]:
    """What PEFT writes of an adapter of this shape."""
    untyped: Any = lora_config(lora)
    config: dict[str, Any] = untyped.to_dict()
    return config


def lora_config(lora: Lora, dropout: float = 0.0) -> LoraConfig:
    """What PEFT calls an adapter of this shape."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.lora_alpha,
        target_modules=list(lora.target_modules),
        lora_dropout=dropout,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _plain(value: Any) -> Any:
    """A JSON value of a config entry; sets are sorted, so that the same adapter is the same file."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)


class _Places:
    """Hands out pieces of one tensor, each a leaf whose gradient is the same piece of its gradient."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._next = values, 0

    def take(self, rows: int, columns: int) -> Tensor:
        piece = slice(self._next, self._next + rows * columns)
        self._next = piece.stop
        leaf = self._values[piece].view(rows, columns).detach().requires_grad_()
        assert self._values.grad is not None
        leaf.grad = self._values.grad[piece].view(rows, columns)
        return leaf
