"""What a person at the keyboard sees: lines in place on a terminal, plain ones in a pipe."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress

import pytest

from loraland import terminal
from loraland.terminal import Terminal


class Tty(io.StringIO):
    """A terminal; `screen` is what stands on it."""

    closing = False

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        lines: list[str] = []
        for written in self.getvalue().split("\n"):
            line = ""
            for part in written.split("\r"):
                line = part + line[len(part) :]
            lines.append(line.rstrip())
        return lines


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "DRAW_SECONDS", 0.01)
    monkeypatch.setattr(terminal, "TELL_SECONDS", 0.02)


async def test_on_a_terminal_a_stage_is_one_line_that_is_written_anew() -> None:
    out, steps, third = Tty(), iter(range(1000)), asyncio.Event()

    def progress() -> str:
        if (step := next(steps)) == 2:
            third.set()
        return "32 published" if out.closing else f"{step} of 32"

    async with Terminal(out).stage("adapters", progress):
        await third.wait()
        out.closing = True
    assert "1 of 32" in out.getvalue()
    assert out.screen == ["  adapters    32 published (0 s)", ""]


async def test_a_sentence_stands_above_the_stage_that_is_under_way() -> None:
    out = Tty()
    told = Terminal(out)
    async with told.stage("engine", lambda: "loads"):
        await asyncio.sleep(0.05)
        told.say("worker-1 ended")
        await asyncio.sleep(0.05)
    assert out.screen == ["worker-1 ended", "  engine      loads (0 s)", ""]


async def test_what_is_written_anew_is_cut_to_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Tty()
    with suppress(asyncio.CancelledError):
        async with Terminal(out).stage("base model", lambda: "x" * 100):
            await asyncio.sleep(0.05)
            raise asyncio.CancelledError
    assert out.screen == ["  base model  xxxxxxxxxxxxxxx"]


async def test_a_pipe_gets_plain_lines_without_control_codes() -> None:
    out = io.StringIO()
    async with Terminal(out).stage("base model", lambda: "7 MB written"):
        await asyncio.sleep(0.1)
    lines = out.getvalue().splitlines()
    assert set(lines) == {"  base model  7 MB written (0 s)"}
    assert len(lines) > 1
    assert out.getvalue().replace("\n", "").isprintable()


async def test_a_stage_may_end_in_words_that_were_not_true_before() -> None:
    out = io.StringIO()
    async with Terminal(out).stage("database", lambda: "applies 0003", "up to date"):
        await asyncio.sleep(0.1)
    *lines, last = out.getvalue().splitlines()
    assert set(lines) == {"  database    applies 0003 (0 s)"}
    assert last == "  database    up to date (0 s)"


async def test_a_stage_that_fails_says_so_and_one_that_is_interrupted_says_nothing() -> None:
    out = io.StringIO()
    told = Terminal(out)
    with pytest.raises(ValueError, match="ours"):
        async with told.stage("database", str):
            raise ValueError("ours")
    with pytest.raises(asyncio.CancelledError):
        async with told.stage("engine", str):
            raise asyncio.CancelledError
    assert out.getvalue() == "  database    failed (0 s)\n"


async def test_nobody_who_listens_is_no_fault() -> None:
    told = Terminal(Broken())
    async with told.stage("engine", lambda: "loads"):
        told.say("hello")
