"""Which decoder computes: a GPU's own, else the native one where it can be had, else torch's."""

from __future__ import annotations

import logging

import torch

from inference.config import ConfigError, EngineConfig
from inference.decoders.contract import Decoder
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import BuildError, library_path
from inference.decoders.native.decoder import NativeDecoder, unsupported
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import Architecture
from inference.model.weights import DecoderWeights

log = logging.getLogger(__name__)


def make_decoder(config: EngineConfig, architecture: Architecture, weights: DecoderWeights) -> Decoder:
    """The best for the device that `weights` lie on, or the one that `config` asks for; raises `ConfigError`."""
    if weights.device.type == "cuda":
        # Triton is a matter of GPUs alone.
        from inference.decoders.gpu.decoder import make_triton_decoder, unsupported_on_gpu

        if reason := unsupported_on_gpu(architecture):
            raise ConfigError(f"{architecture.name} cannot be served on a GPU: {reason}; choose DEVICE=cpu")
        return make_triton_decoder(config, architecture, weights.held())
    if config.adapter_quantization != "none":
        raise ConfigError(f"ADAPTER_QUANTIZATION={config.adapter_quantization} needs a GPU; choose none")
    try:
        if config.decoder != "torch":
            return _native_decoder(config, architecture, weights)
    except BuildError as error:
        if config.decoder_unit != "auto":
            raise ConfigError(f"DECODER_UNIT={config.decoder_unit} cannot be had: {error}; choose auto") from error
        if config.decoder == "native":
            raise ConfigError(f"DECODER=native cannot be had: {error}; choose auto or torch") from error
        log.info("torch decoder reason=%s", error)
    return TorchDecoder(architecture, weights.held(), LoraBank())


def _native_decoder(config: EngineConfig, architecture: Architecture, weights: DecoderWeights) -> NativeDecoder:
    """Raises `BuildError` where it is not made for this device, type, shape or processor."""
    if weights.device.type != "cpu" or weights.dtype not in (torch.bfloat16, torch.float32):
        raise BuildError("it computes in bfloat16 or float32 on a CPU")
    reason = unsupported(architecture, config.block_size)
    if reason:
        raise BuildError(reason)
    bank, threads = NativeBank(config.adapter_slots), config.threads or torch.get_num_threads()
    library = library_path(config.var_dir)
    return NativeDecoder(architecture, weights, bank, library, config.block_size, threads, config.decoder_unit)
