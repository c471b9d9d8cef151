"""The site and the worker examine the same damaged adapters: both take one, or both refuse it in the same sentences."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import load_base, make_adapter
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import AdaLoraConfig, MissConfig, PeftConfig, VBLoRAConfig, VeraConfig

from inference.adapters.file import AdapterRefused
from inference.adapters.store import AdapterStore
from loraland.catalogue.upload.validation import examine_upload
from tests.fuzz.damage import ENCODINGS, bytes_like, json_like, tensors_like, weights_like
from tests.inference.adapters.methods import make_method
from tests.loraland.adapter_files import number_bytes

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "patterns": {"target_modules": "all-linear", "rank_pattern": {"down_proj": 1}, "use_rslora": True},
    "dora": {"use_dora": True, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "biases": {"lora_bias": True},
    "narrow": {"layers_to_transform": [0], "alpha_pattern": {"self_attn.q_proj": 3}},
    "blocks": {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 2, "match_strict": False}},
}
METHODS: dict[str, PeftConfig] = {
    "VeRA": VeraConfig(r=2, target_modules=["q_proj", "down_proj"]),
    "AdaLoRA": AdaLoraConfig(
        init_r=2,
        total_step=9,
        target_modules=["q_proj"],
        rank_pattern={f"model.layers.{layer}.self_attn.q_proj.lora_E": [layer > 0, True] for layer in range(3)},
    ),
    "MiSS": MissConfig(r=2, target_modules=["q_proj"], init_weights="mini", mini_r=32),
    "VB-LoRA": VBLoRAConfig(r=2, num_vectors=5, vector_length=32, target_modules=["q_proj"]),
}
THE_BASES_WORD = ("is not the base's own", "overflow", "DoRA cannot scale")
"""What the worker alone can tell, which has the weights of the base: the site learns it by the proof."""
NUMBERS = {0.25: "F32", math.nan: "F32", math.inf: "BF16", 3e38: "F64", 1e39: "F64", -6e4: "F16"}


@pytest.fixture(scope="module")
def doors(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    base = {"BASE_MODEL": tiny_model.name, "BASE_NAME": tiny_model.name, "BASE_KEY": tiny_model.name.lower()}
    directory = tmp_path_factory.mktemp("doors")
    sound = {kind: directory / make_adapter(tiny_model, directory, r=2, **options) for kind, options in KINDS.items()}
    sound |= {kind: directory / make_method(tiny_model, directory, config) for kind, config in METHODS.items()}
    with override_settings(MODELS_DIR=tiny_model.parent, **base):
        yield Doors(sound, tmp_path_factory.mktemp("store"), tiny_model)


class Doors:
    """Both doors to one base, and sound adapters of it."""

    def __init__(self, sound: dict[str, Path], store: Path, model: Path) -> None:
        self.configs = [json.loads((path / "adapter_config.json").read_text()) for path in sound.values()]
        self.weights = [(path / "adapter_model.safetensors").read_bytes() for path in sound.values()]
        self.outcomes: Counter[bool] = Counter()
        self._store, self._base = AdapterStore(store, load_base(model)), model.name

    def agree_on(self, config: bytes, weights: bytes) -> None:
        directory = self._store.directory / ("0" * 64)
        directory.mkdir(exist_ok=True)
        (directory / "adapter_config.json").write_bytes(config)
        (directory / "adapter_model.safetensors").write_bytes(weights)
        found = examine_upload(directory, self._base)
        own = "adapter_config.json names the base "
        site = [reason for reason in found.reasons if not reason.startswith(own)]
        worker = self._refusal(directory, found.digest)
        self.outcomes[not site] += 1
        assert site == worker or (not site and len(worker) == 1 and any(word in worker[0] for word in THE_BASES_WORD))

    def _refusal(self, directory: Path, digest: str) -> list[str]:
        try:
            self._store.load(directory.rename(directory.with_name(digest)).name if digest else directory.name)
        except AdapterRefused as error:
            return list(error.reasons)
        finally:
            for path in self._store.directory.glob("*/*"):
                path.unlink()
            for path in self._store.directory.iterdir():
                path.rmdir()
        return []


def header_of(weights: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__"}


def file_of(tensors: dict[str, tuple[str, list[int]]], number: float) -> bytes:
    """A file of `tensors` full of 0.25; the last one's last number is `number`, if it is of the type for it."""
    header, data = {}, b""
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape)
        is_odd = size and NUMBERS[number] == dtype and name == max(tensors)
        last = number_bytes([number if is_odd else 0.25], dtype) * bool(size)
        begin, data = len(data), data + number_bytes([0.25], dtype) * max(0, size - 1) + last
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, len(data)]}
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def often(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@often(800)
@given(data=st.data())
def test_both_doors_say_the_same_of_a_damaged_config(doors: Doors, data: st.DataObject) -> None:
    kind = data.draw(st.integers(0, len(doors.configs) - 1))
    sound = json.dumps(doors.configs[kind]).encode()
    config = data.draw(json_like([doors.configs[kind]], ENCODINGS) | bytes_like([sound]))
    doors.agree_on(config, doors.weights[kind])


@often(1000)
@given(data=st.data())
def test_both_doors_say_the_same_of_damaged_tensors(doors: Doors, data: st.DataObject) -> None:
    kind = data.draw(st.integers(0, len(doors.configs) - 1))
    tensors = data.draw(tensors_like(header_of(doors.weights[kind])))
    config = data.draw(st.sampled_from(doors.configs))
    doors.agree_on(json.dumps(config).encode(), file_of(tensors, data.draw(st.sampled_from(list(NUMBERS)))))


@often(300)
@given(data=st.data())
def test_both_doors_say_the_same_of_a_damaged_file(doors: Doors, data: st.DataObject) -> None:
    weights = data.draw(weights_like(doors.weights[0]) | bytes_like([doors.weights[0][:3000]]))
    doors.agree_on(json.dumps(doors.configs[0]).encode(), weights)


def test_sound_adapters_pass_both_doors_and_damaged_ones_do_not(doors: Doors) -> None:
    doors.outcomes.clear()
    for config, weights in zip(doors.configs, doors.weights, strict=True):
        doors.agree_on(json.dumps(config).encode(), weights)
        doors.agree_on(json.dumps(config | {"r": 3, "init_r": 0}).encode(), weights)
    assert doors.outcomes == {True: len(doors.configs), False: len(doors.configs)}
