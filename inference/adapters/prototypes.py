"""Which inputs an adapter answers to most: the direction of each of its updates by which Arrow knows a row as its own
(Ostapenko et al., 2024, arXiv 2405.11157)."""

from __future__ import annotations

import torch
from torch import Tensor


def prototypes(a: Tensor, b: Tensor) -> Tensor:
    """The first left singular vector of `a` [layers, in, rank] times `b` [layers, rank, out], float32 [layers, in].

    That is the first eigenvector of a (b bᵀ) aᵀ, taken exactly where it has the size of the rank: with a = q r it is q
    times that of r (b bᵀ) rᵀ. Its sign says nothing. Of an update of zeros it is zero.
    """
    basis, triangle = torch.linalg.qr(a.double())
    gram = b.double() @ b.double().mT
    sizes, vectors = torch.linalg.eigh(triangle @ gram @ triangle.mT)
    first = (basis @ vectors[:, :, -1:]).squeeze(2)
    return torch.where(sizes[:, -1:] > 0, first, torch.zeros_like(first)).float()
