"""Rows as the kernels read them that come behind a product: with its bias, in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_biased(rows: tl.tensor, bias: tl.tensor, place: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """The numbers of `rows` at `place` plus those of `bias`, if there is one; 0 where they are not `inside`."""
    values = tl.load(rows + place, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        values += tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    return values
