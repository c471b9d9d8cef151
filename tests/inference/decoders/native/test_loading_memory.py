"""What loading a base takes: the base as it is kept and a layer, never two copies of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import make_model
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file

from inference.decoders.native.build import library_path
from inference.model.gguf.directory import write_directory

pytestmark = pytest.mark.slow

MIB = 1024**2
SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 2048,
}
LAYER = 4 * 1024**2 + 3 * 4 * 1024**2
"""Weights of one layer."""


Loaded = Callable[..., dict[str, int]]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    """What loading the base in a directory took, see `loading_memory.py`."""
    library_path()  # compiled before anybody measures
    program = Path(__file__).with_name("loading_memory.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {"PYTHONPATH": ".", "PATH": "/bin"}
    with subprocess.Popen([sys.executable, str(program)], env=environment, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin
        assert process.stdout

        def load(directory: Path, *options: str) -> dict[str, int]:
            print(json.dumps([str(directory), *options]), file=process.stdin, flush=True)
            told = process.stdout.readline()
            assert told, "its errors tell why"
            return dict(json.loads(told))

        yield load


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_model(tmp_path_factory.mktemp("wide"), **SIZES)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8.5), ("int4", 5)])
def test_fewer_bits_are_made_layer_by_layer(loaded: Loaded, checkpoint: Path, quantization: str, bits: float) -> None:
    told = loaded(checkpoint, quantization)
    quantised = SIZES["num_hidden_layers"] * LAYER * bits / 8
    assert quantised < told["kept"] < quantised + 32 * MIB
    assert told["peak"] < quantised + 2 * LAYER * 2 + 64 * MIB


def test_layers_that_are_all_read_first_take_twice_as_much(loaded: Loaded, checkpoint: Path) -> None:
    assert loaded(checkpoint, "int4", "held")["peak"] > 2 * SIZES["num_hidden_layers"] * LAYER * 5 / 8


def write_base(home: Path, kind: str, others: dict[str, str] | None = None) -> Path:
    """A GGUF file of the same size with a large vocabulary, and its directory."""
    sizes = {"hidden": 1024, "inner": 4096, "heads": 16, "kv_heads": 16, "layers": 10, "vocab": 32768}
    write_gguf(home / "wide.gguf", kind, others, is_random=False, **sizes)
    (home / "wide").mkdir()
    write_directory(home / "wide.gguf", home / "wide")
    return home / "wide"


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("Q8_0", {}),
        ("Q4_0", {"output": "Q6_K"}),
        ("Q4_K", {"output": "Q6_K", "attn_v": "Q6_K"}),
        ("Q6_K", {}),
    ],
)
def test_a_gguf_file_takes_its_own_size_and_three_tenths_at_most(
    loaded: Loaded, tmp_path: Path, kind: str, others: dict[str, str]
) -> None:
    directory = write_base(tmp_path, kind, others)
    told, size = loaded(directory, "auto"), (directory / "model.gguf").stat().st_size
    assert size > 100 * MIB
    assert told["kept"] < 1.3 * size
    assert told["peak"] < 1.3 * size + 2 * LAYER * 2
    written = sum(path.stat().st_size for path in directory.iterdir() if path.name != "model.gguf")
    assert written < 0.1 * size
    assert (directory / "model.gguf").stat().st_nlink == 2
