"""`python -m tests.bench.qlora`: memory and speed of QLoRA on the GPU at hand. Downloads nothing.

The base has Mistral-7B's shape and random weights, which are written to the temporary folder (15 GB) and loaded as
any base is, in NF4. Prints one line of JSON. `--tiny` runs all of it at toy size on a CPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM

from inference.model.architecture import Architecture
from inference.tasks.recipe import Recipe, load_recipe
from inference.training.examples import Encoded
from inference.training.qlora import learn, learner_in, load_quantized, with_qlora
from tests.bench.mistral import MISTRAL_7B, TINY

ANSWER = 16
GIB = 2**30


def main() -> None:
    options = _options()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("this needs a CUDA device, and torch finds none; --tiny shows without one that it runs.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture, length = (TINY, 32) if options.tiny else (MISTRAL_7B, options.length)
    with tempfile.TemporaryDirectory() as folder:
        write_random_base(architecture, Path(folder), device)
        base = load_quantized(Path(folder), device)
    weights = _gib(device)
    learner = learner_in(base, _recipe(), _rows(architecture, length), pad_id=2)
    learn(learner)
    _forget_peak(device)
    started = time.monotonic()
    loss = [learn(learner).loss for _ in range(options.steps)][-1]
    seconds = (time.monotonic() - started) / options.steps
    rows = learner.schedule.batch
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
                "tiny": options.tiny,
                "weights_gib": weights,
                "peak_gib": _gib(device, peak=True),
                "rows": rows,
                "tokens_a_row": length,
                "seconds_a_step": round(seconds, 3),
                "tokens_a_second": round(rows * length / seconds),
                "loss": round(loss, 3),
            }
        )
    )


def write_random_base(architecture: Architecture, folder: Path, device: torch.device) -> None:
    """A checkpoint of random weights in bfloat16."""
    config = MistralConfig(
        vocab_size=architecture.vocab_size,
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_kv_heads,
        max_position_embeddings=architecture.max_position,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with device:
        MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _recipe() -> Recipe:
    return with_qlora(load_recipe("viggo"))


def _rows(architecture: Architecture, length: int) -> list[Encoded]:
    """Random rows of `length` tokens, the last of which are answers."""
    ids = torch.randint(architecture.vocab_size, (64, length)).tolist()
    return [Encoded(tuple(row), length - ANSWER) for row in ids]


def _gib(device: torch.device, peak: bool = False) -> float | None:
    if device.type != "cuda":
        return None
    return round((torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / GIB, 2)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.qlora", description=__doc__)
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=5, help="steps of 16 rows to measure, after one to warm up")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
