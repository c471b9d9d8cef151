"""Biases of an adapter's own, as what they add to the base's: of linears and LayerNorms, and of the B of a LoRA.

PEFT trains the base's biases in place and saves them whole (`bias`), or gives B a bias of its own (`lora_bias`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from inference.adapters.findings import Parts
from inference.model.architecture import Architecture
from inference.model.biases import bias_places
from inference.model.spec import HEAD

Own = Callable[[str, int], Tensor]
"""The base's own bias of a target in a layer, float32 [out], rounded to the decoder's type."""
Biases = dict[str, dict[int, Tensor]]
"""What is added to a target's outputs in a layer, float32 [out], by target and layer."""


def read_biases(
    file: Path, biases: Parts, rows: Parts, architecture: Architecture, own: Own, dtype: torch.dtype
) -> Biases:
    """By how much `biases` differ from the base's; those that do not, as PEFT saves a head's, are left out.

    A head of which `rows` were trained has none in PEFT, whatever its base and its file have.
    """
    added: Biases = defaultdict(dict)
    with safe_open(file, framework="pt") as content:
        for module, info in biases.items():
            trained = content.get_tensor(info.name).to(dtype).to(torch.float32)
            for place in bias_places(architecture, module):
                base, share = own(place.target, place.layer), trained[place.outputs]
                # One that was cut with its table leaves the rest as it is; one of all heads is that of each.
                share = torch.cat([share, base[len(share) :]]) if place.target == HEAD else share
                change = share.repeat(len(base) // len(share)) - base
                if change.any():
                    added[place.target][place.layer] = change
    if HEAD in rows and HEAD in architecture.spec.biased:
        added[HEAD][0] = -own(HEAD, 0)
    return added
