"""Who is meant by a name: one version, a sum, the base, or nobody, in the same words for whatever is not there."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import AnonymousUser

from inference.wire.protocol import GateRef
from loraland.catalogue.composition import Composition, named, recorded_name, sum_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.refusal import Refused

Publish = Callable[..., AdapterVersion]


@pytest.fixture
def shown(publish: Publish) -> AdapterVersion:
    return publish("emotion", "a")


def test_a_slug_means_the_version_that_is_shown(shown: AdapterVersion, publish: Publish) -> None:
    publish("emotion", "b", status="retired")
    assert AdapterVersion.objects.named("emotion") == shown


def test_the_beginning_of_a_digest_means_that_version(shown: AdapterVersion, publish: Publish) -> None:
    older = publish("emotion", "b", status="retired")
    assert AdapterVersion.objects.named("emotion@bbbbbb") == older
    assert AdapterVersion.objects.named(f"emotion@{shown.digest}") == shown


def test_a_beginning_that_two_versions_share_asks_for_more_of_it(shown: AdapterVersion, publish: Publish) -> None:
    publish("emotion", "aaaaaab" + "b" * 57, status="ready")
    with pytest.raises(Refused, match="give more of its digest"):
        AdapterVersion.objects.named("emotion@aaaaaa")


@pytest.mark.parametrize(
    "name", ["", "nobody", "emotion@", "emotion@aaaaa", "emotion@zzzzzz", "emotion@cccccc", "émotion", "emo\0tion", "@"]
)
def test_what_names_nobody_is_refused_in_one_sentence(shown: AdapterVersion, name: str) -> None:
    with pytest.raises(Refused) as refused:
        AdapterVersion.objects.named(name)
    assert (refused.value.code, refused.value.status) == ("model_not_found", 404)
    assert refused.value.sentence == f"No adapter called {name!r} is published; choose another."


@pytest.mark.parametrize("status", ["uploaded", "validating", "rejected", "listed"])
def test_a_version_that_does_not_answer_has_no_name(shown: AdapterVersion, publish: Publish, status: str) -> None:
    publish("emotion", "b", status=status)
    with pytest.raises(Refused):
        AdapterVersion.objects.named("emotion@bbbbbb")


def test_an_adapter_that_was_withdrawn_has_no_name(shown: AdapterVersion) -> None:
    shown.retire()
    for name in ("emotion", "emotion@aaaaaa"):
        with pytest.raises(Refused):
            AdapterVersion.objects.named(name)


def test_a_draft_has_no_name_but_for_staff(shown: AdapterVersion, publish: Publish) -> None:
    draft = publish("emotion", "b", status="ready", publish_when_ready=False)
    assert AdapterVersion.objects.named("emotion@bbbbbb") == draft
    with pytest.raises(Refused):
        AdapterVersion.objects.seen_by(AnonymousUser()).named("emotion@bbbbbb")


def test_an_adapter_of_another_base_has_a_name_where_pages_show_it_greyed_out(publish: Publish) -> None:
    other = publish("elsewhere", base="Mistral-7B-v0.1")
    assert AdapterVersion.objects.named("elsewhere") == other
    with pytest.raises(Refused):
        AdapterVersion.objects.served().named("elsewhere")


def test_an_adapter_that_shows_an_older_version_means_that_one(shown: AdapterVersion, publish: Publish) -> None:
    publish("emotion", "b", status="ready")
    Adapter.objects.update(published=shown)
    assert AdapterVersion.objects.shown().named("emotion") == shown
    with pytest.raises(Refused):
        AdapterVersion.objects.shown().named("emotion@bbbbbb")


def test_which_versions_answer_is_the_same_for_one_as_for_the_database(publish: Publish) -> None:
    for number, status in enumerate(AdapterVersion.Status):
        publish(f"a{number}", "a", status=status)
        publish(f"a{number}", "b")
        publish(f"b{number}", "a", status=status)
        Adapter.objects.filter(slug=f"b{number}").update(published=None)
    every = AdapterVersion.objects.select_related("adapter")
    answering = {version.pk for version in every if version.is_answering}
    assert answering == set(AdapterVersion.objects.answering().values_list("pk", flat=True))
    assert 0 < len(answering) < len(every)


def test_a_sum_is_written_as_it_is_read(shown: AdapterVersion, publish: Publish) -> None:
    topic = publish("topic", "b", rank=8)
    read = named("emotion+-12.345678*topic", AdapterVersion.objects.all())
    assert read == Composition(((shown, 1.0), (topic, -12.345678)))
    assert str(read) == "1*emotion@aaaaaaaaaaaa+-12.345678*topic@bbbbbbbbbbbb"
    assert named(str(read), AdapterVersion.objects.all()) == read
    assert sum_of([(0.5, "topic"), (2.0, "emotion")]) == "0.5*topic+2*emotion"


@pytest.mark.parametrize(
    ("name", "gate", "written"),
    [
        ("arrow(emotion+topic)", GateRef("arrow", 2), "arrow:2"),
        ("arrow:1(emotion+topic@bbbbbb)", GateRef("arrow", 1), "arrow:1"),
        ("arrow:9:0.50(emotion+topic)", GateRef("arrow", 2, 0.5), "arrow:2:0.5"),
        ("arrow::2(emotion+topic)", GateRef("arrow", 2, 2.0), "arrow:2:2"),
    ],
)
def test_a_blend_is_written_as_it_is_read(
    shown: AdapterVersion, publish: Publish, name: str, gate: GateRef, written: str
) -> None:
    topic = publish("topic", "b", rank=7)
    read = named(name, AdapterVersion.objects.all())
    assert isinstance(read, Composition)
    assert read == Composition(((shown, 1.0), (topic, 1.0)), gate)
    assert str(read) == f"{written}(emotion@aaaaaaaaaaaa+topic@bbbbbbbbbbbb)"
    assert named(str(read), AdapterVersion.objects.all()) == read
    assert recorded_name(read.components) == str(read)
    assert (read.ref.gate, read.rank) == (gate, shown.rank + shown.rank % 2 + 8)
    assert read.digest != Composition(read.parts).digest


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("arrow(emotion+0.5*topic)", "name them without weights"),
        ("arrow(emotion+base)", "without the base"),
        ("arrow(" + "+".join(["emotion"] * 9) + ")", "up to 8 adapters by itself"),
        ("arrow(emotion+emotion)", "named twice; name it once."),
        ("arrow:0(emotion)", "not how arrow is set"),
        ("arrow:1:2:3(emotion)", "not how arrow is set"),
        ("arrow:1:nan(emotion)", "not how arrow is set"),
        ("arrow:1:0(emotion)", "divides by nothing"),
        ("flow(emotion+topic)", "'flow' weighs no adapters; write arrow"),
        ("arrow()", "No adapter called ''"),
        ("arrow(emotion", "No adapter called 'arrow(emotion'"),
    ],
)
def test_a_blend_without_meaning_is_refused(shown: AdapterVersion, publish: Publish, name: str, sentence: str) -> None:
    publish("topic", "b")
    with pytest.raises(Refused) as refused:
        named(name, AdapterVersion.objects.all())
    assert sentence in refused.value.sentence


def test_the_base_is_no_version() -> None:
    assert named("base", AdapterVersion.objects.none()) is None


def test_adapters_of_a_base_in_a_gguf_file_go_on_being_served(publish: Publish, settings: Any) -> None:
    settings.BASE_NAME = "Mistral-7B"
    version = publish("emotion", base="Mistral-7B.gguf")
    import_module("loraland.catalogue.migrations.0005_base_without_gguf").take_the_ending_off(apps, None)
    assert AdapterVersion.objects.served().named("emotion") == version


OWN = settings.BASE_NAME


@pytest.mark.parametrize("name", ["base", "", "__base_model__", "tgi", "dummy", OWN, OWN.upper(), f"owner/{OWN}"])
def test_the_base_answers_to_its_own_name_and_to_what_clients_send_for_none(shown: AdapterVersion, name: str) -> None:
    assert named(name, AdapterVersion.objects.all()) is None


def test_an_adapter_that_is_called_as_clients_call_none_keeps_its_name(publish: Publish) -> None:
    version = publish("dummy", "b")
    assert named("dummy", AdapterVersion.objects.all()) == version
    version.retire()
    with pytest.raises(Refused, match="'dummy'"):
        named("dummy", AdapterVersion.objects.all())
