"""Which tensors a checkpoint of an architecture has, by name, and what is said where it has others."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Final

from inference.model.architecture import Architecture
from inference.model.biases import norm_paths
from inference.model.checkpoint import Checkpoint, WeightsError
from inference.model.other_code import whose
from inference.model.spec import EMBEDDING, HEAD, IN_FEWER_BITS, LAST_NORM, HeadNorm, Norm
from inference.reading import shown

log = logging.getLogger(__name__)

_MOST_NAMED: Final = 3
_BUFFERS: Final = re.compile(r"\.(rotary_emb\.\w+|masked_bias|attention\.bias)$")
"""What older programs saved beside weights, and every program computes itself."""
_OF_PICTURES: Final = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")
_PARTS: Final = re.compile(rf"\.{IN_FEWER_BITS}$")


def needed(architecture: Architecture) -> set[str]:
    """The tensors without which it is no whole model; the head may be the embedding in one that is tied."""
    modules = {*_norms(architecture), *_linears(architecture), f"model.{EMBEDDING}"}
    modules |= set() if architecture.tied_embeddings else {HEAD}
    return {f"{module}.weight" for module in modules} | _biases(architecture)


def check_tensors(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Raises `WeightsError` for a checkpoint that lacks some. What it has beyond them is told in the log: nothing here
    reads it, as transformers does not."""
    wanted = needed(architecture)
    if missing := sorted(name for name in wanted if name not in checkpoint):
        raise WeightsError(_lacking(checkpoint, missing))
    optional = {f"{norm}.bias" for norm in _norms(architecture)} if architecture.spec.norm is Norm.LAYER else set()
    unknown = sorted(set(_unplaced(checkpoint, wanted | optional | {f"{HEAD}.weight"})))
    if unknown:
        log.warning(
            "%s has %d tensors that config.json gives no place, which are left out as transformers does: %s",
            checkpoint.directory,
            len(unknown),
            ", ".join(map(shown, unknown[:_MOST_NAMED])),
        )


def _unplaced(checkpoint: Checkpoint, known: set[str]) -> Iterator[str]:
    for name in checkpoint:
        whole = _PARTS.sub(".weight", name)
        if whole not in known and not _BUFFERS.search(name) and not _OF_PICTURES.match(name):
            yield name


def _lacking(checkpoint: Checkpoint, missing: list[str]) -> str:
    more = f" and {len(missing) - 1} more that config.json asks for" if len(missing) > 1 else ""
    sentence = f"{checkpoint.directory} has no tensor {missing[0]!r}{more}"
    if missing == [f"{HEAD}.weight"]:
        return f"{sentence}, and config.json says no tie_word_embeddings; say true there if its embedding is its head"
    for name in checkpoint:
        owner, instead = whose(name)
        if owner:
            return f"{sentence}; it has {shown(name)}, a name of {owner}; {instead}"
    return f"{sentence}; fetch the model again"


def _linears(architecture: Architecture) -> Iterator[str]:
    for layer in range(architecture.num_layers):
        for target in architecture.targets:
            yield architecture.source(target, layer).module


def _norms(architecture: Architecture) -> Iterator[str]:
    spec, names = architecture.spec, architecture.names
    yield f"model.{names.last_norm}"
    told = [path for norm, path in norm_paths(architecture).items() if norm != LAST_NORM]
    if spec.head_norm is HeadNorm.EACH_HEAD:
        told += [f"{names.q_norm}.norms.{head}" for head in range(architecture.num_heads)]
        told += [f"{names.k_norm}.norms.{head}" for head in range(architecture.num_kv_heads)]
    for layer in range(architecture.num_layers):
        yield from (f"model.layers.{layer}.{name}" for name in told)


def _biases(architecture: Architecture) -> set[str]:
    """Those of linears; a norm's may lack, and is zero then."""
    biased = architecture.spec.biased
    of_layers = {
        f"{architecture.source(target, layer).module}.bias"
        for target in biased - {HEAD}
        for layer in range(architecture.num_layers)
    }
    return of_layers | ({f"{HEAD}.bias"} if HEAD in biased else set())
