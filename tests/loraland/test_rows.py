"""Rows that are remembered are those of the database, whoever changed them and however; what is inserted is saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from loraland import rows
from loraland.api.entries import _meant
from loraland.api.models import ApiKey
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.generations.models import Generation
from loraland.generations.visitor import Visitor
from loraland.refusal import Refused
from loraland.rows import OPEN, Remembered, Statement, insert, update

pytestmark = pytest.mark.django_db

PROGRAM = Visitor(None, "", "key:1")
STAFF = Visitor(None, "", "key:2", is_staff=True)


def keys_of(name: str) -> Any:
    return ApiKey.objects.select_related("user").filter(name=name)


def the_one(keys: Remembered[ApiKey], name: str) -> ApiKey:
    found = keys.one(name)
    assert found
    return found


@pytest.fixture
def keys() -> Remembered[ApiKey]:
    return Remembered(keys_of, lambda name: keys_of(name).first())


def test_a_row_that_nobody_changed_is_asked_for_once_and_made_once(
    keys: Remembered[ApiKey], django_assert_num_queries: Any
) -> None:
    ApiKey.objects.issue("nightly")
    first = keys.one("nightly")
    with django_assert_num_queries(1):
        assert keys.one("nightly") is first
    assert first == keys_of("nightly").get()


@pytest.mark.parametrize("column", ["revoked", "expires", "last_used"])
def test_a_row_that_changed_behind_our_back_is_read_anew(keys: Remembered[ApiKey], column: str) -> None:
    ApiKey.objects.issue("nightly")
    assert getattr(the_one(keys, "nightly"), column) is None
    now = timezone.now()
    ApiKey.objects.update(**{column: now})
    assert getattr(the_one(keys, "nightly"), column) == now
    ApiKey.objects.update(**{column: None})
    assert getattr(the_one(keys, "nightly"), column) is None


def test_a_change_of_the_row_beside_it_counts_as_well(keys: Remembered[ApiKey], admin_user: User) -> None:
    ApiKey.objects.issue("nightly")
    ApiKey.objects.update(user=admin_user)
    assert the_one(keys, "nightly").is_active
    User.objects.update(is_active=False)
    assert not the_one(keys, "nightly").is_active


def test_none_is_found_where_there_is_none_or_none_any_more_or_two(keys: Remembered[ApiKey]) -> None:
    assert keys.one("nightly") is None
    ApiKey.objects.issue("nightly")
    assert keys.one("nightly")
    ApiKey.objects.issue("nightly")
    assert keys.one("nightly") is None
    ApiKey.objects.all().delete()
    assert keys.one("nightly") is None


def test_what_changes_while_it_is_read_is_not_remembered() -> None:
    def read(name: str) -> ApiKey | None:
        found = keys_of(name).first()
        ApiKey.objects.update(revoked=timezone.now())
        return found

    ApiKey.objects.issue("nightly")
    keys = Remembered(keys_of, read)
    assert the_one(keys, "nightly").is_active
    assert not the_one(keys, "nightly").is_active


def test_no_more_is_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST", 2)
    keys = Remembered(keys_of, lambda name: keys_of(name).first())
    for name in "abcde":
        ApiKey.objects.issue(name)
        assert the_one(keys, name).name == name
    assert len(keys._known) <= 2


@pytest.mark.parametrize("text", ["it's", "%s", "a%", '"', "\\", "é"])
def test_a_text_is_looked_for_as_it_is_written(keys: Remembered[ApiKey], text: str) -> None:
    ApiKey.objects.issue("it is")
    assert keys.one(text) is None
    ApiKey.objects.issue(text)
    assert the_one(keys, text).name == text


def test_a_statement_finds_what_its_query_set_finds(publish: Callable[..., AdapterVersion]) -> None:
    publish("emotion")
    publish("moods", "b")
    statement = Statement(lambda slug: Adapter.objects.filter(slug=slug).values_list("slug", "base"))
    for slug in ("emotion", "moods", "nobody"):
        assert statement.ask(slug) == list(Adapter.objects.filter(slug=slug).values_list("slug", "base"))
    assert statement.ask(OPEN[:0]) == []


def test_an_adapter_is_known_until_it_is_withdrawn_and_no_longer(publish: Callable[..., AdapterVersion]) -> None:
    version = publish("emotion")
    known = _meant("emotion", PROGRAM)
    assert known == version
    assert _meant("emotion", PROGRAM) is known
    Adapter.objects.update(published=None)
    with pytest.raises(Refused, match="No adapter called"):
        _meant("emotion", PROGRAM)
    Adapter.objects.update(published=version)
    assert _meant("emotion", PROGRAM) == version
    Adapter.objects.update(base="another/base")
    with pytest.raises(Refused, match="No adapter called"):
        _meant("emotion", PROGRAM)


def test_an_adapter_that_shows_another_version_means_that_one(publish: Callable[..., AdapterVersion]) -> None:
    publish("emotion", "a")
    first = _meant("emotion", PROGRAM)
    second = publish("emotion", "b")
    assert _meant("emotion", PROGRAM) == second != first
    AdapterVersion.objects.filter(pk=second.pk).update(template="{text}")
    found = _meant("emotion", PROGRAM)
    assert isinstance(found, AdapterVersion)
    assert (found.template, found.adapter.published) == ("{text}", found)


def test_what_staff_was_shown_others_are_not(publish: Callable[..., AdapterVersion]) -> None:
    version = publish("emotion", published_at=None)
    assert _meant("emotion", STAFF) == version == _meant("emotion", PROGRAM)
    Adapter.objects.update(published=None)
    for reader in (STAFF, PROGRAM):
        with pytest.raises(Refused):
            _meant("emotion", reader)


def test_an_inserted_row_is_a_saved_one(publish: Callable[..., AdapterVersion], admin_user: User) -> None:
    asked = {
        "user": admin_user,
        "tenant": "user:1",
        "source": Generation.Source.API,
        "adapter_version": publish(),
        "components": [{"weight": 0.5}],
        "base": "a 'base'",
        "request": {"prompt": 'é"\\', "n": None},
        "created": timezone.now(),
    }
    saved, inserted = Generation(**asked), Generation(**asked)
    saved.save(force_insert=True)
    insert(inserted)
    found = {row.pop("id"): row for row in Generation.objects.values()}
    assert found[inserted.pk] == found[saved.pk]
    assert not inserted._state.adding
    inserted.text = "more"
    inserted.save()
    assert Generation.objects.get(pk=inserted.pk).text == "more"


@pytest.mark.parametrize("status", [Generation.Status.QUEUED, Generation.Status.DONE])
def test_a_row_is_changed_where_it_is_still_as_it_was(status: str) -> None:
    asked = {"source": Generation.Source.API, "request": {}, "status": status}
    meant, other = Generation.objects.create(**asked), Generation.objects.create(**asked)
    values = {"text": "it's %s", "stats": {"a": [1]}, "finished": timezone.now(), "status": Generation.Status.STOPPED}
    is_open = status == Generation.Status.QUEUED
    assert update(Generation, values, {"id": meant.pk, "status": Generation.Status.QUEUED}) is is_open
    found = Generation.objects.values(*values).get(pk=meant.pk)
    assert (found == values) is is_open
    other.refresh_from_db()
    assert (other.text, other.status) == ("", status)
