"""Where a decoder has biases, of linears and of LayerNorms, and what checkpoints and adapters call these. No torch."""

from __future__ import annotations

from inference.model.architecture import Architecture, Place
from inference.model.spec import LAST_NORM, HeadNorm, Norm, NormPlace


def bias_places(architecture: Architecture, module: str) -> tuple[Place, ...]:
    """The targets whose bias is that of `module`, a linear or a LayerNorm, and their share of it; empty for any other.

    One that norms queries or keys has a bias of a head's width, which all heads share.
    """
    linears = architecture.places(module)
    if linears:
        return linears if all(place.target in architecture.spec.biased for place in linears) else ()
    if architecture.spec.norm is not Norm.LAYER:
        return ()
    layer, path = architecture.names.numbered(module)
    for target, name in norm_paths(architecture).items():
        name = f"model.{name}" if target == LAST_NORM else name
        if name == path and (layer < 0) == (target == LAST_NORM) and layer < architecture.target_layers(target):
            return (Place(target, max(layer, 0), slice(0, norm_width(architecture, target))),)
    return ()


def norm_paths(architecture: Architecture) -> dict[str, str]:
    """Where each norm lies in a layer, and the last one in the model, by their names in `NORMS`; without those that are
    many in a layer, one for each head."""
    spec, names = architecture.spec, architecture.names
    is_behind = spec.norm_place is NormPlace.AFTER
    paths = {"attention_out_norm" if is_behind else "attention_norm": names.attention_norm, LAST_NORM: names.last_norm}
    if not spec.is_parallel:
        paths["mlp_out_norm" if is_behind else "mlp_norm"] = names.mlp_norm
    if spec.norm_place is NormPlace.BOTH:
        paths |= {"attention_out_norm": names.attention_out_norm, "mlp_out_norm": names.mlp_out_norm}
    if spec.head_norm in (HeadNorm.BY_HEAD, HeadNorm.WHOLE):
        paths |= {"q_norm": names.q_norm, "k_norm": names.k_norm}
    return paths


def norm_width(architecture: Architecture, target: str) -> int:
    """How many numbers the bias of the norm `target` has in a checkpoint."""
    is_shared = target in ("q_norm", "k_norm") and architecture.spec.head_norm is HeadNorm.BY_HEAD
    return architecture.head_dim if is_shared else architecture.target_shape(target)[1]
