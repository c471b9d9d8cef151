"""A NOLA that learns: the coefficients of random bases, which stay as they are (`inference.adapters.random_bases`).

Every pass makes the pairs anew, by products that autograd goes back through, so a coefficient's gradient is the inner
product of its basis with the pair's. All bases are kept, float32: 4 bytes times rank, bases, and inputs and outputs of
each linear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from inference.adapters.methods.nola import COEFFICIENTS, GENERATOR, MOST_NUMBERS
from inference.adapters.random_bases import draw, start_of, stream_key
from inference.model.architecture import Architecture
from inference.tasks.recipe import Lora
from inference.training.adapter import CPU, Pair


class NolaAdapter:
    """Fresh coefficients, all zero: the first gradient reaches those of B alone, since A begins with A0 and B at zero.

    `values` float32 [targets, layers, 2, bases] holds those of A and of B, and `values.grad` their gradients.
    """

    def __init__(self, architecture: Architecture, lora: Lora, seed: int, device: torch.device = CPU) -> None:
        """Raises ValueError for more numbers than a worker would draw."""
        self.lora, self.scaling, self.seed = lora, lora.lora_alpha / lora.rank, seed
        self._architecture, self._num_layers = architecture, architecture.num_layers
        self._check()
        shape = (len(lora.target_modules), self._num_layers, 2, lora.nola_basis)
        self.values = torch.zeros(shape, device=device, requires_grad=True)
        self._starts = [self._drawn(target, "A0", device)[:, 0] for target in lora.target_modules]
        self._bases = [
            (self._drawn(target, "A", device), self._drawn(target, "B", device)) for target in lora.target_modules
        ]

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimizer steps over."""
        return [self.values]

    def pairs(self) -> tuple[dict[str, Pair], ...]:
        """The pairs of each layer by target, made of the coefficients as they are now."""
        made = [self._target_pairs(index) for index in range(len(self.lora.target_modules))]
        targets = self.lora.target_modules
        return tuple(
            {target: Pair(a[layer], b[layer]) for target, (a, b) in zip(targets, made, strict=True)}
            for layer in range(self._num_layers)
        )

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The coefficients [2, bases] of each module under the name that a file has for them."""
        for target, layers in zip(self.lora.target_modules, self.values.detach(), strict=True):
            for layer, coefficients in enumerate(layers):
                yield f"base_model.model.{self._architecture.module_name(target, layer)}.{COEFFICIENTS}", coefficients

    @torch.no_grad()
    def round(self) -> None:
        """Round to bfloat16 in place, so that what is scored is what is saved."""
        self.values.copy_(self.values.to(torch.bfloat16))

    def config(self) -> dict[str, Any]:
        """adapter_config.json, but for the base's name."""
        return {
            "peft_type": "NOLA",
            "task_type": "CAUSAL_LM",
            "r": self.lora.rank,
            "lora_alpha": self.lora.lora_alpha,
            "target_modules": list(self.lora.target_modules),
            "bias": "none",
            "nola_basis": self.lora.nola_basis,
            "nola_seed": self.seed,
            "nola_generator": GENERATOR,
        }

    def _check(self) -> None:
        widths = sum(sum(self._architecture.target_shape(target)) for target in self.lora.target_modules)
        numbers = self._num_layers * self.lora.rank * self.lora.nola_basis * widths
        if numbers > MOST_NUMBERS:
            raise ValueError(
                f"nola_basis {self.lora.nola_basis} means {numbers:,} random numbers, above {MOST_NUMBERS:,}, the most "
                "that are drawn; take fewer bases, a lower rank or fewer target_modules"
            )

    def _target_pairs(self, index: int) -> tuple[Tensor, Tensor]:
        """A [layers, rank, in] and B [layers, out, rank] of one target."""
        (inputs, outputs), rank = self._architecture.target_shape(self.lora.target_modules[index]), self.lora.rank
        weights = self.values[index] / math.sqrt(self.lora.nola_basis)
        bases_a, bases_b = self._bases[index]
        a = self._starts[index] + torch.bmm(weights[:, :1], bases_a)[:, 0]
        b = torch.bmm(weights[:, 1:], bases_b)[:, 0]
        return a.view(-1, rank, inputs), b.view(-1, outputs, rank)

    def _drawn(self, target: str, matrix: str, device: torch.device) -> Tensor:
        """The bases of a matrix in every layer, float32 [layers, bases, size]; A0 is the only one of its own."""
        (inputs, outputs), rank = self._architecture.target_shape(target), self.lora.rank
        layers = []
        for layer in range(self._num_layers):
            key = stream_key(self.seed, self._architecture.module_name(target, layer), matrix)
            if matrix == "A0":
                layers.append(start_of(key, (rank, inputs), device).view(1, -1).to(torch.float32))
            else:
                size = rank * (inputs if matrix == "A" else outputs)
                layers.append(draw(key, 0, self.lora.nola_basis, size, device).to(torch.float32))
        return torch.stack(layers)
