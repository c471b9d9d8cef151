"""`manage.py record`: keep answers and proofs, and set right what was lost, until told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from argparse import ArgumentParser
from typing import Any

import uvloop
from django.core.management.base import BaseCommand

from loraland import inference_client
from loraland.generations import reconciler
from loraland.generations.recorder import Recorder


class Command(BaseCommand):
    help = "Records finished answers and the verdicts on new adapters. Any number may run at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--name", default=socket.gethostname(), help="what this recorder is called on the wire")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        uvloop.run(record(name))


async def record(name: str) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Recorder(name).run(stopping))
            tasks.create_task(reconciler.run(stopping))
    finally:
        await inference_client.close()
