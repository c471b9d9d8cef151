"""A blend's gate from the admin: what is asked for and refused, what is queued, and what its files become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from redis import Redis

from inference.server import queue as training_queue
from inference.tasks.card import Card, write_card
from inference.tasks.gate_recipe import GateRecipe, parse_gate_recipe
from inference.wire.protocol import Finished, Probe, Stats
from loraland.catalogue import blends, store
from loraland.catalogue.models import AdapterVersion
from loraland.evals.models import DataSet
from loraland.training.drafting import examine
from loraland.training.models import Training
from loraland.training.tasks import follow_training
from tests.loraland.adapter_files import write_adapter
from tests.loraland.gate_files import flow_gate, gate_bytes, ramole_gate, write_gate

Publish = Callable[..., AdapterVersion]
ADD = "/admin/training/training/add/"
LOSSES = {"loss_rows": 12, "loss_before": 1.5, "loss_after": 1.25, "loss_low": -0.5, "loss_high": -0.125}


@pytest.fixture
def two(publish: Publish, adapter_store: Path) -> list[AdapterVersion]:
    """Two published adapters with files."""
    made = [publish(slug, slug[0], rank=2, target_modules=["q_proj", "v_proj"]) for slug in ("anger", "bliss")]
    for seed, version in enumerate(made):
        write_adapter(store.kept(version.digest), seed=seed)
    return made


@pytest.fixture
def ask(owner: Client, upload: Callable[..., DataSet]) -> Callable[..., dict[str, list[str]]]:
    """`ask(**fields)` sends the form; what it complains of by field, nothing when it was taken."""

    def run(**changes: Any) -> dict[str, list[str]]:
        data = DataSet.objects.first() or upload()
        sent = {
            **{"preset": "flow", "name": "Both", "category": "Classic NLP", "template": "Text: {text}\nMood:"},
            **{"instruction": "Name the mood.", "metric": "accuracy", "steps": "30", "batch": "4"},
            **{"learning_rate": "0.001", "max_length": "128", "temperature": "1", "weighed": ["anger", "bliss", ""]},
        }
        answer = owner.post(f"{ADD}?data={data.pk}", sent | changes)
        errors: dict[str, list[str]] = answer.context["form"].errors if answer.status_code == 200 else {}
        return errors

    return run


Ask = Callable[..., dict[str, list[str]]]


def step(training: Training) -> Training:
    follow_training(str(training.pk))
    return Training.objects.get(pk=training.pk)


def test_the_form_of_a_gate_offers_parts_and_its_own_numbers_alone(
    owner: Client, upload: Callable[..., DataSet], two: list[AdapterVersion]
) -> None:
    data = upload()
    flow, ramole = (owner.get(ADD, {"data": data.pk, "preset": kind}).content.decode() for kind in ("flow", "ramole"))
    assert '<option value="bliss">Bliss</option>' in flow
    assert 'name="start"' in flow
    assert 'name="steps" value="250"' in flow
    assert "Train a blend’s gate" in flow
    assert not any(f'name="{name}"' in flow for name in ("rank", "target_modules", "nola_basis", "dropout", "g"))
    assert 'name="start"' not in ramole
    assert all(f'name="{name}" value="{value}"' in ramole for name, value in (("g", 8), ("dropout", 0.5), ("top_k", 0)))


def test_a_flow_gate_is_queued_with_the_digests_of_its_parts(ask: Ask, two: list[AdapterVersion], redis: Redis) -> None:
    assert ask(start="bliss") == {}
    training = step(Training.objects.get())
    assert (training.method, training.rank, training.slug) == ("LoRA-Flow", 4, "both")
    claim = training_queue.claim(redis, 60)
    assert claim is not None
    recipe = parse_gate_recipe(claim.train.gate)
    digests = tuple(version.digest for version in two)
    assert (recipe.kind, recipe.parts, recipe.start, recipe.name) == ("flow", digests, digests[1], "Both")
    assert (recipe.schedule.steps, recipe.schedule.batch, recipe.schedule.warmup) == (30, 4, 0.2)
    assert recipe == training.gate_recipe


def test_a_router_is_queued_with_its_own_numbers(ask: Ask, two: list[AdapterVersion]) -> None:
    assert ask(preset="ramole", g="4", dropout="0.25", top_k="1", temperature="0.5") == {}
    recipe = Training.objects.get().gate_recipe
    assert isinstance(recipe, GateRecipe)
    assert (recipe.kind, recipe.g, recipe.dropout, recipe.top_k, recipe.temperature) == ("ramole", 4, 0.25, 1, 0.5)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "one part": ({"weighed": ["anger"]}, "weighed", "a blend is of 2 to 8 adapters"),
    "too many": ({"weighed": [f"part-{n}" for n in range(9)]}, "weighed", "9 parts are named"),
    "nobody": ({"weighed": ["anger", "nobody"]}, "weighed", "No adapter called 'nobody' is published"),
    "draft": ({"weighed": ["anger", "draft"]}, "weighed", "No adapter called 'draft' is published"),
    "DoRA": ({"weighed": ["anger", "dora"]}, "weighed", "is a DoRA"),
    "aLoRA": ({"weighed": ["anger", "alora"]}, "weighed", "is an aLoRA"),
    "too large": ({"weighed": ["anger", "large"]}, "weighed", "at most 64 is served"),
    "two bases": ({"weighed": ["anger", "elsewhere"]}, "weighed", "Adapters of different bases"),
    "other base": (
        {"weighed": ["elsewhere", "faraway"]},
        "weighed",
        "These parts are for Tiny-Llama, and the gate would",
    ),
    "strange start": ({"start": "joy"}, "start", "joy is none of the parts; write one of anger, bliss"),
    "no temperature": ({"temperature": "0"}, "temperature", "greater than or equal to 0.01"),
    "all dropped": ({"preset": "ramole", "g": "4", "top_k": "0", "dropout": "1"}, "dropout", "less than or equal"),
    "an adapter's": ({"slug": "moods"}, "slug", "moods is an adapter trained here, and stays one"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_no_gate_can_weigh_is_said_beside_its_line(
    what: str, ask: Ask, plan: Callable[..., Training], publish: Publish, two: list[AdapterVersion], other_base: str
) -> None:
    plan(slug="moods")
    publish("draft", "c", "ready")
    publish("dora", "d", config={"use_dora": True})
    publish("alora", "e", config={"alora_invocation_tokens": [1, 2]})
    publish("large", "f", rank=64)
    publish("elsewhere", "0", base=other_base)
    publish("faraway", "1", base=other_base)
    changes, field, sentence = BAD[what]
    found = ask(**changes)
    assert [*found] == [field]
    assert sentence in found[field][0]
    assert Training.objects.filter(slug="both").count() == 0


def test_a_slug_of_a_blend_is_no_adapters(ask: Ask, two: list[AdapterVersion]) -> None:
    ask()
    adapter = {"preset": "standard", "slug": "both", "rank": "2", "target_modules": ["q_proj"]}
    assert ask(**adapter)["slug"] == ["both is a blend trained here, and stays one; write another slug."]


def trained(ask: Ask, data: bytes, **fields: Any) -> Training:
    """A training of a gate whose file has come, with the card that the trainer writes."""
    assert ask(**fields) == {}
    training = Training.objects.latest("created")
    training.change(state="examining", rows=39, minutes=1.5)
    write_gate(training.folder / "out", data)
    write_card(training.folder / "out", Card("Both", training={"gate": "flow", "steps": 30, **LOSSES}))
    return training


def test_a_trained_gate_becomes_a_proven_draft_of_a_blend_with_its_losses_and_is_published(
    ask: Ask, two: list[AdapterVersion], probes: list[Probe], owner: Client
) -> None:
    digests = [version.digest for version in two]
    training = trained(ask, gate_bytes(flow_gate(digests), parts=digests))
    examine(training)
    version = training.version
    assert version is not None
    version.refresh_from_db()
    version.record_proof(Finished(version.probe_id, "done", Stats(logit_delta=1.5)))
    examine(training)
    assert (training.state, version.status, blends.parts_of(version)) == ("measuring", "ready", two)
    assert (version.template, version.is_draft, version.method) == (training.template, True, "LoRA-Flow")
    assert LOSSES.items() <= version.training.items()
    training.end(Training.State.DONE)
    assert "1.5 before, 1.25 after" in owner.get(training.get_absolute_url()).content.decode()
    owner.post(f"/admin/training/training/{training.pk}/publish/")
    page = owner.get("/adapters/both/").content.decode()
    assert "loss after" in page
    assert "1.25" in page


def test_a_trained_router_weighs_the_parts_that_it_learned_on(
    ask: Ask, two: list[AdapterVersion], probes: list[Probe]
) -> None:
    training = trained(ask, gate_bytes(ramole_gate(), kind="ramole"), preset="ramole", g="2", dropout="0.5", top_k="0")
    examine(training)
    assert training.version is not None
    assert (training.version.method, blends.parts_of(training.version)) == ("RAMoLE", two)


def test_a_part_that_is_gone_ends_the_training_with_a_sentence(
    ask: Ask, two: list[AdapterVersion], redis: Redis, probes: list[Probe]
) -> None:
    digests = [version.digest for version in two]
    training = trained(ask, gate_bytes(flow_gate(digests), parts=digests))
    two[1].retire()
    AdapterVersion.objects.filter(pk=two[1].pk).update(status="rejected")
    examine(training)
    assert training.state == "failed"
    assert f"{two[1]}, which the gate was trained for, is Rejected and does not answer." in training.reason
    late = Training.objects.create(**{name: getattr(training, name) for name in KEPT}, slug="late")
    (store.kept(digests[0]) / store.WEIGHTS).unlink()
    (store.kept(digests[0]) / store.CONFIG).unlink()
    store.kept(digests[0]).rmdir()
    assert step(late).reason.startswith(f"The files of {two[0]}, which it is to weigh, are gone")


def test_a_part_that_is_retired_while_its_gate_waits_ends_the_training_before_it_begins(
    ask: Ask, two: list[AdapterVersion], redis: Redis
) -> None:
    assert ask() == {}
    two[1].retire()
    training = step(Training.objects.get())
    assert training.state == "failed"
    assert training.reason.startswith(f"{two[1]}, which it is to weigh, does not answer now")
    assert training_queue.claim(redis, 60) is None


KEPT = ("data", "name", "category", "template", "instruction", "metric", "max_answer", "base", "steps", "batch", "gate")
KEPT = (*KEPT, "learning_rate", "rank", "target_modules", "max_length")


def test_training_again_begins_with_the_same_parts_and_start(
    ask: Ask, owner: Client, two: list[AdapterVersion]
) -> None:
    ask(start="bliss", temperature="0.5")
    training = Training.objects.get()
    html = owner.get(ADD, {"data": training.data.pk, "like": str(training.pk)}).content.decode()
    assert 'name="temperature" value="0.5"' in html
    assert html.count(f'value="{two[1]}"') == 2  # a part, and the start
