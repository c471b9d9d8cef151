"""What the examination lets through, what a worker's proof does, and every way of damaging an adapter."""

from __future__ import annotations

import json
import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site_settings

from inference.adapters.config import CHECKED, HARMLESS, UNSUPPORTED, USED
from inference.adapters.finite import non_finite
from inference.adapters.identity import adapter_digest, read_header
from inference.bases import base_name
from inference.wire.contract import WireError
from inference.wire.protocol import Finished, Probe, Stats
from loraland import inference_client
from loraland.bases import Base
from loraland.catalogue import store
from loraland.catalogue.models import Adapter, AdapterVersion, NotPossible
from loraland.catalogue.tasks import resubmit, revalidate, validate_version
from loraland.catalogue.upload.validation import examine_upload
from loraland.catalogue.versions import EXAMINATION_LEASE, MOST_EXAMINATIONS
from tests.loraland.adapter_files import (
    SMOLLM2,
    Tensors,
    lora_config,
    lora_tensors,
    number_bytes,
    safetensors_bytes,
    write_adapter,
)

Examined = Callable[..., AdapterVersion]
Prove = Callable[..., AdapterVersion]

RUNAWAY = "".join(rf"(.*)\{n}*" for n in range(1, 9)) + "[!?]"
"""A pattern that would try for years to match the name of a module."""
Q = "base_model.model.model.layers.0.self_attn.q_proj"
V = "base_model.model.model.layers.0.self_attn.v_proj"
TABLE, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"


def changed(name: str, dtype: str, shape: tuple[int, ...], value: float = 0.1) -> Tensors:
    """Sound tensors but for one."""
    count = 1
    for size in shape:
        count *= size
    return lora_tensors() | {name: (dtype, shape, number_bytes([value] * count, dtype))}


def renamed(old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in lora_tensors().items()}


def without(name: str) -> Tensors:
    return {key: tensor for key, tensor in lora_tensors().items() if key != name}


def header(**entries: Any) -> bytes:
    return safetensors_bytes(lora_tensors(), entries)


def raw_header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


SOUND = safetensors_bytes(lora_tensors())
A_Q = f"{Q}.lora_A.weight"
FIRST = {"dtype": "F32", "shape": [2, 576], "data_offsets": [0, 4608]}

WEIGHTS: dict[str, tuple[bytes | Tensors, str]] = {
    "an empty file": (b"", "the file has 0 bytes"),
    "a length without a header": (SOUND[:8], "the file ends after 0"),
    "a truncated header": (SOUND[:100], "the file ends after 92"),
    "a header longer than any": (struct.pack("<Q", 2**40) + SOUND[8:], "at most 8388608 are allowed"),
    "a header that is not JSON": (raw_header(b"{'lora': 1}"), "the header is not JSON"),
    "a header nested without end": (raw_header(b"[" * 100_000), "the header is not JSON"),
    "a header that is a list": (raw_header(b"[1, 2]"), "the header is not a JSON object"),
    "a tensor named twice": (raw_header(b'{"a": {}, "a": {}}'), "names a tensor twice"),
    "truncated data": (SOUND[:-4], "the tensors fill"),
    "data after the last tensor": (SOUND + b"more", "the tensors fill"),
    "overlapping offsets": (
        header(**{f"{Q}.lora_B.weight": FIRST | {"shape": [576, 2]}}),
        "overlaps the tensor before it",
    ),
    "a gap between tensors": (header(**{A_Q: FIRST | {"shape": [1, 576], "data_offsets": [0, 2304]}}), "leaves a gap"),
    "offsets that run backwards": (
        header(**{A_Q: FIRST | {"data_offsets": [4608, 0]}}),
        "does not fit its -4608 bytes",
    ),
    "a negative shape": (header(**{A_Q: FIRST | {"shape": [-2, -576]}}), "malformed shape"),
    "a shape that overflows": (header(**{A_Q: FIRST | {"shape": [2**47, 2**47]}}), "does not fit its 4608 bytes"),
    "an unknown type": (header(**{A_Q: FIRST | {"dtype": "I32"}}), "has type 'I32'"),
    "a type that is a list": (header(**{A_Q: FIRST | {"dtype": ["F32"]}}), "has type ['F32']"),
    "a type that is an object": (header(**{A_Q: FIRST | {"dtype": {"F32": 1}}}), "has type [('F32', 1)]"),
    "a name with half a character": (header(**{"\ud800": FIRST}), "the name '\\ud800' is no text"),
    "a name with a NUL": (header(**{"a\0": FIRST}), "the name 'a\\x00' is no text"),
    "a name of half a megabyte": (header(**{"a" * 500_000: FIRST}), "at most 512 characters"),
    "a shape of 80,000 sizes": (header(**{A_Q: FIRST | {"shape": [2**47] * 80_000}}), "at most 8 sizes"),
    "a header in UTF-16": (raw_header("{}".encode("utf-16")), "the header is not JSON"),
    "a field given twice": (
        raw_header(b'{"a": {"dtype": "F32", "shape": [0], "shape": [0], "data_offsets": [0, 0]}}'),
        "has no dtype, shape and data_offsets",
    ),
    "an entry without offsets": (header(**{A_Q: {"dtype": "F32", "shape": [2, 576]}}), "data_offsets"),
    "a pickle named safetensors": (pickle.dumps({"lora_A": [1.0]}), "is a Python pickle under another name"),
    "a PyTorch file named safetensors": (b"PK\x03\x04" + bytes(64), "is a PyTorch pickle"),
    "a GGUF file named safetensors": (b"GGUF" + bytes(64), "is a GGUF file"),
    "NaN": (changed(A_Q, "F32", (2, 576), float("nan")), "hold NaN or infinity"),
    "infinity in half precision": (changed(A_Q, "F16", (2, 576), float("-inf")), "hold NaN or infinity"),
    "no tensor": ({}, "No module of the base is changed"),
    "no matched module": (renamed("model.layers", "transformer.h"), "has no such module"),
    "a layer that the base lacks": (renamed("layers.0", "layers.30"), "has no such module"),
    "a projection in the wrong block": (renamed("self_attn", "mlp"), "has no such module"),
    "wrong inputs": (changed(A_Q, "F32", (2, 512)), "lora_A has 512 inputs where SmolLM2-135M-Instruct has 576"),
    "wrong outputs": (changed(f"{V}.lora_B.weight", "F32", (576, 2)), "lora_B has 576 outputs where"),
    "A transposed": (changed(A_Q, "F32", (576, 2)), "lora_A has rank 576 but lora_B has rank 2"),
    "A flattened": (changed(A_Q, "F32", (1152,)), "both must be matrices"),
    "A without B": (without(f"{Q}.lora_B.weight"), "lora_B is missing: model.layers.0.self_attn.q_proj"),
    "another rank than r": (lora_tensors(rank=4), "The rank is 4 but adapter_config.json says 2"),
    "a rank past the limit": (lora_tensors(rank=65), "The rank is 65 but adapter_config.json says 2"),
    "one module twice": (
        lora_tensors() | {A_Q.replace(".weight", ".default.weight"): lora_tensors()[A_Q]},
        "same name without PEFT's prefix",
    ),
    "a DoRA magnitude": (changed(f"{Q}.lora_magnitude_vector", "F32", (576,)), "magnitudes come without use_dora"),
    "a trained lm_head": (changed("base_model.model.lm_head.weight", "F32", (2, 2)), "A table of 2×2 comes with it"),
    "half an embedding": (changed(f"{TABLE}.lora_embedding_A", "F32", (2, 49152)), "lora_B is missing: "),
    "an embedding as a linear": (changed(f"{TABLE}.lora_A.weight", "F32", (2, 49152)), "train a LoRA on them"),
    "a trained bias": (changed(f"{Q}.bias", "F32", (576,)), "has no bias there"),
    "a tensor of another kind": (changed(f"{Q}.weight", "F32", (2, 2)), "Not a LoRA matrix"),
    "a module that is no target": (
        lora_tensors(targets=("q_proj", "v_proj", "k_proj")),
        "target_modules does not name",
    ),
    "a target without tensors": (lora_tensors(targets=("q_proj",)), "names modules without any tensor: v_proj"),
}

CONFIGS: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "an empty config": (b"", "is not JSON"),
    "a config that is a list": (b"[]", "is not a JSON object"),
    "a config nested without end": (b"[" * 100_000, "is not JSON"),
    "a config with NaN": (b'{"r": NaN}', "NaN is not a number"),
    "a key twice": (b'{"r": 2, "r": 4}', "names a key twice"),
    "a NUL in a text": (lora_config(revision="a\0b"), "cannot be kept"),
    "half a character": (b'{"revision": "\\ud800"}', "cannot be kept"),
    "a number past all floats": (b'{"lora_dropout": 1e999}', "cannot be kept"),
    "unknown keys": (lora_config(lora_gamma=1), 'keys that nobody here knows: "lora_gamma": 1'),
    "another method": (lora_config(peft_type="LOHA"), 'peft_type is "LOHA"'),
    "a classifier": (lora_config(task_type="SEQ_CLS"), "only CAUSAL_LM"),
    "a rank of zero": (lora_config(r=0), "r is 0"),
    "a rank that is a list": (lora_config(r=[2]), "r is [2]"),
    "a rank that is an object": (lora_config(r={"q_proj": 2}), 'r is {"q_proj": 2}'),
    "ranks for more modules than there are": (
        lora_config(rank_pattern={f"layers.{number}.q_proj": 2 for number in range(30_000)}),
        "rank_pattern has 30000 keys; at most 2000 are read",
    ),
    "an object as deep as a parser goes": (b'{"revision": ' + b"[" * 300 + b"]" * 300 + b"}", "cannot be kept"),
    "a rank past the limit": (lora_config(r=65), "from 1 to 64"),
    "a switch as a rank": (lora_config(r=True), "r is true"),
    "no alpha": (lora_config(lora_alpha=None), "lora_alpha is null"),
    "a text as alpha": (lora_config(lora_alpha="16"), "must be a positive number"),
    "no targets": (lora_config(target_modules=[]), "target_modules is []"),
    "a head without tensors": (lora_config(target_modules=["q_proj", "v_proj", "lm_head"]), "without any tensor: lm_"),
    "DoRA without magnitudes": (lora_config(use_dora=True), "lora_magnitude_vector is missing"),
    "DoRA neither on nor off": (lora_config(use_dora="yes"), 'use_dora is "yes"'),
    "tied tables": (lora_config(ensure_weight_tying=True), "train them apart"),
    "whole modules": (lora_config(modules_to_save=["score"]), "carries whole modules"),
    "a bias of another kind": (lora_config(bias="some"), 'bias is "some"'),
    "merged projections": (lora_config(enable_lora=[True, False, True]), "merges projections in one (enable_lora)"),
    "LoRA biases": (lora_config(lora_bias=True), "lora_bias is set, but lora_B.bias is missing"),
    "replicated layers": (lora_config(layer_replication=[[0, 4]]), "replicates layers"),
    "a start that rewrites the base": (
        lora_config(init_lora_weights="pissa_niter_4"),
        "may rewrite the base's weights",
    ),
    "layers without tensors": (lora_config(layers_to_transform=None), "q_proj has no tensors in these layers"),
    "a pattern of ranks that runs away": (lora_config(rank_pattern={RUNAWAY: 4}), "takes too long"),
    "a pattern of ranks that is none": (lora_config(rank_pattern={"(": 4}), "is no regular expression"),
    "a pattern that runs away": (lora_config(target_modules=RUNAWAY), "takes too long on model.layers.0"),
    "a rank pattern that the tensors break": (lora_config(rank_pattern={"q_proj": 4}), "config.json says 4"),
}


@pytest.mark.parametrize("damage", WEIGHTS)
def test_damaged_weights_are_rejected_with_their_reason(damage: str, examined: Examined, tmp_path: Path) -> None:
    weights, reason = WEIGHTS[damage]
    version = examined(write_adapter(tmp_path / "adapter", tensors=weights))
    assert version.status == version.Status.REJECTED
    assert any(reason in told for told in version.reasons), version.reasons


@pytest.mark.parametrize("damage", CONFIGS)
def test_a_damaged_config_is_rejected_with_its_reason(damage: str, examined: Examined, tmp_path: Path) -> None:
    config, reason = CONFIGS[damage]
    version = examined(write_adapter(tmp_path / "adapter", config=config))
    assert version.status == version.Status.REJECTED
    assert any(reason in told for told in version.reasons), version.reasons


def test_every_reason_is_told_and_nothing_of_a_rejected_upload_stays(
    examined: Examined, tmp_path: Path, probes: list[Probe], django_capture_on_commit_callbacks: Any
) -> None:
    tensors = changed(A_Q, "F32", (2, 512), float("inf"))
    with django_capture_on_commit_callbacks(execute=True):
        version = examined(write_adapter(tmp_path / "a", config=lora_config(use_qalora=True, odd=1), tensors=tensors))
    assert len(version.reasons) == 4, version.reasons
    assert list(site_settings.QUARANTINE_DIR.iterdir()) == []
    assert not site_settings.ADAPTERS_DIR.exists()
    assert probes == []


def test_many_tensors_with_one_fault_make_one_sentence(adapter_store: Path, tmp_path: Path) -> None:
    config = lora_config(layers_to_transform=list(range(40, 50)))
    directory = write_adapter(tmp_path, config=config, tensors=lora_tensors(layers=range(40, 50)))
    (reason,) = examine_upload(directory, "SmolLM2-135M-Instruct").reasons
    assert reason.startswith("SmolLM2-135M-Instruct has no such module: model.layers.40.self_attn.q_proj")
    assert reason.endswith("and 17 more.")


def test_the_keys_of_the_installed_peft_are_all_known() -> None:
    from peft import LoraConfig

    known = USED | CHECKED | HARMLESS | UNSUPPORTED.keys()
    assert {field.name for field in fields(LoraConfig)} <= known


def test_a_config_as_peft_saves_it_is_accepted(examined: Examined, tmp_path: Path) -> None:
    from peft import LoraConfig

    written = LoraConfig(
        r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", layers_to_transform=[0]
    )
    written.save_pretrained(tmp_path / "adapter")
    config = (tmp_path / "adapter" / "adapter_config.json").read_bytes()
    version = examined(write_adapter(tmp_path / "adapter", config=config))
    assert version.reasons == []
    assert "layers_pattern" in version.config


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_the_scan_finds_a_single_bad_number_and_no_other(dtype: str, tmp_path: Path) -> None:
    top = 60000.0 if dtype == "F16" else 3e38
    sound = [0.0, -0.0, 1e-7, -top, top] * 20_000
    bad = [*sound[:-1], float("nan")]
    tensors = {name: (dtype, (100_000,), number_bytes(values, dtype)) for name, values in (("a", sound), ("b", bad))}
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(safetensors_bytes(tensors))
    assert non_finite(path, read_header(path)) == ["b"]


def test_a_number_that_float32_does_not_hold_counts_as_infinity(tmp_path: Path) -> None:
    numbers = {"largest": 3.4e38, "larger": 3.5e38, "far larger": -1e300}
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(
        safetensors_bytes({name: ("F64", (1,), number_bytes([number], "F64")) for name, number in numbers.items()})
    )
    assert non_finite(path, read_header(path)) == ["larger", "far larger"]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": r"model\.layers\.0\.self_attn\.(q|v)_proj", "layers_to_transform": None},
        {"target_modules": r"(?!.*[1-9]).*[qv]_proj", "layers_to_transform": None},
        {"target_modules": ["q_proj", "v_proj", "k_proj"], "exclude_modules": r".*k_proj"},
        {"target_modules": ["q_proj", "v_proj", "k_proj"], "exclude_modules": ["k_proj"]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"target_modules": None},
        {"fan_in_fan_out": True, "init_lora_weights": ""},
        {"merge_weights": False, "enable_lora": None, "a_key_of_tomorrow": None, "another": []},
        {"bias": "all"},
        {"peft_type": "lora"},
        {"target_modules": ["q_proj", "v_proj", "qkv", "linear_fc1", "attn.proj", "in_proj_z"]},
    ],
    ids=lambda config: str(config)[:50],
)
def test_each_way_to_name_what_was_trained_is_read(config: dict[str, Any], examined: Examined, tmp_path: Path) -> None:
    version = examined(write_adapter(tmp_path, config=lora_config(**config)))
    assert version.reasons == []
    assert version.target_modules == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "targets", [r".*\.(q|v)_proj", "all-linear", ["q_proj", "v_proj"], r"model\.layers\.\d+\.self_attn\.[qv]_proj"]
)
def test_half_an_adapter_is_found_however_its_targets_are_named(
    targets: Any, examined: Examined, tmp_path: Path
) -> None:
    half = lora_tensors(layers=range(15))
    config = lora_config(target_modules=targets, layers_to_transform=None)
    version = examined(write_adapter(tmp_path, config=config, tensors=half))
    assert version.status == version.Status.REJECTED
    assert any(
        "q_proj has no tensors in these layers of SmolLM2-135M-Instruct: 15, 16, 17" in told for told in version.reasons
    )


def test_a_pattern_that_means_nothing_here_is_refused(adapter_store: Path, tmp_path: Path) -> None:
    config = lora_config(target_modules=r"transformer\.h\..*", layers_to_transform=None)
    reasons = examine_upload(write_adapter(tmp_path, config=config), "SmolLM2-135M-Instruct").reasons
    assert any("target_modules matches no module of SmolLM2-135M-Instruct" in reason for reason in reasons)


def test_a_save_that_kept_no_weights_is_told_what_it_is_and_how_it_is_mended(
    examined: Examined, tmp_path: Path
) -> None:
    tensors = dict.fromkeys(lora_tensors(), ("F32", (0,), b""))
    version = examined(write_adapter(tmp_path, tensors=tensors))
    (reason,) = version.reasons
    assert reason.startswith("The tensors are empty: a trainer that spreads weights over processes")
    assert "stage3_gather_16bit_weights_on_model_save" in reason


def test_a_trained_table_of_more_rows_is_refused_with_their_number(adapter_store: Path, tmp_path: Path) -> None:
    tensors = lora_tensors() | zeros(**{f"{HEAD}.weight": (49154, 576)})
    config = lora_config(modules_to_save=["lm_head"])
    (reason,) = examine_upload(write_adapter(tmp_path, config=config, tensors=tensors), "SmolLM2-135M-Instruct").reasons
    assert "The vocabulary was enlarged by 2 tokens, and all adapters share that of SmolLM2-135M-Instruct" in reason
    assert "a row, up to 49151; it may be the adapter's own (trainable_token_indices): lm_head." in reason


@pytest.mark.parametrize(("height", "remarks"), [(49154, ["2 rows beyond"]), (49000, [])])
def test_a_table_that_was_resized_and_not_trained_keeps_nothing_from_being_served(
    height: int, remarks: list[str], examined: Examined, tmp_path: Path
) -> None:
    tensors = lora_tensors() | zeros(**{"base_model.model.model.embed_tokens.weight": (height, 576)})
    version = examined(write_adapter(tmp_path, tensors=tensors))
    assert version.reasons == []
    told = [remark for remark in version.remarks if "rows beyond" in remark]
    assert [remark in sentence for remark, sentence in zip(remarks, told, strict=True)] == [True] * len(remarks)


def test_tables_of_the_base_may_lie_beside_a_lora(examined: Examined, tmp_path: Path) -> None:
    names = ("model.embed_tokens.weight", "lm_head.weight")
    tensors = lora_tensors() | zeros(**{f"base_model.model.{name}": (49152, 576) for name in names})
    version = examined(write_adapter(tmp_path, tensors=tensors))
    assert version.reasons == []
    assert version.target_modules == ["q_proj", "v_proj"]
    assert version.num_parameters == sum(math.prod(shape) for _, shape, _ in lora_tensors().values())


def test_ranks_and_types_may_be_mixed(examined: Examined, tmp_path: Path) -> None:
    tensors = lora_tensors(rank=2, targets=("q_proj",), dtype="BF16") | lora_tensors(rank=8, targets=("down_proj",))
    config = lora_config(target_modules=["q_proj", "down_proj"], rank_pattern={"mlp.down_proj": 8}, use_rslora=True)
    version = examined(write_adapter(tmp_path, config=config, tensors=tensors))
    assert version.reasons == []
    assert version.target_modules == ["down_proj", "q_proj"]
    assert version.num_parameters == 2 * (576 + 576) + 8 * (1536 + 576)


def zeros(**shapes: tuple[int, ...]) -> Tensors:
    return {name: ("BF16", shape, bytes(2 * math.prod(shape))) for name, shape in shapes.items()}


def test_a_dora_on_linears_the_embedding_and_the_head_is_accepted(examined: Examined, tmp_path: Path) -> None:
    matrices = {
        f"{TABLE}.lora_embedding_A": (2, 49152),
        f"{TABLE}.lora_embedding_B": (576, 2),
        f"{TABLE}.lora_magnitude_vector": (576,),
        f"{HEAD}.lora_A.weight": (2, 576),
        f"{HEAD}.lora_B.weight": (49152, 2),
        f"{HEAD}.lora_magnitude_vector": (49152,),
        f"{Q}.lora_magnitude_vector": (576,),
    }
    tensors = lora_tensors(targets=("q_proj",)) | zeros(**matrices)
    config = lora_config(target_modules=["q_proj", "model.embed_tokens", "lm_head"], use_dora=True)
    with_copy = tensors | zeros(**{f"{HEAD}.base_layer.weight": (49152, 576)})
    version = examined(write_adapter(tmp_path, config=config, tensors=with_copy))
    assert version.reasons == []
    assert version.target_modules == ["embed_tokens", "lm_head", "q_proj"]
    assert version.num_parameters == sum(math.prod(shape) for _, shape, _ in tensors.values())


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        (f"{Q}.lora_magnitude_vector", (575,), "lora_magnitude_vector is 575, not one number for each output"),
        (f"{HEAD}.base_layer.weight", (49153, 576), "The vocabulary was enlarged by 1 tokens, and all adapters share"),
        (f"{HEAD}.lora_A.weight", (2, 575), "lora_A has 575 inputs where SmolLM2-135M-Instruct has 576"),
    ],
)
def test_a_magnitude_or_a_head_of_a_wrong_shape_is_rejected(
    name: str, shape: tuple[int, ...], reason: str, adapter_store: Path, tmp_path: Path
) -> None:
    shapes = {
        f"{Q}.lora_magnitude_vector": (576,),
        f"{HEAD}.lora_A.weight": (2, 576),
        f"{HEAD}.lora_B.weight": (49152, 2),
        f"{HEAD}.lora_magnitude_vector": (49152,),
    }
    tensors = lora_tensors(targets=("q_proj",)) | zeros(**(shapes | {name: shape}))
    config = lora_config(target_modules=["q_proj", "lm_head"], use_dora=True)
    reasons = examine_upload(write_adapter(tmp_path, config=config, tensors=tensors), "SmolLM2-135M-Instruct").reasons
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_a_sound_adapter_waits_for_its_proof_under_its_digest(
    examined: Examined, tmp_path: Path, adapter_store: Path, probes: list[Probe]
) -> None:
    source = write_adapter(tmp_path / "a")
    version = examined(source)
    assert version.status == version.Status.VALIDATING
    assert version.digest == adapter_digest(lora_config(), source / store.WEIGHTS)
    assert (adapter_store / version.digest / store.WEIGHTS).read_bytes() == (source / store.WEIGHTS).read_bytes()
    assert [(probe.id, probe.adapter.digest) for probe in probes] == [(version.probe_id, version.digest)]
    assert not version.adapter.published_id


def test_a_proof_publishes(examined: Examined, proven: Prove, tmp_path: Path) -> None:
    version = proven(examined(write_adapter(tmp_path)))
    assert version.status == version.Status.PUBLISHED
    assert version.logit_delta == 1.5
    assert list(Adapter.objects.served()) == [version.adapter]


def test_a_proof_told_twice_changes_nothing(examined: Examined, proven: Prove, tmp_path: Path) -> None:
    version = examined(write_adapter(tmp_path))
    probe_id = version.probe_id
    proven(version).retire()
    version.record_proof(Finished(probe_id, "done", Stats(logit_delta=9.0)))
    assert version.status == version.Status.RETIRED
    assert version.logit_delta == 1.5


@pytest.mark.parametrize("delta", [0.0, None, float("nan")])
def test_an_adapter_that_changes_nothing_is_rejected(
    delta: float | None, examined: Examined, proven: Prove, tmp_path: Path
) -> None:
    version = proven(examined(write_adapter(tmp_path)), delta)
    assert version.status == version.Status.REJECTED
    assert "changes nothing" in version.reasons[0]


def test_a_refusal_of_the_worker_removes_the_files(
    examined: Examined, refused: Prove, tmp_path: Path, adapter_store: Path, django_capture_on_commit_callbacks: Any
) -> None:
    version = examined(write_adapter(tmp_path))
    with django_capture_on_commit_callbacks(execute=True):
        refused(version, error="Layer 3 does not load.")
    assert version.reasons == ["Layer 3 does not load."]
    assert list(adapter_store.iterdir()) == []
    with pytest.raises(NotPossible, match="upload them again"):
        revalidate(version)


def test_a_rejected_digest_that_another_adapter_has_keeps_its_files(
    examined: Examined, proven: Prove, refused: Prove, tmp_path: Path, adapter_store: Path,
    django_capture_on_commit_callbacks: Any,
) -> None:  # fmt: skip
    first = proven(examined(write_adapter(tmp_path), "first"))
    with django_capture_on_commit_callbacks(execute=True):
        refused(examined(tmp_path, "second"))
    assert (adapter_store / first.digest / store.WEIGHTS).exists()


def test_a_version_without_redis_waits_and_goes_on(
    examined: Examined, proven: Prove, tmp_path: Path, probes: list[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(probe: Probe, base: Base) -> None:
        raise WireError("no Redis")

    with monkeypatch.context() as patch:
        patch.setattr(inference_client, "submit_probe", unreachable)
        version = examined(write_adapter(tmp_path))
    assert list(AdapterVersion.objects.awaiting_proof()) == [version]
    resubmit(version)
    assert [probe.id for probe in probes] == [version.probe_id]
    assert proven(version).status == version.Status.PUBLISHED
    assert list(AdapterVersion.objects.awaiting_proof()) == []


def test_an_examination_that_was_lost_is_done_by_the_next(
    examined: Examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = examined(write_adapter(tmp_path))
    token = store.receive_directory(tmp_path)
    long_ago = version.changed - 2 * EXAMINATION_LEASE
    rows = AdapterVersion.objects.filter(pk=version.pk)
    rows.update(status="validating", digest="", probe_id="", quarantine=token, changed=long_ago)
    (halted,) = AdapterVersion.objects.awaiting_proof()
    monkeypatch.setattr(validate_version, "delay", validate_version)
    resubmit(halted)
    assert rows.get().digest == version.digest


def test_an_examination_that_kills_its_process_every_time_ends_in_a_reason(examined: Examined, tmp_path: Path) -> None:
    version = examined(write_adapter(tmp_path))
    rows = AdapterVersion.objects.filter(pk=version.pk)
    long_ago = version.changed - 2 * EXAMINATION_LEASE
    rows.update(status="uploaded", digest="", probe_id="")
    for _ in range(MOST_EXAMINATIONS):
        assert AdapterVersion.objects.claim(version.pk) is not None  # and here the process dies
        assert rows.get().status == "validating"
        rows.update(changed=long_ago)
    assert AdapterVersion.objects.claim(version.pk) is None
    assert rows.get().status == "rejected"
    assert "broke off 5 times" in rows.get().reasons[0]
    assert list(AdapterVersion.objects.awaiting_proof()) == []


def test_what_nobody_foresaw_is_a_reason_with_a_traceback_in_the_log(
    examined: Examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*args: object) -> None:
        raise KeyError("a case that nobody thought of")

    monkeypatch.setattr("inference.adapters.examination.bind", stumble)
    version = examined(write_adapter(tmp_path, config=lora_config(revision="unheard of")))
    assert version.status == version.Status.REJECTED
    assert version.reasons == [
        "The adapter could not be read (KeyError: 'a case that nobody thought of'); make the file again."
    ]
    assert "Traceback" in caplog.text


def test_reasons_are_told_in_bounds(examined: Examined, tmp_path: Path) -> None:
    entries = {
        f"model.layers.{number}.self_attn.q_proj.lora_{side}.weight": {
            "dtype": "F32", "shape": [number if side == "A" else 0, 0], "data_offsets": [0, 0]
        }
        for number in range(1, 300)
        for side in "AB"
    }  # fmt: skip
    version = examined(write_adapter(tmp_path, tensors=raw_header(json.dumps(entries).encode())))
    assert version.status == version.Status.REJECTED
    assert len(version.reasons) == 31
    assert version.reasons[-1].startswith("And ")


def test_two_jobs_do_not_examine_one_version(examined: Examined, tmp_path: Path) -> None:
    version = examined(write_adapter(tmp_path))
    AdapterVersion.objects.filter(pk=version.pk).update(status="uploaded")
    assert AdapterVersion.objects.claim(version.pk) is not None
    assert AdapterVersion.objects.claim(version.pk) is None


def test_a_new_version_takes_over_and_the_old_one_keeps_its_files(
    examined: Examined, proven: Prove, tmp_path: Path, adapter_store: Path
) -> None:
    old = proven(examined(write_adapter(tmp_path / "1", seed=1)))
    new = proven(examined(write_adapter(tmp_path / "2", seed=2)))
    old.refresh_from_db()
    assert (old.status, new.status) == ("retired", "published")
    assert Adapter.objects.get().published == new
    assert (adapter_store / old.digest).exists()
    old.publish()
    assert Adapter.objects.get().published == old


def test_a_late_proof_does_not_replace_a_newer_version(examined: Examined, proven: Prove, tmp_path: Path) -> None:
    old = examined(write_adapter(tmp_path / "1", seed=1))
    new = proven(examined(write_adapter(tmp_path / "2", seed=2)))
    assert proven(old).status == old.Status.READY
    assert Adapter.objects.get().published == new


def test_a_published_version_answers_on_while_it_is_proven_again(
    examined: Examined, proven: Prove, refused: Prove, tmp_path: Path
) -> None:
    version = proven(examined(write_adapter(tmp_path)))
    revalidate(version)
    assert version.status == version.Status.PUBLISHED
    assert list(AdapterVersion.objects.awaiting_proof()) == [version]
    assert proven(version, 2.0).status == version.Status.PUBLISHED
    revalidate(version)
    assert refused(version).status == version.Status.REJECTED
    assert Adapter.objects.get().published is None


def test_a_version_that_no_worker_has_proven_cannot_be_published(examined: Examined, tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="only a ready version"):
        examined(write_adapter(tmp_path)).publish()


MISTRAL = SMOLLM2 | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def mistral(directory: Path) -> Path:
    """An adapter of Mistral-7B-v0.1: 4096 wide, 8 of 32 heads for keys and values."""
    tensors = {}
    for target, outputs in (("q_proj", 4096), ("v_proj", 1024)):
        for side, shape in (("A", (2, 4096)), ("B", (outputs, 2))):
            name = f"base_model.model.model.layers.31.self_attn.{target}.lora_{side}.weight"
            tensors[name] = ("F32", shape, number_bytes([0.1] * (shape[0] * shape[1]), "F32"))
    config = lora_config(base_model_name_or_path="mistralai/Mistral-7B-v0.1", layers_to_transform=[31])
    return write_adapter(directory, config=config, tensors=tensors)


def test_an_adapter_of_another_base_is_listed_with_the_reason(
    examined: Examined, tmp_path: Path, probes: list[Probe]
) -> None:
    version = examined(mistral(tmp_path), base="")
    assert version.status == version.Status.LISTED
    assert list(Adapter.objects.published()) == [version.adapter]
    assert list(Adapter.objects.served()) == []
    assert version.adapter.unserved_reason == "Made for Mistral-7B-v0.1; this site serves SmolLM2-135M-Instruct."
    assert probes == []
    assert list(AdapterVersion.objects.awaiting_proof()) == []


def test_a_listed_adapter_is_examined_and_proven_when_its_base_is_served(
    examined: Examined, proven: Prove, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined(mistral(tmp_path), base="")
    settings.BASE_MODEL = settings.BASE_NAME = "Mistral-7B-v0.1"
    settings.BASE_KEY = "mistral-7b-v0.1"
    config = settings.MODELS_DIR / settings.BASE_NAME / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(MISTRAL))
    monkeypatch.setattr(validate_version, "delay", validate_version)
    (version,) = AdapterVersion.objects.awaiting_proof()
    resubmit(version)
    version.refresh_from_db()
    assert proven(version).status == version.Status.PUBLISHED
    assert Adapter.objects.get().is_served


def test_the_wrong_base_for_an_adapter_is_refused(examined: Examined, proven: Prove, tmp_path: Path) -> None:
    proven(examined(write_adapter(tmp_path / "1")))
    version = examined(mistral(tmp_path / "2"))
    assert version.status == version.Status.REJECTED
    assert "names the base Mistral-7B-v0.1" in version.reasons[-1]


def test_shapes_decide_and_the_name_of_the_base_does_not(examined: Examined, proven: Prove, tmp_path: Path) -> None:
    config = lora_config(base_model_name_or_path="/home/me/checkpoints/final")
    version = proven(examined(write_adapter(tmp_path, config=config), base=""))
    assert version.status == version.Status.PUBLISHED
    assert Adapter.objects.get().base == "SmolLM2-135M-Instruct"


def test_a_base_from_a_gguf_file_has_its_shapes_checked(examined: Examined, tmp_path: Path, settings: Any) -> None:
    settings.BASE_MODEL = str(tmp_path / "Mistral-7B-v0.1.gguf")
    settings.BASE_NAME = base_name(settings.BASE_MODEL)
    settings.BASE_KEY = settings.BASE_NAME.lower()
    Path(settings.BASE_MODEL).write_bytes(b"GGUF")
    converted = settings.MODELS_DIR / "Mistral-7B-v0.1"
    converted.mkdir()
    (converted / "config.json").write_text(json.dumps(MISTRAL))
    refused = examined(write_adapter(tmp_path / "1"), base="Mistral-7B-v0.1")
    assert refused.reasons[0].startswith("lora_A has 576 inputs where Mistral-7B-v0.1 has 4096: ")
    assert examined(mistral(tmp_path / "2"), base="Mistral-7B-v0.1").status == refused.Status.VALIDATING
