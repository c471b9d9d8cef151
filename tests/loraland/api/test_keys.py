"""Keys: made in the shell and in the admin, shown once, revoked for good."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from loraland.api.authentication import active_key
from loraland.api.models import ApiKey

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_command_prints_the_key_as_its_last_line_and_keeps_only_its_hash(capsys):
    call_command("create_api_key", "nightly run")
    secret = capsys.readouterr().out.splitlines()[-1]
    key = ApiKey.objects.get()
    assert (key.name, key.last_four) == ("nightly run", secret[-4:])
    assert secret.startswith("ll_")
    assert secret not in str(vars(key))


@pytest.mark.parametrize("arguments", [["  "], ["x" * 81], ["x", "--days", "0"], ["x", "--user", "nobody"]])
def test_the_command_refuses_what_makes_no_key(arguments):
    with pytest.raises(CommandError):
        call_command("create_api_key", *arguments)
    assert not ApiKey.objects.exists()


async def test_a_key_of_someone_who_may_no_longer_come_in_is_refused(admin_user):
    from asgiref.sync import sync_to_async

    key, secret = await sync_to_async(ApiKey.objects.issue)("hers")
    await ApiKey.objects.aupdate(user=admin_user)
    assert (await active_key(secret)).pk == key.pk
    admin_user.is_active = False
    await sync_to_async(admin_user.save)()
    assert await active_key(secret) is None


def test_the_admin_shows_a_new_key_once_and_revokes_it(admin_client):
    added = admin_client.post(reverse("admin:api_apikey_add"), {"name": "web"}, follow=True).content.decode()
    key = ApiKey.objects.get()
    secret = added.partition("not shown again: ")[2].partition("<")[0].strip()
    assert secret.startswith("ll_")
    assert secret.endswith(key.last_four)
    listed = admin_client.get(reverse("admin:api_apikey_changelist")).content.decode()
    assert secret not in listed
    data = {"action": "revoke", "_selected_action": [key.pk]}
    admin_client.post(reverse("admin:api_apikey_changelist"), data)
    key.refresh_from_db()
    assert key.revoked is not None
