"""What a host keeps of a store: brought once for all who ask, within a bound, and never from under a reader."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from inference.objects.cache import FolderCache
from inference.objects.failures import Damaged, DiskFull, NotStored, StoreAway
from tests.patience import PATIENCE

SIZE = 1000
Bring = Callable[[str, Path], None]


def bring(name: str, into: Path) -> None:
    (into / "file").write_bytes(name.encode() * (SIZE // len(name)))


def noted(directory: Path, wait: float = 0.0) -> Bring:
    """Brings slowly, and writes down that it did."""

    def slow(name: str, into: Path) -> None:
        with (directory / "noted").open("a") as file:
            file.write(f"{name}\n")
        time.sleep(wait)
        bring(name, into)

    return slow


def names(cache: FolderCache) -> set[str]:
    return {path.name for path in cache.directory.iterdir()}


def read(cache: FolderCache, *wanted: str) -> None:
    for name in wanted:
        with cache.held(name) as directory:
            assert (directory / "file").stat().st_size == SIZE


def test_a_folder_is_brought_once_and_stays(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path / "cache", 10 * SIZE, noted(tmp_path))
    assert not cache.has("a" * 4)
    read(cache, "a" * 4, "a" * 4)
    assert cache.has("a" * 4)
    assert (tmp_path / "noted").read_text() == "aaaa\n"


def ask(directory: Path) -> None:
    read(FolderCache(directory / "cache", 10 * SIZE, noted(directory, 0.3)), "aaaa")


def test_processes_that_ask_at_once_bring_it_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=ask, args=[tmp_path]) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "noted").read_text() == "aaaa\n"
    assert names(FolderCache(tmp_path / "cache", 10 * SIZE, bring)) == {"aaaa"}


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, 3 * SIZE, bring)
    read(cache, "aaaa", "bbbb", "cccc", "aaaa", "dddd")
    assert names(cache) == {"aaaa", "cccc", "dddd"}
    read(cache, "eeee")
    assert names(cache) == {"aaaa", "dddd", "eeee"}


def test_what_a_host_made_of_a_folder_counts_too(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, 3 * SIZE, bring)
    read(cache, "aaaa", "bbbb")
    (tmp_path / "bbbb" / "mapped").write_bytes(bytes(SIZE))
    read(cache, "cccc")
    assert names(cache) == {"bbbb", "cccc"}


def test_what_is_held_stays_and_what_is_mapped_can_be_read_when_it_is_gone(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, 2 * SIZE, bring)
    with cache.held("aaaa") as directory:
        read(FolderCache(tmp_path, 2 * SIZE, bring), "bbbb", "cccc")
        assert names(cache) == {"aaaa", "cccc"}
        with (directory / "file").open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    read(cache, "dddd")
    assert names(cache) == {"cccc", "dddd"}
    assert bytes(content) == b"aaaa" * (SIZE // 4)


def on_a_disk(room: int, cache: Path) -> Bring:
    """Brings where there is room beside the folders that are there."""

    def bring_with_room(name: str, into: Path) -> None:
        kept = [path for path in cache.iterdir() if not path.name.startswith(".")]
        lacking = (len(kept) + 1) * SIZE - room
        if lacking > 0:
            raise DiskFull("the disk has no room", into, lacking)
        bring(name, into)

    return bring_with_room


def test_on_a_full_disk_what_was_used_longest_ago_gives_way(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, 100 * SIZE, on_a_disk(3 * SIZE, tmp_path))
    read(cache, "aaaa", "bbbb", "cccc", "aaaa", "dddd")
    assert names(cache) == {"aaaa", "cccc", "dddd"}
    with cache.held("cccc"):
        read(cache, "eeee")
    assert names(cache) == {"cccc", "dddd", "eeee"}


def test_where_nothing_gives_room_enough_nothing_goes_and_that_is_said(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, 100 * SIZE, on_a_disk(2 * SIZE, tmp_path))
    read(cache, "aaaa", "bbbb")
    fuller = FolderCache(tmp_path, 100 * SIZE, on_a_disk(-SIZE, tmp_path))
    with pytest.raises(DiskFull, match="the disk has no room"), fuller.held("cccc"):
        pass
    assert {"aaaa", "bbbb"} <= names(cache)


def test_one_larger_than_the_bound_is_served_and_goes_with_the_next(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, SIZE // 2, bring)
    read(cache, "aaaa")
    assert names(cache) == {"aaaa"}
    read(cache, "bbbb")
    assert names(cache) == {"bbbb"}


def test_eviction_while_others_load_takes_nothing_from_them(tmp_path: Path) -> None:
    """Several readers over a bound for two of ten folders, each of which finds whole files every time."""
    wrong = []

    def visit(seed: int) -> None:
        cache = FolderCache(tmp_path, 2 * SIZE, bring)
        for turn in range(40):
            name = f"{(seed * 7 + turn * 3) % 10}" * 4
            with cache.held(name) as directory:
                if (directory / "file").read_bytes() != name.encode() * (SIZE // 4):
                    wrong.append(name)

    readers = [Thread(target=visit, args=[seed]) for seed in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(names(FolderCache(tmp_path, 2 * SIZE, bring))) <= 5


def test_what_is_damaged_is_set_aside_and_never_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def bring_damaged(name: str, into: Path) -> None:
        bring(name, into)
        raise Damaged("other bytes than were stored")

    cache = FolderCache(tmp_path, 10 * SIZE, bring_damaged)
    for _ in range(2):
        with pytest.raises(Damaged), cache.held("aaaa"):
            pass
    assert names(cache) == {".aaaa.damaged"}
    assert "damaged in the store folder=aaaa error=other bytes than were stored" in caplog.text


def test_what_is_not_stored_leaves_nothing(tmp_path: Path) -> None:
    def bring_nothing(name: str, into: Path) -> None:
        raise NotStored("not there")

    cache = FolderCache(tmp_path, SIZE, bring_nothing)
    with pytest.raises(NotStored), cache.held("aaaa"):
        pass
    assert names(cache) == set()


def test_what_was_broken_off_is_there_for_the_next_attempt(tmp_path: Path) -> None:
    found = []

    def bring_half(name: str, into: Path) -> None:
        found.append({path.name for path in into.iterdir()})
        bring(name, into)
        if len(found) == 1:
            raise StoreAway("away")

    cache = FolderCache(tmp_path, 10 * SIZE, bring_half)
    with pytest.raises(StoreAway), cache.held("aaaa"):
        pass
    read(cache, "aaaa")
    assert found == [set(), {"file"}]


def hang(directory: Path) -> None:
    def bring_for_ever(name: str, into: Path) -> None:
        bring(name, into)
        (directory / "begun").touch()
        time.sleep(60)

    read(FolderCache(directory / "cache", SIZE, bring_for_ever), "aaaa")


def test_what_a_process_left_that_was_killed_is_cleared_and_what_another_writes_is_not(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hang, args=[tmp_path])
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert names(FolderCache(tmp_path / "cache", SIZE, bring)) == {".aaaa.partial"}
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    cache = FolderCache(tmp_path / "cache", SIZE, bring)
    assert names(cache) == set()
    read(cache, "aaaa")


def test_a_copy_that_is_forgotten_can_be_read_on_by_who_holds_it(tmp_path: Path) -> None:
    cache, go_on, told = FolderCache(tmp_path, 10 * SIZE, bring), Event(), []

    def hold() -> None:
        with cache.held("aaaa") as directory, (directory / "file").open("rb") as file:
            told.append("held")
            go_on.wait(PATIENCE)
            told.append(str(len(file.read())))

    reader = Thread(target=hold)
    reader.start()
    while not told:
        time.sleep(0.001)
    cache.forget("aaaa")
    go_on.set()
    reader.join()
    assert told == ["held", str(SIZE)]
    assert names(cache) == set()
