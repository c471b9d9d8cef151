"""`manage.py health SERVICE`: exit code 0 if that service of this host does its work, else 1 and a sentence."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from loraland import inference_client
from loraland.liveness import SERVICES
from loraland.watch import Unwell


class Command(BaseCommand):
    help = "Tells whether a service works: for health checks of containers."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("service", choices=list(SERVICES))
        parser.add_argument(
            "--name", default="", help="which one; by default any worker or trainer, this host's recorder or Celery"
        )

    def handle(self, *args: Any, service: str, name: str, **options: Any) -> None:
        try:
            asyncio.run(_look(service, name))
        except Unwell as error:
            raise CommandError(f"{service}: {error}") from error


async def _look(service: str, name: str) -> None:
    try:
        await SERVICES[service](name)
    finally:
        await inference_client.close()
