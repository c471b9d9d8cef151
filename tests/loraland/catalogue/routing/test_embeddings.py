"""Where the embeddings of versions come from, and when `auto` hears of a change."""

from __future__ import annotations

import dataclasses

import pytest

from inference.tasks.embedding import EMBEDDER
from inference.tasks.vectors import embedding_of
from loraland.catalogue import embeddings
from loraland.catalogue.embeddings import InputEmbedding, stamp
from loraland.catalogue.models import AdapterVersion
from loraland.catalogue.routing.known import known

pytestmark = pytest.mark.django_db(transaction=True)
FIELDS = [{"name": "text", "label": "Tweet", "rows": 3}]
EXAMPLES = [{"inputs": {"text": "I am so happy"}, "expected": "joy"}, {"inputs": {"text": "How sad"}, "expected": ""}]
PROMPT = {"template": "Tweet: {text}\n", "fields": FIELDS}


def slugs() -> list[str]:
    return sorted(each.slug for each in known.index().candidates)


@pytest.fixture
def emotion(publish) -> AdapterVersion:
    version = publish("emotion", **PROMPT, examples=EXAMPLES)
    embeddings.keep(version)
    return version


def test_a_version_is_found_by_its_examples(emotion):
    assert emotion.embedding.value == embedding_of(["I am so happy", "How sad"])
    assert slugs() == ["emotion"]


def test_one_without_examples_is_not(publish):
    embeddings.keep(publish("emotion", **PROMPT))
    assert slugs() == []


def test_the_rows_of_a_training_come_before_the_examples(publish):
    version = publish("emotion", **PROMPT, examples=EXAMPLES)
    learnt = embedding_of(["what the rows of a training say"])
    embeddings.keep(version, learnt.table())
    embeddings.mend(version)
    assert InputEmbedding.objects.get(version=version).value == learnt


def test_a_table_that_another_embedder_made_is_not_used(publish):
    version = publish("emotion", **PROMPT, examples=EXAMPLES)
    table = dataclasses.replace(embedding_of(["rows"]), embedder="another").table()
    assert not embeddings.keep(version, table).is_given


def test_mended_examples_change_what_is_found(emotion):
    emotion.mend("Tweet: {text}\n", FIELDS, [])
    assert slugs() == []
    emotion.mend("Tweet: {text}\n", FIELDS, EXAMPLES)
    assert slugs() == ["emotion"]


def test_each_change_is_seen_at_once(emotion, publish):
    assert slugs() == ["emotion"]
    embeddings.keep(publish("other", "b", **PROMPT, examples=EXAMPLES))
    assert slugs() == ["emotion", "other"]
    emotion.retire()
    assert slugs() == ["other"]
    AdapterVersion.objects.get(adapter__slug="other").delete()
    assert slugs() == []


def test_an_index_is_kept_while_nothing_changes(emotion):
    before = known.index()
    assert known.index() is before
    emotion.save()
    assert known.index() is not before


def test_drafts_listed_and_unserved_ones_are_not_found(emotion, publish):
    for number, (status, base) in enumerate([("ready", ""), ("listed", ""), ("published", "Another-Base")]):
        of_base = {"base": base} if base else {}
        version = publish(f"other-{number}", str(number), status=status, **PROMPT, examples=EXAMPLES, **of_base)
        embeddings.keep(version)
    assert slugs() == ["emotion"]


def test_what_an_upgrade_finds_without_an_embedding_gets_one(publish):
    version = publish("emotion", **PROMPT, examples=EXAMPLES)
    InputEmbedding.objects.create(
        version=publish("b", "b", **PROMPT, examples=EXAMPLES), embedder="old", texts=1, numbers=b""
    )
    publish("c", "c", **PROMPT)
    assert embeddings.complete(AdapterVersion.objects.shown()) == 2
    assert embeddings.complete(AdapterVersion.objects.shown()) == 0
    assert version.embedding.embedder == EMBEDDER


def test_a_stamp_is_another_after_each_change(emotion):
    first = stamp()
    emotion.retire()
    assert stamp() not in ("", first)
