"""What all stages of a base must agree in, told by the first one before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from inference.config import ConfigError, EngineConfig
from inference.decoders.choice import make_decoder
from inference.decoders.contract import StageDecoder
from inference.model.architecture import Architecture, read_architecture
from inference.model.base_weights import BaseWeights
from inference.model.fingerprint import processor
from inference.model.heap import trim_heap
from inference.model.stage import Stage, cut
from inference.model.weights import stream_weights

CPU: Final = torch.device("cpu")
_BITS: Final = {"int8": 8, "int4": 4, "auto": 8}
"""Of a linear's number, as far as the settings tell; those of a quantised checkpoint are somewhere near."""


@dataclass(frozen=True)
class Setup:
    """Settings as the first stage has them, whatever the environment of another says; `identity` is the base's, by
    its files, and `ends` are the layers before which the stages end."""

    ends: tuple[int, ...]
    identity: str
    context: int
    is_tied: bool
    dtype: str
    quantization: str
    decoder: str
    decoder_unit: str
    block_size: int
    adapter_slots: int
    threads: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        firsts = (0, *self.ends[:-1])
        return tuple(Stage(first, end, self.ends[-1]) for first, end in zip(firsts, self.ends, strict=True))

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def applied(self, config: EngineConfig) -> EngineConfig:
        """`config` of another stage with what is told here."""
        own = ("dtype", "quantization", "decoder", "decoder_unit", "block_size", "adapter_slots")
        changes: dict[str, Any] = {name: getattr(self, name) for name in own}
        return replace(config, device="cpu", threads=self.threads or config.threads, **changes)

    def seen(self, directory: Path) -> Architecture:
        """The base in `directory` as the first stage computes it. Raises `ConfigError` where it is another one."""
        whole = replace(read_architecture(directory / "config.json"), tied_embeddings=self.is_tied)
        if BaseWeights(directory, whole, getattr(torch, self.dtype)).identity != self.identity:
            raise ConfigError(f"the base in {directory} is another one than the first stage has; copy the same files")
        return whole.within(self.context)


def read_setup(told: Mapping[str, Any]) -> Setup:
    """The setup that `Setup.told` gave."""
    return Setup(**{**told, "ends": tuple(told["ends"])})


def make_setup(config: EngineConfig, directory: Path, architecture: Architecture, context: int, threads: int) -> Setup:
    """How `config.stages` share the base in `directory`. Raises `ConfigError` where they cannot."""
    if config.stages > architecture.num_layers:
        raise ConfigError(
            f"STAGES={config.stages} needs a layer for each stage, and {architecture.name} has "
            f"{architecture.num_layers}; choose {architecture.num_layers} at most"
        )
    dtype = getattr(torch, config.dtype)
    bits = _BITS.get(config.quantization, dtype.itemsize * 8)
    stages = cut(architecture, config.stages, bits, max(bits, 8))
    return Setup(
        ends=tuple(stage.end for stage in stages),
        identity=BaseWeights(directory, architecture, dtype).identity,
        context=context,
        is_tied=architecture.tied_embeddings,
        dtype=config.dtype,
        quantization=config.quantization,
        decoder=config.decoder,
        decoder_unit=config.decoder_unit,
        block_size=config.block_size,
        adapter_slots=config.adapter_slots,
        threads=threads,
    )


def load_stage(config: EngineConfig, directory: Path, architecture: Architecture, stage: Stage) -> StageDecoder:
    """The decoder of `stage`, for which nothing but its own weights is read."""
    dtype = getattr(torch, config.dtype)
    weights = stream_weights(directory, architecture, dtype, CPU, config.quantization, stage)
    decoder = make_decoder(config, stage.of(architecture), weights)
    del weights
    trim_heap()
    assert isinstance(decoder, StageDecoder), "on a CPU every decoder may have a stage"
    return decoder


def arithmetic(decoder: StageDecoder) -> str:
    """What a stage computes with: where two differ, so may the bits of a whole base."""
    return f"{type(decoder).__name__} {processor(CPU, decoder.unit)}"
