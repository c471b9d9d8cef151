"""A registered blend: from its parts and its gate to an examined version, and what becomes of the files of both."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.db.models import ProtectedError

from inference.adapters.identity import blended_digest
from inference.wire.protocol import Component, GateRef, Probe
from loraland.catalogue import blends, store
from loraland.catalogue.blends import blends_with, parts_of
from loraland.catalogue.composition import Composition, named
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.tasks import revalidate
from loraland.catalogue.upload import replacement
from loraland.catalogue.upload.blending import Gated
from loraland.refusal import Refused
from tests.loraland.adapter_files import IN_OUT, lora_config, lora_tensors, number_bytes, write_adapter
from tests.loraland.gate_files import flow_gate, gate_bytes, ramole_gate

Examined = Callable[..., AdapterVersion]
Prove = Callable[..., AdapterVersion]
Part = Callable[..., AdapterVersion]
Blended = Callable[..., AdapterVersion]
ARROW = GateRef("arrow", 2)


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the end of a transaction is done at once: that of a test never ends."""
    monkeypatch.setattr(transaction, "on_commit", lambda done, **options: done())


def test_an_arrow_blend_is_proven_as_what_it_is_and_answers_to_its_name(
    part: Part, blended: Blended, proven: Prove, probes: list[Probe]
) -> None:
    topic, emotion = part("topic"), part("emotion")
    version = blended(topic, emotion)
    digests = [topic.digest, emotion.digest]
    assert version.digest == blended_digest(digests, "arrow", 2, 1.0, "")
    assert probes[-1].adapter == version.ref
    assert version.ref.components == tuple(map(Component, digests))
    assert version.ref.gate == ARROW
    proven(version)
    assert (version.status, version.method, version.rank, version.size_bytes) == ("published", "Arrow", 4, 0)
    assert version.adapter.base == settings.BASE_NAME
    assert named("trio", AdapterVersion.objects.all()) == version
    assert named(f"trio@{version.short_digest}", AdapterVersion.objects.all()) == version
    assert [str(each) for each in parts_of(version)] == [str(topic), str(emotion)]
    assert list(blends_with(topic)) == [version]


def test_it_has_the_first_parts_prompt_and_none_of_its_examples(part: Part, blended: Blended) -> None:
    topic, emotion = part("topic"), part("emotion")
    topic.mend(topic.template, topic.fields, [{"inputs": {"text": "A goal!"}, "expected": "sport"}])
    version = blended(topic, emotion)
    assert (version.template, version.fields, version.examples) == (topic.template, topic.fields, [])
    assert not hasattr(version, "embedding")
    own = blended(emotion, topic, slug="own", template="Now {what}:", fields=[{"name": "what"}])
    assert own.ref.template == "Now {what}:"


def test_a_trained_gate_is_stored_under_its_digest_and_pins_the_blend(
    part: Part, blended: Blended, proven: Prove, probes: list[Probe]
) -> None:
    parts = [part("topic"), part("emotion")]
    digests = [each.digest for each in parts]
    data = gate_bytes(flow_gate(digests), parts=digests, base="SmolLM2-135M-Instruct")
    version = proven(blended(*parts, gate=GateRef("flow"), data=data))
    assert version.reasons == []
    gate = version.ref.gate
    assert gate is not None
    assert (store.kept(gate.digest) / store.GATE).read_bytes() == data
    assert os.listdir(store.kept(gate.digest)) == [store.GATE]
    assert version.digest == blended_digest(digests, "flow", 0, 1.0, gate.digest)
    assert (version.size_bytes, version.num_parameters) == (len(data), 30 * (2 * 576 + 2))
    assert version.named_base == "SmolLM2-135M-Instruct"
    assert os.listdir(settings.QUARANTINE_DIR) == []


def test_a_gate_of_ramole_weighs_any_parts_on_its_targets(part: Part, blended: Blended) -> None:
    data = gate_bytes(ramole_gate(), kind="ramole")
    version = blended(part("topic"), part("emotion"), gate=GateRef("ramole"), data=data)
    assert (version.status, version.method) == ("validating", "RAMoLE")
    other = blended(
        part("up", tensors=lora_tensors(targets=["up_proj"]), config=lora_config(target_modules=["up_proj"])),
        gate=GateRef("ramole"),
        data=data,
        slug="other",
    )
    assert other.reasons == [
        "gate.safetensors does not fit: the gate has no A_r and B_r for up_proj, which a part changes."
    ]


BAD = {
    "cut short": (lambda digests: gate_bytes(flow_gate(digests), parts=digests)[:-9], "gate.safetensors is no gate"),
    "of another width": (
        lambda digests: gate_bytes(flow_gate(digests, hidden=64), parts=digests),
        "for 64 hidden features, and the base has 576",
    ),
    "of fewer layers": (
        lambda digests: gate_bytes(flow_gate(digests, layers=2), parts=digests),
        "the gate has 2 layers, and the base 30",
    ),
    "of other parts": (
        lambda digests: gate_bytes(flow_gate(digests), parts=digests[::-1]),
        "the gate is made for",
    ),
    "of no numbers": (
        lambda digests: gate_bytes(
            flow_gate(digests) | {"layers.0.bias": ("F32", (2,), number_bytes([float("nan"), 1], "F32"))}, parts=digests
        ),
        "layers.0.bias holds NaN or infinity",
    ),
    "of another base": (
        lambda digests: gate_bytes(flow_gate(digests), parts=digests, base="Mistral-7B-v0.1"),
        "gate.safetensors names the base Mistral-7B-v0.1",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_gate_is_refused_with_its_reasons_and_leaves_nothing(what: str, part: Part, blended: Blended) -> None:
    make, said = BAD[what]
    parts = [part("topic"), part("emotion")]
    before = sorted(os.listdir(settings.ADAPTERS_DIR))
    version = blended(*parts, gate=GateRef("flow"), data=make([each.digest for each in parts]))
    assert version.status == "rejected"
    assert said in " ".join(version.reasons)
    assert sorted(os.listdir(settings.ADAPTERS_DIR)) == before
    assert os.listdir(settings.QUARANTINE_DIR) == []


def test_the_same_blend_again_is_the_version_that_is_there(part: Part, blended: Blended, proven: Prove) -> None:
    parts = [part("topic"), part("emotion")]
    version = proven(blended(*parts))
    assert blended(*parts) == version
    newer = proven(blended(*parts, gate=replace(ARROW, top_k=1)))
    version.refresh_from_db()
    assert (newer.status, version.status) == ("published", "retired")
    assert newer.adapter == version.adapter


def test_a_part_that_is_retired_goes_on_in_its_blend_and_one_that_is_rejected_keeps_its_files(
    part: Part, blended: Blended, proven: Prove
) -> None:
    topic, emotion = part("topic"), part("emotion")
    version = proven(blended(topic, emotion))
    topic.retire()
    assert named("trio", AdapterVersion.objects.all()) == version
    topic.reject(["It is damaged."])
    assert store.kept(topic.digest).exists()
    with pytest.raises(ProtectedError) as refused:
        topic.delete()
    assert [str(row) for row in refused.value.protected_objects] == [f"{topic} in trio (Trio)"]
    emotion.reject(["It is damaged."])
    version.reject(["Its parts are damaged."])
    topic.reject(["Once more."])
    assert not store.kept(topic.digest).exists()


def test_a_part_that_was_rejected_and_is_uploaded_again_takes_its_place_in_the_blend(
    part: Part, blended: Blended, examined: Examined, proven: Prove, tmp_path: Path
) -> None:
    topic, emotion = part("topic"), part("emotion")
    version = proven(blended(topic, emotion))
    topic.reject(["Its proof failed."])
    again = examined(tmp_path / "topic", "topic")
    assert (again.digest, again.pk == topic.pk) == (topic.digest, False)
    assert parts_of(version) == [again, emotion]
    again.reject(["Its proof failed again."])
    assert blends.has_files(version)


def test_what_a_program_replaced_keeps_its_files_while_a_blend_is_of_it(
    part: Part, blended: Blended, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, emotion = part("topic"), part("emotion")
    blended(topic, emotion)
    AdapterVersion.objects.update(is_loaded=True)
    topic.retire()
    monkeypatch.setattr(replacement, "KEPT", 0)
    monkeypatch.setattr(replacement, "KEPT_FOR", timedelta(0))
    replacement.let_go_of_replaced(topic.adapter, frozenset)
    topic.refresh_from_db()
    assert (topic.status, store.kept(topic.digest).exists()) == ("retired", True)


def test_a_gate_that_two_blends_share_goes_with_the_last(part: Part, blended: Blended) -> None:
    parts = [part("topic"), part("emotion"), part("voice")]
    data = gate_bytes(ramole_gate(), kind="ramole")
    one = blended(*parts[:2], gate=GateRef("ramole"), data=data, slug="one")
    two = blended(*parts[1:], gate=GateRef("ramole"), data=data, slug="two")
    gate = store.kept(one.gate["digest"])
    one.reject(["It changes nothing."])
    assert gate.exists()
    two.reject(["It changes nothing."])
    assert not gate.exists()
    assert all(store.kept(each.digest).exists() for each in parts)


def test_it_is_proven_again_unless_its_gate_has_gone(part: Part, blended: Blended, probes: list[Probe]) -> None:
    parts = [part("topic"), part("emotion")]
    version = blended(*parts, gate=GateRef("ramole"), data=gate_bytes(ramole_gate(), kind="ramole"))
    revalidate(version)
    assert probes[-1].adapter == version.ref
    version.reject(["It changes nothing."])
    with pytest.raises(Exception, match="were removed when it was rejected"):
        revalidate(version)


def test_an_adapter_is_a_blend_or_none(part: Part, blended: Blended, examined: Examined, tmp_path: Path) -> None:
    parts = [part("topic"), part("emotion")]
    version = blended(*parts, slug="topic")
    assert "The versions of topic are adapters, and this is a blend" in version.reasons[0]
    blended(*parts)
    plain = examined(write_adapter(tmp_path / "plain", seed=1), "trio")
    assert "The versions of trio are blends, and this is an adapter" in plain.reasons[0]


def test_its_versions_are_for_one_base(part: Part, blended: Blended, proven: Prove, other_base: str) -> None:
    topic, emotion, voice = part("topic"), part("emotion"), part("voice")
    proven(blended(topic, emotion))
    Adapter.objects.filter(slug__in=["emotion", "voice"]).update(base=other_base)
    parts = AdapterVersion.objects.select_related("adapter").filter(pk__in=[emotion.pk, voice.pk])
    assert f"trio is an adapter for {settings.BASE_NAME}" in blended(*parts).reasons[0]
    assert blended(*parts, slug="other").adapter.base == other_base


def test_a_blend_is_no_part_of_another(part: Part, blended: Blended, proven: Prove) -> None:
    parts = [part("topic"), part("emotion")]
    proven(blended(*parts))
    for name in ("0.5*trio+topic", "arrow(trio+topic)"):
        with pytest.raises(Refused, match=f"is a blend itself; name its parts instead, {parts[0]}, {parts[1]}"):
            named(name, AdapterVersion.objects.all())


def beside_pairs(what: str) -> dict[str, Any]:
    if what == "biases":
        shifts = {
            f"base_model.model.model.layers.0.self_attn.{target}.lora_B.bias": (
                "F32", (IN_OUT[target][1],), number_bytes([0.1] * IN_OUT[target][1], "F32"),
            )
            for target in ("q_proj", "v_proj")
        }  # fmt: skip
        return {"config": lora_config(lora_bias=True), "tensors": lora_tensors() | shifts}
    name = "base_model.model.lm_head"
    tensors = {
        f"{name}.lora_A.weight": ("F32", (2, 576), number_bytes([0.1] * 1152, "F32")),
        f"{name}.lora_B.weight": ("F32", (49152, 2), bytes(49152 * 8)),
    }
    targets = ["q_proj", "v_proj", "lm_head"]
    return {"config": lora_config(target_modules=targets), "tensors": lora_tensors() | tensors}


@pytest.mark.parametrize("what", ["biases", "lm_head"])
def test_what_no_gate_weighs_is_foreseen(what: str, part: Part) -> None:
    with_more, plain = part("with_more", **beside_pairs(what)), part("plain")
    with pytest.raises(Refused, match=f"{with_more} changes {what}; a gate weighs"):
        named("arrow(plain+with_more)", AdapterVersion.objects.all())
    assert isinstance(named("plain+with_more", AdapterVersion.objects.all()), Composition)
    assert plain.rank == 2


def test_a_gates_reasons_are_those_of_the_worker(tmp_path: Path) -> None:
    path = tmp_path / store.GATE
    path.write_bytes(gate_bytes(flow_gate(["a" * 64]), parts=["a" * 64], kind="arrow"))
    assert Gated(path).reasons == [
        "gate.safetensors is no gate that is read: its kind is 'arrow'; one of flow and ramole is read."
    ]
