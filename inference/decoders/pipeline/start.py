"""A base in stages, put together: processes started or met, told what to be, loaded, and compared with this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from inference.config import ConfigError, EngineConfig
from inference.decoders.pipeline.chain import Chain
from inference.decoders.pipeline.decoder import PipelineDecoder
from inference.decoders.pipeline.frame import Frame
from inference.decoders.pipeline.processes import Processes
from inference.decoders.pipeline.setup import Setup, arithmetic, load_stage, make_setup
from inference.model.architecture import Architecture


def make_pipeline(config: EngineConfig, directory: Path, architecture: Architecture, context: int) -> PipelineDecoder:
    """The base in `directory` in `config.stages`. Raises `ConfigError` where they cannot share it or do not compute
    alike, `StageLost`, and what loading raises."""
    setup = make_setup(config, directory, architecture, context, _threads(config))
    processes = Processes(config)
    try:
        chain = processes.meet()
        return _loaded(config, directory, architecture, setup, chain, processes)
    except BaseException:
        processes.end()
        raise


def _threads(config: EngineConfig) -> int:
    """Of each stage: those of the machine are shared where all stages are on it; 0 is one per core."""
    if config.threads or config.stage_address:
        return config.threads
    return max(1, torch.get_num_threads() // config.stages)


def _loaded(
    config: EngineConfig,
    directory: Path,
    architecture: Architecture,
    setup: Setup,
    chain: Chain,
    processes: Processes,
) -> PipelineDecoder:
    chain.send(Frame("setup", told=setup.told()))
    if setup.threads:
        torch.set_num_threads(setup.threads)
    own = load_stage(setup.applied(config), directory, architecture, setup.stages[0])
    chain.send(Frame("ready", told={"stages": []}))
    _check(chain.receive().told["stages"], arithmetic(own))
    chain.settle()
    processes.forget_place()
    return PipelineDecoder(own, setup.stages, chain, processes, config.micro_batches)


def _check(stages: Sequence[Mapping[str, str]], here: str) -> None:
    """Whether the others are loaded and compute as the first one does, `here`. Raises `ConfigError`."""
    for number, told in enumerate(stages, 1):
        if failure := told.get("failure"):
            raise ConfigError(f"stage {number} cannot be loaded: {failure}")
        if told["arithmetic"] != here:
            raise ConfigError(
                f"stage {number} computes otherwise than the first one, so that a base would have bits of both: "
                f"{told['arithmetic']}, and here {here}; take machines that are alike, or name one DECODER_UNIT and "
                "one THREADS for both"
            )
