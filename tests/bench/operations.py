"""How many multiplications and additions a decoder must do, by whatever instruction: two for each use of a weight.

Norms, rotary embedding, softmax and activation are not counted: they are what stands between a decoder and the peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.model.architecture import HEAD, TARGETS, Architecture


@dataclass(frozen=True)
class Operations:
    """Of one row through all layers of `architecture`."""

    architecture: Architecture

    @property
    def products(self) -> int:
        """Of a row with the linears of all layers."""
        shapes = [self.architecture.target_shape(target) for target in TARGETS]
        return 2 * self.architecture.num_layers * sum(inputs * outputs for inputs, outputs in shapes)

    @property
    def head(self) -> int:
        """Of a row whose next token is wanted."""
        inputs, outputs = self.architecture.target_shape(HEAD)
        return 2 * inputs * outputs

    @property
    def attention(self) -> int:
        """Of a row with the key and the value of one position."""
        arch = self.architecture
        return 4 * arch.num_layers * arch.num_heads * arch.head_dim

    def adapters(self, rank: int, targets: tuple[str, ...]) -> int:
        """Of a row with an adapter of `rank` on `targets`."""
        shapes = [self.architecture.target_shape(target) for target in targets]
        return 2 * rank * self.architecture.num_layers * sum(inputs + outputs for inputs, outputs in shapes)

    def answer(self, prompt: int, length: int) -> int:
        """Of a whole answer of the base: each token is a row but the last, and each of the answer's was wanted."""
        rows = prompt + length - 1
        return rows * self.products + length * self.head + rows * (rows + 1) // 2 * self.attention
