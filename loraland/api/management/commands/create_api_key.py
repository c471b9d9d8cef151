"""`manage.py create_api_key NAME`: make a key; its last line of output is the secret, shown this once."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from loraland.api.models import ApiKey


class Command(BaseCommand):
    help = "Makes a key for the API and prints it; it cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the key is for, to tell it from others in the admin")
        parser.add_argument("--user", help="username of its owner")
        parser.add_argument("--days", type=int, help="days until it expires (default: never)")

        parser.add_argument("--may-load", action="store_true", help="let it load adapters, as those of its --user")

    def handle(
        self, *args: Any, name: str, user: str | None, days: int | None, may_load: bool = False, **options: Any
    ) -> None:
        if not name.strip() or len(name) > 80:
            raise CommandError("A key's name has 1 to 80 characters.")
        if days is not None and not 1 <= days <= 36_500:
            raise CommandError(f"--days {days} is not a number of days from 1 to 36500.")
        if may_load and user is None:
            raise CommandError("--may-load needs --user, whose adapters they will be.")
        owner = self._owner(user)
        key, secret = ApiKey.objects.issue(name.strip())
        key.user, key.may_load = owner, may_load
        key.expires = timezone.now() + timedelta(days=days) if days else None
        key.save(update_fields=["user", "may_load", "expires"])
        self.stdout.write(secret)

    def _owner(self, username: str | None) -> Any:
        if username is None:
            return None
        User = get_user_model()
        try:
            return User.objects.get_by_natural_key(username)
        except User.DoesNotExist as error:
            raise CommandError(f"There is no user {username!r}; leave --user out or create the user first.") from error
