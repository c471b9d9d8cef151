"""Who sees how the site is doing inside."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.test import Client

from loraland.edge.insiders import is_insider
from tests.loraland.scripted_worker import ScriptedWorker

pytestmark = pytest.mark.django_db(transaction=True)

STRANGER = "198.51.100.7"


async def ask(path: str, address: str, user: User | None = None) -> Any:
    """What a visitor with this address is answered, signed in as `user`."""
    client = Client(REMOTE_ADDR=address)
    if user:
        await sync_to_async(client.force_login)(user)
    return await sync_to_async(client.get)(path)


async def test_the_metrics_are_for_addresses_that_a_setting_names_and_for_staff(site_wire, settings):
    assert (await ask("/metrics", "127.0.0.1")).status_code == 200
    refused = await ask("/metrics", STRANGER)
    assert (refused.status_code, "INTERNAL_ADDRESSES" in refused.content.decode()) == (403, True)
    ada = await sync_to_async(User.objects.create_user)("ada")
    assert (await ask("/metrics", STRANGER, ada)).status_code == 403
    eve = await sync_to_async(User.objects.create_user)("eve", is_staff=True)
    assert (await ask("/metrics", STRANGER, eve)).status_code == 200
    settings.INTERNAL_ADDRESSES = ()
    assert (await ask("/metrics", "127.0.0.1")).status_code == 403


async def test_a_stranger_learns_whether_the_site_is_ready_and_no_more(site_wire):
    await ScriptedWorker(site_wire, site_settings.BASE_KEY).beat()
    answer = await ask("/readyz", STRANGER)
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "missing": []})
    assert (await ask("/readyz", "127.0.0.1")).json()["workers"] == 1


def test_a_barred_member_of_the_staff_is_no_insider(rf):
    request = rf.get("/", REMOTE_ADDR=STRANGER)
    request.user = User(is_staff=True)
    assert is_insider(request)
    request.user = User(is_staff=True, is_active=False)
    assert not is_insider(request)
