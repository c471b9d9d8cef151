"""The share of an adapter that a stage needs, and how it goes there: tables of numbers, never a pickle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from inference.adapters.gate import Gate
from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.pipeline.frame import Frame
from inference.model.architecture import EMBEDDING
from inference.model.spec import HEAD, LAST_NORM
from inference.model.stage import Stage


def share_of(weights: AdapterWeights, stage: Stage) -> AdapterWeights:
    """`weights` in the layers of `stage`, whose memory they share."""
    return {target: _own(target, pair, stage) for target, pair in weights.items() if stage.has(target)}


def _own(target: str, pair: TargetWeights, stage: Stage) -> TargetWeights:
    if target in (EMBEDDING, HEAD, LAST_NORM):
        return pair
    layers = stage.layers
    tensors: dict[str, Any] = {name: tensor[layers] for name, tensor in pair.parts.items()}
    of_gate: dict[str, Any] = {name: one[layers] for name, one in pair.gate.tensors.items()} if pair.gate else {}
    return TargetWeights(**tensors, gate=replace(pair.gate, **of_gate) if pair.gate else None)


def as_frame(slot: int, weights: AdapterWeights, to: int) -> Frame:
    """Put `weights` into `slot` of the stage `to`. Tensors that several targets share go once."""
    tensors: list[Tensor] = []
    places: dict[tuple[int, tuple[int, ...]], int] = {}

    def place_of(tensor: Tensor) -> int:
        key = tensor.data_ptr(), tuple(tensor.shape)
        if key not in places or not tensor.numel():
            places[key] = len(tensors)
            tensors.append(tensor)
        return places[key]

    told = {}
    for target, pair in weights.items():
        parts = {name: place_of(tensor) for name, tensor in pair.parts.items()}
        told[target] = {"parts": parts, "gate": _told(pair.gate, place_of) if pair.gate else None}
    return Frame("put", to, {"slot": slot, "targets": told}, tuple(tensors))


def _told(gate: Gate, place_of: Any) -> dict[str, Any]:
    plain = {name: getattr(gate, name) for name in ("kind", "ends", "top_k", "temperature")}
    return plain | {"tensors": {name: place_of(tensor) for name, tensor in gate.tensors.items()}}


def from_frame(frame: Frame) -> AdapterWeights:
    """The weights that `as_frame` has put into `frame`."""
    return {target: _pair(told, frame.tensors) for target, told in frame.told["targets"].items()}


def _pair(told: dict[str, Any], tensors: tuple[Tensor, ...]) -> TargetWeights:
    parts: dict[str, Any] = {name: tensors[place] for name, place in told["parts"].items()}
    return TargetWeights(**parts, gate=_gate(told["gate"], tensors) if told["gate"] else None)


def _gate(told: dict[str, Any], tensors: tuple[Tensor, ...]) -> Gate:
    of_gate: dict[str, Any] = {name: tensors[place] for name, place in told["tensors"].items()}
    return Gate(
        kind=told["kind"],
        ends=tuple(told["ends"]),
        top_k=told["top_k"],
        temperature=told["temperature"],
        **of_gate,
    )
