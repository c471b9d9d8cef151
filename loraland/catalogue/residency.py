"""What visitors are told about the workers: whether the base is loaded, and which adapters lie on the device."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from inference.wire.contract import WireError
from inference.wire.protocol import Heartbeat
from loraland import inference_client
from loraland.bases import Base
from loraland.catalogue.models import AdapterVersion

DRAWN: Final = 12
"""So many of them are drawn."""
SHOWN: Final = ("digest", *(f"adapter__{name}" for name in ("slug", "name", "category", "published__digest")))
State = Literal["ready", "loading", "starting", "unreachable"]


@dataclass(frozen=True)
class Residency:
    """The workers of one base, summed up."""

    state: State
    workers: int = 0
    running: int = 0
    waiting: int = 0
    context_length: int = 0
    resident: int = 0
    """How many adapters lie on the device; `versions` are the first of them by name."""
    versions: tuple[AdapterVersion, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    """Each worker's own words, for insiders alone."""

    @property
    def key(self) -> str:
        """Of what is drawn of the adapters: another one where that is another."""
        drawn = [f"{v.digest} {v.adapter.slug} {v.adapter.name} {v.adapter.category}" for v in self.versions]
        return sha256(f"{self.resident} {drawn}".encode()).hexdigest()[:16]

    @property
    def unseen(self) -> int:
        """How many more there are than `versions`."""
        return self.resident - len(self.versions)


async def residency(base: Base) -> Residency:
    """Ask the heartbeats of the workers of `base`. A wire that cannot be reached is a state to show, not an error."""
    try:
        workers = await inference_client.workers_of(base)
    except WireError:
        return Residency("unreachable")
    digests = {digest for worker in workers for digest in worker.load.on_device}
    shown = AdapterVersion.objects.shown().filter(digest__in=digests).order_by("adapter__name").only(*SHOWN)
    loaded: State = "ready" if any(worker.ready for worker in workers) else "loading"
    return Residency(
        state=loaded if workers else "starting",
        workers=len(workers),
        running=sum(worker.load.running for worker in workers),
        waiting=sum(worker.load.waiting for worker in workers),
        context_length=max((worker.load.context_length for worker in workers), default=0),
        heartbeats=tuple(workers),
        resident=await shown.acount(),
        versions=tuple([version async for version in shown[:DRAWN]]),
    )
