"""What the header of a GGUF file may say of its tensors, and a file in parts."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import write_gguf

from inference.bases import base_name
from inference.model.architecture import read_architecture
from inference.model.checkpoints import open_checkpoint
from inference.model.gguf.directory import write_directory
from inference.model.gguf.file import GgufFile, gguf_in
from inference.model.gguf.header import GgufError
from inference.model.tokenizer import Tokenizer

NORM, UP = "blk.0.attn_norm.weight", "blk.0.ffn_up.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", "Q8_0", layers=1)
    return tmp_path / "tiny.gguf"


def place_of(data: bytes, name: str) -> int:
    """Where the entry of the tensor `name` begins behind its name: a count, sizes, a type and an offset."""
    return data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)


def with_offset(path: Path, name: str, change: Callable[[int], int]) -> None:
    data = bytearray(path.read_bytes())
    at = place_of(data, name)
    at += 4 + 8 * int(struct.unpack_from("<I", data, at)[0]) + 4
    struct.pack_into("<Q", data, at, change(struct.unpack_from("<Q", data, at)[0]))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda offset: offset + 1, r"'blk\.0\.attn_norm\.weight' of .* begins at \d+, which is no multiple of 32"),
        (lambda offset: 0, r"the tensors .* and .* of .* lie over each other; the file is damaged, fetch it again"),
        (lambda offset: 1 << 40, r"ends before its tensor 'blk\.0\.attn_norm\.weight' does; it is not whole"),
        (lambda offset: (1 << 64) - 32, r"ends before its tensor 'blk\.0\.attn_norm\.weight' does"),
    ],
    ids=["not aligned", "over another", "behind the end", "as far as can be"],
)
def test_tensors_that_do_not_lie_apart_in_the_file_are_refused(
    path: Path, change: Callable[[int], int], sentence: str
) -> None:
    with_offset(path, NORM, change)
    with pytest.raises(GgufError, match=sentence):
        GgufFile(path)


@pytest.mark.parametrize("size", [0, 1 << 63])
def test_sizes_that_no_tensor_has_are_refused(path: Path, size: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, place_of(data, UP) + 4, size)
    path.write_bytes(data)
    with pytest.raises(GgufError, match=r"tensor 'blk\.0\.ffn_up\.weight'"):
        GgufFile(path)


def test_names_of_tensors_are_short_and_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    write_gguf(path, layers=1, extra={"x" * 64: np.ones(1, np.float32)})
    with pytest.raises(GgufError, match="the name of a tensor has 64 bytes; names have up to 63"):
        GgufFile(path)
    write_gguf(path, layers=1, extra={"blk.0.ffn_uq.weight": np.ones(1, np.float32)})
    path.write_bytes(path.read_bytes().replace(b"blk.0.ffn_uq.weight", UP.encode()))
    with pytest.raises(GgufError, match="two of its tensors have one name"):
        GgufFile(path)


def test_a_name_is_told_without_what_would_move_a_terminal(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(UP.encode(), b"blk.0.\x1b[2J\n.weight"[: len(UP)].ljust(len(UP), b"\x07")))
    with pytest.raises(GgufError) as caught:
        write_directory(path, tmp_path)
    assert str(caught.value).isprintable()
    assert r"blk.0.\x1b[2J\n" in str(caught.value)


def test_a_field_that_is_there_twice_is_refused(path: Path) -> None:
    data = path.read_bytes()
    once = data.replace(b"llama.context_length", b"llama.feed_forward_l", 1)
    path.write_bytes(once.replace(b"llama.rope.freq_base", b"llama.feed_forward_l", 1))
    with pytest.raises(GgufError, match=r"its field 'llama\.feed_forward_l' is there twice"):
        GgufFile(path)


@pytest.mark.parametrize(("at", "what"), [(8, "tensors"), (16, "fields")])
def test_counts_that_no_file_has_are_refused_at_once(path: Path, at: int, what: str) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, at, 1 << 40)
    path.write_bytes(data)
    with pytest.raises(GgufError, match=rf"it says that it has \d+ {what}"):
        GgufFile(path)


# in parts


def write_parts(home: Path, **options: Any) -> list[Path]:
    write_gguf(home / "tiny.gguf", "Q4_K", layers=2, split_max_tensors=8, **options)
    return sorted(home.glob("tiny-*.gguf"))


def served(source: Path, directory: Path) -> Path:
    directory.mkdir()
    write_directory(source, directory)
    return directory


def test_a_file_in_parts_is_the_model_that_one_file_is(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    assert [path.name for path in parts] == [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    write_gguf(tmp_path / "whole.gguf", "Q4_K", layers=2)
    directories = [served(source, tmp_path / source.stem) for source in (parts[0], tmp_path / "whole.gguf")]
    configs = [json.loads((directory / "config.json").read_text()) for directory in directories]
    assert configs[0] == configs[1]
    assert sorted(path.name for path in directories[0].glob("*.gguf")) == [
        f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]
    architecture = read_architecture(directories[0] / "config.json")
    split, whole = (open_checkpoint(directory, architecture) for directory in directories)
    assert [path.name for path in split.files] == [path.name for path in GgufFile(gguf_in(directories[0])).paths]  # type: ignore[arg-type]
    for name, shape in whole.shapes().items():  # type: ignore[attr-defined]
        assert torch.equal(split.read(name, shape), whole.read(name, shape))
    assert Tokenizer(directories[0]).encode("abc") == Tokenizer(directories[1]).encode("abc")
    assert base_name(str(parts[0])) == "tiny"


def test_a_part_that_is_not_the_first_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"is part 2 of 3; give the first, tiny-00001-of-00003\.gguf"):
        GgufFile(write_parts(tmp_path)[1])


def test_a_part_that_lacks_is_named(tmp_path: Path) -> None:
    first, _, last = write_parts(tmp_path)
    last.unlink()
    with pytest.raises(
        GgufError, match=r"is one of 3 parts, and tiny-00003-of-00003\.gguf is not beside it; fetch it too"
    ):
        GgufFile(first)


def test_parts_that_changed_places_are_refused(tmp_path: Path) -> None:
    first, second, last = write_parts(tmp_path)
    shutil.copy(second, last)
    with pytest.raises(GgufError, match=r"tiny-00003-of-00003\.gguf says split\.no 1 and would be 2; fetch it again"):
        GgufFile(first)


def test_a_part_of_another_count_of_parts_is_refused(tmp_path: Path) -> None:
    first, second, _ = write_parts(tmp_path)
    data = second.read_bytes()
    at = data.index(b"split.count") + len(b"split.count") + 4
    second.write_bytes(data[:at] + struct.pack("<H", 5) + data[at + 2 :])
    with pytest.raises(
        GgufError, match=r"tiny-00002-of-00003\.gguf says split\.count 5 and would be 3; fetch it again"
    ):
        GgufFile(first)


def test_parts_of_another_count_of_tensors_are_refused(tmp_path: Path) -> None:
    first = write_parts(tmp_path)[0]
    data = first.read_bytes()
    at = data.index(b"split.tensors.count") + len(b"split.tensors.count") + 4
    first.write_bytes(data[:at] + struct.pack("<i", 5) + data[at + 4 :])
    with pytest.raises(GgufError, match=r"the parts of .* have 21 tensors of 5; fetch them again"):
        GgufFile(first)


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    first, second, _ = write_parts(tmp_path)
    parts = [[name for name, tensor in GgufFile(first).tensors.items() if tensor.part == part] for part in (0, 1)]
    held, other = next((one, two) for one in parts[0] for two in parts[1] if len(one) == len(two))
    second.write_bytes(second.read_bytes().replace(other.encode(), held.encode()))
    with pytest.raises(GgufError, match="is in two parts of"):
        GgufFile(first)
