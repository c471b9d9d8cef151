"""The logs of processes: small, private, and followed together."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from loraland import logs as log_files
from loraland.logs import LogFiles, rotate

REPO = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "LIMIT", 1000)


def write(logs: LogFiles, text: str, name: str = "web") -> None:
    file = logs.open(name)
    os.write(file, text.encode())
    os.close(file)


def test_a_log_and_its_directory_are_for_their_owner_alone(tmp_path: Path) -> None:
    write(LogFiles(tmp_path / "log", print), "x" * 1000)
    rotate(tmp_path / "log" / "web.log")
    modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "log", *(tmp_path / "log").iterdir()]}
    assert modes == {"log": 0o700, "web.log": 0o600, "web.log.1": 0o600}


def test_a_log_that_grows_is_put_away_while_its_process_goes_on_writing(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, print)
    file = logs.open("web")
    for number in range(10):
        os.write(file, f"{number}\n".encode() * 600)
        rotate(tmp_path / "web.log")
    os.write(file, b"the last\n")
    os.close(file)
    assert (tmp_path / "web.log").read_text() == "the last\n"
    kept = [(tmp_path / f"web.log.{age}").read_text()[:2] for age in (1, 2, 3)]
    assert kept == ["9\n", "8\n", "7\n"]
    assert {path.name for path in tmp_path.iterdir()} == {"web.log", "web.log.1", "web.log.2", "web.log.3"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * 2000


async def test_logs_are_kept_small_until_that_is_cancelled(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, print)
    write(logs, "x" * 1000)
    keeping = asyncio.create_task(logs.keep_small())
    while True:
        await asyncio.sleep(0.05)
        if (tmp_path / "web.log.1").exists():
            break
    keeping.cancel()
    assert logs.tail("web") == []


def test_of_a_log_that_has_grown_beyond_all_bounds_the_end_is_kept(tmp_path: Path) -> None:
    write(LogFiles(tmp_path, print), "x" * 5000 + "the end")
    rotate(tmp_path / "web.log")
    assert (tmp_path / "web.log.1").read_text() == "x" * 993 + "the end"


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, print)
    write(logs, "x" * 999)
    rotate(tmp_path / "web.log")
    assert [path.name for path in tmp_path.iterdir()] == ["web.log"]


def test_a_log_that_cannot_be_put_away_keeps_all_that_it_has(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, print)
    write(logs, "x" * 1000)
    (tmp_path / "web.log.1").write_text("older")
    (tmp_path / "web.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        rotate(tmp_path / "web.log")
    assert (tmp_path / "web.log").stat().st_size == 1000
    assert (tmp_path / "web.log.1").read_text() == "older"


def test_the_tail_holds_the_last_lines_that_say_something(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, print)
    assert logs.tail("web") == []
    write(logs, "".join(f"{number}\n\n" for number in range(10_000)))
    assert logs.tail("web") == [str(number) for number in range(9988, 10_000)]


def test_the_tail_cannot_move_the_cursor(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, print)
    write(logs, "\x1b[2Jred\tand\x07\r\n")
    assert logs.tail("web") == ["[2Jredand"]


def test_a_log_may_begin_anew(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path, print)
    write(logs, "before\n")
    os.close(logs.open("web", os.O_TRUNC))
    write(logs, "after\n")
    assert logs.tail("web") == ["after"]


def test_the_place_of_a_log_is_told_as_one_would_type_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert LogFiles(tmp_path / "var" / "log", print).see("web") == " (see var/log/web.log)"
    assert LogFiles(Path("/elsewhere"), print).see("web") == " (see /elsewhere/web.log)"
    assert LogFiles(None, print).see("web") == ""


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[IO[str]]:
    """What bin/logs tells of the logs in `tmp_path`/log, which it was told to follow before there are any."""
    environment = {**os.environ, "VAR_DIR": str(tmp_path)}
    following = subprocess.Popen(
        [REPO / "bin" / "logs"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Who started the tests in the background ignores it, and so would the script.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert following.stdout
    yield following.stdout
    os.killpg(following.pid, signal.SIGINT)
    assert following.wait() == 0
    following.stdout.close()


def test_all_logs_are_followed_together_each_line_with_its_process(followed: IO[str], tmp_path: Path) -> None:
    logs = LogFiles(tmp_path / "log", print)
    write(logs, "hello\n", "worker-1")
    assert followed.readline() == " worker-1 | hello\n"
    write(logs, "and here\n")
    assert followed.readline() == "      web | and here\n"


def test_a_log_that_was_put_away_is_followed_on(followed: IO[str], tmp_path: Path) -> None:
    logs = LogFiles(tmp_path / "log", print)
    write(logs, "x" * 1000 + "\n")
    assert len(followed.readline()) > 1000
    rotate(tmp_path / "log" / "web.log")
    write(logs, "after\n")
    assert followed.readline() == "      web | after\n"
