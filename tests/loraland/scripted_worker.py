"""A worker without a model, at the wire: it answers what a script says, and shows a heartbeat like a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from inference.wire.capacity import Capacity
from inference.wire.contract import Claim, Wire
from inference.wire.protocol import Delta, EngineLoad, Event, Finished, Generate, Heartbeat, Probe, Stats, is_terminal

Script = Callable[[Generate | Probe], Sequence[Event]]
FINGERPRINT = "scripted-1"


def echo(request: Generate | Probe) -> list[Event]:
    """Answer with the words of the request, one a delta."""
    assert isinstance(request, Generate)
    text = request.prompt or (request.messages[-1].content if request.messages else " ".join(request.inputs.values()))
    words = text.split(" ")
    deltas = [Delta(request.id, word if not at else f" {word}", (at,)) for at, word in enumerate(words)]
    stats = Stats(
        prompt_tokens=7,
        cached_tokens=4,
        completion_tokens=len(words),
        first_token_ms=12.0,
        seed=request.sampling.seed,
        digest=request.adapter.digest if request.adapter else "",
        fingerprint=FINGERPRINT,
    )
    return [*deltas, Finished(request.id, "done", stats)]


class ScriptedWorker:
    """Claims what comes and answers it; a script without a terminal event leaves the answer open until a stop."""

    def __init__(self, wire: Wire, base: str, script: Script = echo) -> None:
        self.seen: list[Generate | Probe] = []
        self.stopped: list[str] = []
        self.claims: dict[str, Claim] = {}
        self.leaving = False
        self._wire, self._base, self._script = wire, base, script

    async def run(self) -> None:
        """Work until `leaving` is set: a cancellation in the midst of a Redis call may go unheard."""
        await self.beat()
        while not self.leaving:
            if not await self.step():
                await asyncio.sleep(0.01)

    async def beat(self, ready: bool = True) -> None:
        load = EngineLoad(self_check="ok", context_length=2048)
        await self._wire.beat(Heartbeat("scripted", self._base, ready, FINGERPRINT, load=load), 60)

    async def step(self) -> bool:
        """Answer what waits now; False when nothing did."""
        claims = await self._wire.claim(self._base, "scripted", FINGERPRINT, Capacity(64), 30)
        await asyncio.gather(*map(self._answer, claims))
        return bool(claims)

    async def _answer(self, claim: Claim) -> None:
        self.seen.append(claim.request)
        self.claims[claim.id] = claim
        events = self._script(claim.request)
        for event in events:
            await self._wire.append(claim, [event])
        while not (self.leaving or (events and is_terminal(events[-1]))):
            [receipt] = await self._wire.renew([claim])
            if not receipt.held:
                return
            if receipt.stopping:
                self.stopped.append(claim.id)
                await self._wire.finish(claim, Finished(claim.id, "stopped"))
                return
            await asyncio.sleep(0.02)
