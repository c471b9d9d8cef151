"""A trained gate on disk: what is written is read, what is wrong is named, and LoRA-Flow's own file becomes one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from blends import flow_gate, ramole_gate
from checkpoints import load_base
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.convert import main
from inference.adapters.file import AdapterRefused
from inference.adapters.gate_file import gate_digest, read_gate, write_gate
from inference.adapters.gate_head import GATE_FILE, gate_digest_of, read_head
from inference.adapters.store import AdapterNotFound, AdapterStore
from inference.adapters.stored_gate import StoredGate

PARTS = ("a" * 64, "b" * 64)
FLOW = replace(flow_gate(list(PARTS), 2, 6), base="owner/model", top_k=1)
GOOD = {"format": "loraland-gate-1", "kind": "flow", "parts": ",".join(PARTS), "temperature": "1.1"}


@pytest.mark.parametrize("gate", [FLOW, ramole_gate({"q_proj": (6, 4), "up_proj": (6, 8)}, 2)], ids=["flow", "ramole"])
def test_what_is_written_is_read_again(tmp_path: Path, gate: StoredGate) -> None:
    read = read_gate(write_gate(tmp_path, gate), 6)
    assert read == replace(gate, tensors=read.tensors)
    assert read.tensors.keys() == gate.tensors.keys()
    assert gate_digest(read) == gate_digest(gate)
    assert gate_digest_of(tmp_path / GATE_FILE, *read_head(tmp_path / GATE_FILE)) == gate_digest(gate)


def test_the_digest_follows_parts_settings_and_tensors_but_no_name() -> None:
    others = [replace(FLOW, parts=PARTS[::-1]), replace(FLOW, temperature=1.0), replace(FLOW, top_k=2)]
    others.append(replace(FLOW, tensors={**FLOW.tensors, "layers.0.bias": torch.zeros(2)}))
    assert len({gate_digest(gate) for gate in (FLOW, *others)}) == 5
    assert gate_digest(replace(FLOW, base="another/name")) == gate_digest(FLOW)


@pytest.mark.parametrize(
    ("tensors", "metadata", "named"),
    [
        ({}, {"format": "pt"}, "its format is 'pt'"),
        ({}, {"kind": "arrow"}, "its kind is 'arrow'; one of flow and ramole"),
        ({}, {"parts": "a,b"}, "its parts are 'a,b'"),
        ({}, {"temperature": "0"}, "temperature is '0'"),
        ({}, {"temperature": "nan"}, "temperature is 'nan'"),
        ({}, {"top_k": "-1"}, "top_k '-1'"),
        ({}, {"top_k": "\u0661"}, "numbers are meant"),
        ({}, {"base": "a\0b"}, "its base is 'a.x00b'"),
        ({}, {"base": "a" * 201}, "a name of at most 200 characters is meant"),
        ({"layers.0.q_proj.A_r": torch.zeros(2, 6)}, {}, "A_r' is no tensor of a gate of the kind flow"),
        ({"layers.3.bias": torch.zeros(2)}, {}, "some are missing"),
        ({"layers.0.weight": torch.zeros(2, 5)}, {}, "for 5 hidden features, and the base has 6"),
        ({"layers.0.weight": torch.zeros(33, 6)}, {}, "of 33 parts or keys"),
        ({"layers.0.weight": torch.zeros(6)}, {}, r"has the shape \[6\]"),
        ({"layers.0.bias": torch.full((2,), torch.nan)}, {}, "holds NaN"),
        ({"layers.0.bias": torch.zeros(2, dtype=torch.bfloat16)}, {}, "float32, and 'layers.0.bias' is not"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], named: str
) -> None:
    save_file({**FLOW.tensors, **tensors}, tmp_path / GATE_FILE, {**GOOD, **metadata})
    with pytest.raises(AdapterRefused, match=named):
        read_gate(tmp_path / GATE_FILE, 6)


def test_a_gate_is_found_by_its_digest_and_another_under_it_is_refused(tiny_model: Path, store: Path) -> None:
    gate = flow_gate(list(PARTS), 2, 64)
    digest = gate_digest(gate)
    adapters = AdapterStore(store, load_base(tiny_model))
    with pytest.raises(AdapterNotFound) as missing:
        adapters.gate(digest)
    assert missing.value.what == "gate"
    (store / digest).mkdir()
    write_gate(store / digest, gate)
    assert gate_digest(adapters.gate(digest)) == digest
    write_gate(store / digest, replace(gate, temperature=2.0))
    with pytest.raises(AdapterRefused, match="is another one; import it again"):
        adapters.gate(digest)


def pickled(home: Path, **more: object) -> Path:
    """A gate as LoRA-Flow's code saves it, of two layers and two adapters."""
    tensors: dict[str, object] = {}
    for layer in range(2):
        tensors[f"encoder.layers.{layer}.lora_fusion_gate.weight"] = torch.full((2, 6), float(layer)).half()
        tensors[f"encoder.layers.{layer}.weight_bias"] = torch.tensor([[-0.5, 0.5]])
    torch.save({**tensors, **more}, home / "gate.pt")
    return home / "gate.pt"


def test_lora_flows_own_file_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pickled(tmp_path)
    assert main([str(source), "--parts", *PARTS, "--temperature", "1.1", "--to", str(tmp_path / "gates")]) == 0
    (folder,) = (tmp_path / "gates").iterdir()
    gate = read_gate(folder / GATE_FILE, 6)
    assert (gate.kind, gate.parts, gate.temperature, folder.name) == ("flow", PARTS, 1.1, gate_digest(gate))
    assert torch.equal(gate.tensors["layers.1.weight"], torch.ones(2, 6))
    assert gate.tensors["layers.0.bias"].tolist() == [-0.5, 0.5]
    assert str(folder) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parts", "more", "named"),
    [
        (PARTS[:1], {}, "weighs 2 adapters, and 1 were named"),
        (("a", "b"), {}, "its parts are 'a,b'"),
        (PARTS, {"encoder.layers.0.q.weight": torch.ones(1)}, "which is no tensor of LoRA-Flow's gate"),
        (PARTS, {"config": "x"}, "'config', which is no tensor"),
    ],
)
def test_what_is_no_gate_of_lora_flow_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: tuple[str, ...], more: dict[str, object], named: str
) -> None:
    assert main([str(pickled(tmp_path, **more)), "--parts", *parts]) == 1
    assert named in capsys.readouterr().err
