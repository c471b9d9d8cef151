"""A process that computes a stage which is not the first: it does what frames say, in their order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from inference.config import ConfigError, EngineConfig
from inference.decoders.contract import StageDecoder, Stream
from inference.decoders.kv_tensors import KVCache
from inference.decoders.pipeline.chain import MOST_SENT, Chain, join, own_address
from inference.decoders.pipeline.decoder import as_pass
from inference.decoders.pipeline.frame import Frame
from inference.decoders.pipeline.micro_batch import NUM_TENSORS, from_tensors
from inference.decoders.pipeline.processes import LOOPBACK, came, file_store, tcp_store
from inference.decoders.pipeline.setup import CPU, Setup, arithmetic, load_stage, read_setup
from inference.decoders.pipeline.share import from_frame
from inference.fetch import find_model
from inference.model.heap import resident_bytes
from inference.reading import Refused


class StageServer:
    """The stage of `chain.rank`, once it has been told what to be."""

    def __init__(self, chain: Chain, setup: Setup, decoder: StageDecoder) -> None:
        self._chain, self._setup, self._decoder = chain, setup, decoder
        self._stage = setup.stages[chain.rank]
        self._cache: KVCache | None = None
        self._busy = 0.0
        self._duties: Mapping[str, Callable[[Frame], Frame | None]] = {
            "cache": self._make_cache,
            "copy": self._copy,
            "put": self._put,
            "clear": self._clear,
            "pass": self._pass,
            "load": self._tell,
        }

    def serve(self) -> None:
        """Until the stage before is gone, which raises `StageLost`."""
        while True:
            frame = self._chain.receive()
            is_own = frame.kind != "put" or frame.to == self._chain.rank
            answer = self._duties[frame.kind](frame) if is_own else frame
            if answer is not None:
                self._chain.send(answer)
            self._chain.settle(MOST_SENT)

    def _make_cache(self, frame: Frame) -> Frame | None:
        architecture, dtype = self._decoder.architecture, getattr(torch, self._setup.dtype)
        self._cache = KVCache(architecture, frame.told["blocks"], self._setup.block_size, dtype, CPU)
        return self._onward(frame)

    def _copy(self, frame: Frame) -> Frame | None:
        assert self._cache is not None, "the cache is made before a pass"
        self._cache.copy(frame.told["source"], frame.told["target"])
        return self._onward(frame)

    def _put(self, frame: Frame) -> None:
        self._decoder.bank.put(frame.told["slot"], from_frame(frame))

    def _clear(self, frame: Frame) -> Frame | None:
        self._decoder.bank.clear(frame.told["slot"])
        return self._onward(frame)

    def _onward(self, frame: Frame) -> Frame | None:
        return None if self._stage.is_last else frame

    def _pass(self, frame: Frame) -> Frame:
        assert self._cache is not None, "the cache is made before a pass"
        before = time.perf_counter()
        batch, (rows, *sums) = from_tensors(frame.tensors[:NUM_TENSORS]), frame.tensors[NUM_TENSORS:]
        stream = Stream(rows, sums[0] if sums else None)
        if self._stage.is_last:
            logits = self._decoder.forward(batch, self._cache, stream)
            tensors = logits, self._decoder.hidden, self._decoder.coefficients
            answer = Frame("ended", told={"has_gates": stream.sums is not None}, tensors=tensors)
        else:
            answer = as_pass(batch, self._decoder.pass_on(batch, self._cache, stream))
        self._busy += time.perf_counter() - before
        return answer

    def _tell(self, frame: Frame) -> Frame:
        own = [self._stage.first, self._stage.end, resident_bytes(), self._busy, os.getpid()]
        return Frame("load", told={"loads": [*frame.told["loads"], own]})


def serve(chain: Chain, config: EngineConfig) -> None:
    """Be told what to be, load it, tell that it is ready, and serve. Raises `StageLost`, or what cannot be loaded."""
    setup = _passed_on(chain, chain.receive())
    decoder, failure = _loaded(chain, config, read_setup(setup.told))
    told = {"failure": failure} if decoder is None else {"arithmetic": arithmetic(decoder)}
    ready = chain.receive()
    chain.send(Frame("ready", told={"stages": [*ready.told["stages"], told]}))
    chain.settle()
    if decoder is None:
        raise ConfigError(failure)
    if decoder.has_own_threads:
        # Torch's would spin beside them.
        torch.set_num_threads(1)
    StageServer(chain, read_setup(setup.told), decoder).serve()


def _passed_on(chain: Chain, frame: Frame) -> Frame:
    if chain.rank < chain.count - 1:
        chain.send(frame)
    return frame


def _loaded(chain: Chain, config: EngineConfig, setup: Setup) -> tuple[StageDecoder | None, str]:
    """The decoder of this stage, or the sentence that says why there is none."""
    config = setup.applied(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        directory = find_model(config)
        decoder = load_stage(config, directory, setup.seen(directory), setup.stages[chain.rank])
    except Refused as error:
        return None, str(error)
    return decoder, ""


def meet(rank: int, config: EngineConfig, home: str) -> Chain:
    """Come to the worker that has started this process at `home`, or that waits at `config.stage_address`."""
    host, _, port = config.stage_address.rpartition(":")
    count = config.stages
    store = file_store(Path(home), count) if home else tcp_store(host, int(port), count, rank)
    store.set(came(rank), "")
    return join(store, rank, count, LOOPBACK if home else own_address(host, int(port)))
