"""The socket of a page: it asks, follows and stops answers. Each answer it follows is a task of its own."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from loraland import bases, outage
from loraland.catalogue.routing.reachable import reachable
from loraland.generations import reading
from loraland.generations.models import Generation
from loraland.generations.start import start
from loraland.generations.stop import stop
from loraland.generations.visitor import Visitor, visitor_of
from loraland.playground import comparisons, conversations, sessions, telling
from loraland.playground.answers import remedy_of
from loraland.playground.conversations import Asked, CompletionRequest, not_found
from loraland.playground.farewell import SIGNED_OUT, TOO_MANY, TOO_SLOW, UNAVAILABLE
from loraland.playground.messages import (
    MAX_BYTES,
    BadMessage,
    Compare,
    Message,
    Ping,
    Regenerate,
    Reroute,
    Resume,
    Retry,
    Start,
    Stop,
    parse,
)
from loraland.playground.models import Column
from loraland.playground.partner import base_in, version_in
from loraland.refusal import Refused, refused_in_an_outage

logger = logging.getLogger(__name__)

SEND_SECONDS: Final = 10.0
SESSION_SECONDS: Final = 15.0
MAX_FOLLOWED: Final = 32
MAX_SOCKETS_PER_VISITOR: Final = 32


class Gone(Exception):
    """The page has left, or reads too slowly to be worth writing to."""


class AnswersConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # untyped upstream
    """One page's socket; `messages` holds what it may say, `telling` tells what becomes of its answers."""

    sockets: Counter[str] = Counter()

    async def connect(self) -> None:
        self.followed: dict[UUID, asyncio.Task[None]] = {}
        self.watch: asyncio.Task[None] | None = None
        self.is_gone = False
        cookie, is_crowded = [], False
        try:
            cookie = await sessions.begin(self.scope)
        except sessions.TooManySessions:
            is_crowded = True
        self.visitor: Visitor = visitor_of(self.scope)
        self.sockets[self.visitor.tenant] += 1
        await self.accept(headers=cookie)
        if is_crowded:
            await self.leave(TOO_MANY)
        elif code := await self._farewell():
            await self.leave(code)
        elif self.sockets[self.visitor.tenant] > MAX_SOCKETS_PER_VISITOR:
            await self.leave(TOO_MANY)
        else:
            self.watch = asyncio.create_task(self._watch_session())

    async def disconnect(self, code: int) -> None:
        self.is_gone = True
        self.sockets -= Counter({self.visitor.tenant: 1})
        tasks = [*self.followed.values(), *([self.watch] if self.watch else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_: Any) -> None:
        request, message = "", None
        try:
            message = parse(_read(text_data))
            if isinstance(message, Ping):
                return await self.tell({"type": "pong"})
            request = getattr(message, "request", "")
            if not await sessions.is_live(self.scope):
                return await self.leave(SIGNED_OUT)
            with refused_in_an_outage():
                await self._handle(message)
        except BadMessage as error:
            await self.refuse(Refused("bad_message", str(error)), request=error.request)
        except Refused as refusal:
            await self.refuse(refusal, request=request, **_subject(message))
        except Gone:
            return
        except Exception as error:
            if outage.is_outage(error):
                return await self.leave(UNAVAILABLE)
            logger.exception("a message of type %s could not be handled", type(message).__name__)
            sentence = "Something went wrong on our side; try again in a moment."
            await self.refuse(Refused("internal", sentence), request=request, **_subject(message))

    async def tell(self, message: dict[str, Any]) -> None:
        """Send one message. Raises `Gone` when the page does not take it within `SEND_SECONDS`."""
        if self.is_gone:
            raise Gone
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.send_json(message)
        except (TimeoutError, OSError) as error:
            await self.leave(TOO_SLOW)
            raise Gone from error

    async def refuse(self, refusal: Refused, **about: Any) -> None:
        """Say that nothing was started, why, and what to do next."""
        remedy = remedy_of(refusal.code)
        body = {"code": refusal.code, "error": refusal.sentence, "retry_after": refusal.retry_after}
        with suppress(Gone):
            await self.tell({"type": "refused", **about, **body, "act": remedy.act, "label": remedy.label})

    async def leave(self, code: int) -> None:
        """Close the socket. A page that takes no message takes no farewell either, so do not wait for it."""
        self.is_gone = True
        try:
            async with asyncio.timeout(1):
                await self.close(code)
        except (TimeoutError, OSError):
            logger.info("a page left without taking its farewell")

    async def _handle(self, message: Message) -> None:
        match message:
            case Start():
                among = await reachable(message.adapter) if bases.is_auto(message.adapter) else []
                await self._ask(message.request, await _database(conversations.ask, self.visitor, message, among))
            case Regenerate():
                await self._ask(message.request, await _database(conversations.ask_again, self.visitor, message))
            case Reroute():
                await self._ask(message.request, await _database(conversations.ask_another, self.visitor, message))
            case Compare():
                await self._compare(message)
            case Retry():
                column, completion = await _database(
                    comparisons.retried, self.visitor, message.comparison, message.position
                )
                await self._ask_column(message.request, column, completion)
            case Resume():
                await self._follow(await self._own(message.answer), message.after)
            case Stop():
                await stop(await self._own(message.answer))

    async def _ask(self, request: str, asked: Asked) -> None:
        self._check_room()
        generation = await self._generate(Generation.Source.CHAT, asked.completion)
        answer = await _database(conversations.record, self.visitor, asked, generation)
        conversation = str(answer.turn.conversation_id)
        about = {"url": answer.turn.conversation.get_absolute_url()} if asked.moves else {}
        await self._started(generation, request=request, conversation=conversation, turn=answer.turn_id, **about)

    async def _compare(self, message: Compare) -> None:
        """Ask every column, then write the comparison down: one of which nothing could be asked leaves no row."""
        self._check_room(len(message.columns))
        comparison, columns = await _database(comparisons.drafted, self.visitor, message)
        refusals = {column.position: await self._asked(column, columns) for column in columns}
        if all(refusals.values()):
            raise next(filter(None, refusals.values()))
        await _database(comparisons.keep, comparison, columns)
        await self.tell(
            {
                "type": "compared",
                "request": message.request,
                "comparison": str(comparison.id),
                "url": comparison.get_absolute_url(),
                "expected": comparison.expected,
            }
        )
        for column in columns:
            if refusal := refusals[column.position]:
                await self.refuse(refusal, request=message.request, **_place(column))
            else:
                await self._started(column.generation, request=message.request, **_place(column))

    async def _asked(self, column: Column, columns: Sequence[Column]) -> Refused | None:
        """Why `column`, which is not written down yet, cannot be asked; None where it answers."""
        try:
            column.generation = await self._generate(Generation.Source.COMPARE, comparisons.completion(column, columns))
        except Refused as refusal:
            column.refusal = refusal.sentence
            return refusal
        return None

    async def _ask_column(self, request: str, column: Column, completion: CompletionRequest) -> None:
        self._check_room()
        try:
            generation = await self._generate(Generation.Source.COMPARE, completion)
        except Refused as refusal:
            await _database(comparisons.attach, column, None, refusal.sentence)
            raise
        await _database(comparisons.attach, column, generation)
        await self._started(generation, request=request, **_place(column))

    async def _generate(self, source: Generation.Source, completion: CompletionRequest) -> Generation:
        version, base = version_in(completion.partner), base_in(completion.partner)
        return await start(self.visitor, source, version, base=base, **completion.content, sampling=completion.sampling)

    async def _started(self, generation: Generation, **about: Any) -> None:
        await self.tell({"type": "started", "answer": str(generation.id), **about})
        await self._follow(generation, reading.START)

    async def _own(self, answer: UUID) -> Generation:
        try:
            return await reading.generation_of(self.visitor, answer)
        except Generation.DoesNotExist:
            raise not_found("answer") from None

    def _check_room(self, wanted: int = 1) -> None:
        if len(self.followed) + wanted > MAX_FOLLOWED:
            raise Refused("too_many_running", "This page follows too many answers; wait for some to end.")

    async def _follow(self, generation: Generation, after: str) -> None:
        if earlier := self.followed.pop(generation.id, None):
            earlier.cancel()
            await asyncio.gather(earlier, return_exceptions=True)
        self._check_room()
        task = asyncio.create_task(self._tell_answer(generation, after))
        self.followed[generation.id] = task
        task.add_done_callback(lambda ended: self._forget(generation.id, ended))

    def _forget(self, answer: UUID, task: asyncio.Task[None]) -> None:
        if self.followed.get(answer) is task:
            del self.followed[answer]

    async def _tell_answer(self, generation: Generation, after: str) -> None:
        """Follow to the end; whatever breaks in between, the page is told to resume from where it is."""
        try:
            await telling.follow(generation, after, self.tell)
        except Gone:
            return
        except Exception as error:
            if not outage.is_outage(error):
                logger.exception("following answer %s broke off", generation.id)
            with suppress(Gone):
                await self.tell({"type": "interrupted", "answer": str(generation.id)})

    async def _watch_session(self) -> None:
        while not self.is_gone:
            await asyncio.sleep(SESSION_SECONDS)
            if await self._farewell() == SIGNED_OUT:
                await self.leave(SIGNED_OUT)

    async def _farewell(self) -> int:
        """The code to close with when nobody can be known by this socket, now or any more; 0 where it may stay open."""
        with outage.tolerated("looking for a session"):
            return 0 if await sessions.is_live(self.scope) else SIGNED_OUT
        return UNAVAILABLE


async def _database(function: Any, *arguments: Any) -> Any:
    return await database_sync_to_async(function)(*arguments)


def _read(text: str | None) -> Any:
    if text is None:
        raise BadMessage("Messages are text, in JSON.")
    if len(text.encode()) > MAX_BYTES:
        raise BadMessage(f"A message has at most {MAX_BYTES} bytes; shorten the text.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("This message is not JSON.") from None


def _subject(message: Message | None) -> dict[str, Any]:
    """What a refusal is about, so that the page can show it in its place."""
    match message:
        case Retry():
            return {"comparison": str(message.comparison), "position": message.position}
        case Regenerate() | Resume() | Stop():
            return {"answer": str(message.answer)}
        case _:
            return {}


def _place(column: Column) -> dict[str, Any]:
    return {"comparison": str(column.comparison_id), "position": column.position}
