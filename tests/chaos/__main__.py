"""`make chaos`: every process of a site dies or sleeps, again and again, under those who ask; nobody may lose a word.

python -m tests.chaos --faults 12                      a short storm, as continuous integration runs it
python -m tests.chaos --faults 80 --seed 3             a long one
python -m tests.chaos --victims worker --every 8       workers alone, one killed every eight seconds

Its last line tells what was found, and its exit code whether that is nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.bench.site import Site
from tests.chaos.faults import FAULTS, Storm
from tests.chaos.lanes import Log, Program, Question, Visitor, questions
from tests.chaos.verdict import WHOLE, Verdict, judge, rows_at_the_end
from tests.chaos.world import small_world

CALM_AT_ONCE: Final = 4


class Asker(Protocol):
    async def ask(self, question: Question) -> None: ...


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="loraland-chaos-", ignore_cleanup_errors=True) as directory:
        with small_world(Path(directory), options.web_processes) as site:
            faults, verdict = asyncio.run(storm(site, options))
        if not verdict.is_clean:
            for log in sorted((Path(directory) / "site" / "log").glob("*.log")):
                print(f"{log.name}:", log.read_text(errors="replace")[-4000:])
    for fault in (*verdict.lost, *verdict.doubled, *verdict.changed, *map(str, verdict.errors.items())):
        print(fault)
    print(f"{verdict.unread} answers that nobody was told of were stopped, {verdict.turned_away} requests turned away")
    print(verdict.line(faults))
    return 0 if verdict.is_clean else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    victims = sorted({fault.victim for fault in FAULTS})
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--every", type=float, default=4.0, metavar="SECONDS", help="about so long between two faults")
    parser.add_argument("--victims", nargs="+", default=victims, choices=victims)
    parser.add_argument("--programs", type=int, default=4, help="callers of the API")
    parser.add_argument("--visitors", type=int, default=6, help="pages")
    parser.add_argument("--web-processes", type=int, default=1, help="so many behind one port")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def storm(site: Site, options: argparse.Namespace) -> tuple[int, Verdict]:
    """A calm day, then the storm, then the wait for whatever has not ended."""
    key, log = site.keys.get("chaos") or site.target_of("chaos").key, Log()
    programs = [Program(site, key, log) for _ in range(options.programs)]
    visitors = [Visitor(site, log) for _ in range(options.visitors)]
    calm = await _calm_day(site, [*programs[:1], *visitors[:1]], log)
    raging = Storm(site, options.seed, options.every, tuple(options.victims))
    over = asyncio.Event()
    asking = [
        asyncio.create_task(_ask_on(asker, random.Random(number), over))
        for number, asker in enumerate([*programs, *visitors])
    ]
    await raging.rage(options.faults)
    over.set()
    await asyncio.gather(*asking)
    rows = [row for row in await rows_at_the_end(site) if row.id not in calm.ids]
    print(dict(raging.done), f"{log.refused} requests were not accepted", flush=True)
    return raging.done.total(), judge(rows, calm.texts, log.heard)


@dataclass(frozen=True)
class _Calm:
    """What each question was answered while nothing happened, and the ids of those answers."""

    texts: dict[str, str]
    ids: frozenset[str]


async def _calm_day(site: Site, askers: Sequence[Asker], log: Log) -> _Calm:
    """Every question once by each kind of asker, who put them differently."""
    for asker in askers:
        for start in range(0, len(questions()), CALM_AT_ONCE):
            await asyncio.gather(*(asker.ask(question) for question in questions()[start : start + CALM_AT_ONCE]))
    if log.refused:
        raise RuntimeError(f"{log.refused} requests were refused on a calm day")
    rows = await rows_at_the_end(site)
    if broken := [row for row in rows if row.status not in WHOLE]:
        raise RuntimeError(f"a calm day ended so: {broken[0]}")
    log.heard.clear()
    return _Calm({row.question: row.text for row in rows}, frozenset(row.id for row in rows))


async def _ask_on(asker: Asker, chance: random.Random, over: asyncio.Event) -> None:
    while not over.is_set():
        await asker.ask(chance.choice(questions()))


if __name__ == "__main__":
    sys.exit(main())
