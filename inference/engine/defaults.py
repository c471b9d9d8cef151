"""What a caller left open of how tokens are chosen, as the base's makers would have it (DEFAULT_SAMPLING=model)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from inference.config import ConfigError
from inference.engine.sampler import refusal
from inference.model.generation_config import GENERATION, GenerationRefused, own_sampling
from inference.wire.protocol import Generate, Request, Sampling


def read_defaults(directory: Path) -> dict[str, float]:
    """What stands for parameters that are left out, by the file of the base in `directory`. Raises `ConfigError`."""
    try:
        defaults = own_sampling(directory)
    except GenerationRefused as error:
        raise ConfigError(str(error)) from error
    if wrong := refusal(replace(Sampling(), **defaults)):  # type: ignore[arg-type]
        raise ConfigError(f"{GENERATION} cannot be followed: {wrong} Take DEFAULT_SAMPLING=greedy")
    return defaults


def fill(request: Request, defaults: Mapping[str, float]) -> Request:
    """`request` with `defaults` for what was left out; `unset` names those by which its answer may become another.

    Where the likeliest token is taken, nothing that shapes a draw does.
    """
    if not isinstance(request, Generate):
        return request
    found = {name: defaults[name] for name in request.sampling.unset if name in defaults}
    if not found.get("temperature", request.sampling.temperature):
        found = {name: value for name, value in found.items() if name == "repetition_penalty"}
    return replace(request, sampling=replace(request.sampling, **found, unset=tuple(found)))  # type: ignore[arg-type]


def filled(request: Request) -> dict[str, float]:
    """What `fill` has put into `request`."""
    unset = request.sampling.unset if isinstance(request, Generate) else ()
    return {name: getattr(request.sampling, name) for name in unset}  # type: ignore[union-attr]
