"""`auto` where each row's own adapter is taken away, beside the base: `python -m tests.bench.routed_apart --data DIR
--out DIR`.

Some test rows of each task are sent as callers send them: to all shipped adapters, and to all but the row's own. The
base answers every row in the way that its card found best, and in a chat with the very text that `auto` has, as where
`auto` leaves a row to it; what it says is read with good will. What a task's rows were answered lies in `--out` and is
not asked again; results/blends/ gets what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from inference.adapters.identity import composed_digest
from inference.config import read_config
from inference.fetch import find_model
from inference.model.torch_environment import prepare_torch
from inference.tasks import baseline
from inference.tasks.card import CARD
from inference.tasks.data import Row
from inference.tasks.metrics import Tally
from inference.tasks.recipe import tasks
from inference.tasks.template import fill
from inference.wire.protocol import AdapterRef, Component, Sampling
from tests.bench import claims
from tests.bench.routing import ADAPTERS, BASE, Task, as_sent, drawn, shipped, task_of

prepare_torch()

import torch  # noqa: E402

from inference.engine.engine import Engine  # noqa: E402
from inference.training.scoring import answers, put_into_store  # noqa: E402
from loraland.catalogue.routing.choice import choose  # noqa: E402

PAPER: Final = "Zhao et al., Findings of ACL 2024 (arXiv 2402.09997)"
ARMS: Final = {
    "own": "own adapter",
    "auto": "auto",
    "apart": "auto, own adapter taken away",
    "base": "base, in its best way",
    "bare": "base, sent the same text",
    "three": "auto:3",
}


class World:
    """One engine with all adapters, and the choices of `auto` among them."""

    def __init__(self, folder: Path) -> None:
        config = read_config()
        config = dataclasses.replace(config, base_model=str(find_model(config)), var_dir=folder)
        config.adapters_dir.mkdir()
        self.refs = {slug: AdapterRef(put_into_store(ADAPTERS / slug, config.adapters_dir)) for slug in tasks()}
        self.engine = Engine(config)
        torch.set_num_threads(1 if self.engine.machine.runner.decoder.has_own_threads else torch.get_num_threads())

    def answered(self, task: Task, known: Sequence[Task], rows: Sequence[Row]) -> dict[str, Any]:
        """The tallies of each arm on `rows` of `task`, and how often the base was chosen."""
        others = [each for each in known if each is not task]
        own = [fill(task.recipe.template, row.inputs) for row in rows]
        sampling = Sampling(max_tokens=task.recipe.max_answer)
        found: dict[str, Any] = {"own": self._tallies(task, rows, self._of(task.recipe.task, own, sampling))}
        for arm, among in (("auto", known), ("apart", others)):
            texts, num_base = self._routed(task, among, rows, sampling)
            found |= {arm: self._tallies(task, rows, texts), f"{arm} base": num_base}
        return found | {"base": self._of_base(task, rows)} | self.sent_bare(task, rows)

    def _routed(self, task: Task, among: Sequence[Task], rows: Sequence[Row], sampling: Sampling) -> Any:
        index, templates = shipped(among), {each.recipe.task: each.recipe.template for each in among}
        texts, asked = [""] * len(rows), dict[str, list[tuple[int, Any]]]()
        for place, row in enumerate(rows):
            choice = choose(index, [BASE], text := as_sent(task.recipe, row))
            slug = choice.chosen.candidate.slug if choice.chosen else ""
            prompt = fill(templates[slug], choice.inputs) if slug else (("user", text),)
            asked.setdefault(slug, []).append((place, prompt))
        for slug, some in asked.items():
            for (place, _), text in zip(some, self._of(slug, [prompt for _, prompt in some], sampling), strict=True):
                texts[place] = text
        return texts, len(asked.get("", ()))

    def added_up(self, task: Task, known: Sequence[Task], rows: Sequence[Row]) -> dict[str, Any]:
        """The tallies of the sum of the three best, in the prompt of the nearest; nothing where that is the
        base, whose answers are those of `sent_bare`."""
        index, templates = shipped(known), {each.recipe.task: each.recipe.template for each in known}
        sampling, texts = Sampling(max_tokens=task.recipe.max_answer), [""] * len(rows)
        asked: dict[tuple[str, ...], list[tuple[int, str]]] = {}
        for place, row in enumerate(rows):
            choice = choose(index, [BASE], as_sent(task.recipe, row))
            if choice.chosen:
                best = (choice.chosen, *choice.runners_up[:2])
                prompt = fill(templates[choice.chosen.candidate.slug], choice.inputs)
                asked.setdefault(tuple(each.candidate.slug for each in best), []).append((place, prompt))
        for slugs, some in asked.items():
            told = answers(self.engine, self._sum(slugs), [prompt for _, prompt in some], sampling)
            for (place, _), text in zip(some, told, strict=True):
                texts[place] = text
        return {"three": self._tallies(task, rows, texts)}

    def _sum(self, slugs: Sequence[str]) -> AdapterRef:
        weight = round(1 / len(slugs), 6)
        parts = tuple(Component(self.refs[slug].digest, weight) for slug in slugs)
        return AdapterRef(composed_digest((part.digest, part.weight) for part in parts), components=parts)

    def sent_bare(self, task: Task, rows: Sequence[Row]) -> dict[str, Any]:
        """The tallies of the base in a chat of what callers send."""
        chats = [(("user", as_sent(task.recipe, row)),) for row in rows]
        return {"bare": self._read(task, rows, self._of("", chats, self._for_base(task)))}

    def _for_base(self, task: Task) -> Sampling:
        return Sampling(max_tokens=baseline.max_tokens(task.recipe), stop=baseline.stops(task.recipe))

    def _read(self, task: Task, rows: Sequence[Row], texts: Sequence[str]) -> list[Any]:
        return self._tallies(task, rows, [baseline.read_answer(text, task.recipe) for text in texts])

    def _of(self, slug: str, prompts: Sequence[Any], sampling: Sampling) -> list[str]:
        return answers(self.engine, self.refs.get(slug), prompts, sampling)

    def _of_base(self, task: Task, rows: Sequence[Row]) -> list[Any]:
        recipe, shots = task.recipe, baseline.choose_shots(task.train, task.recipe)
        style = tomllib.loads((ADAPTERS / recipe.task / CARD).read_text(encoding="utf-8"))["score"]["base_prompt"]
        asked = [baseline.ask(style, row, recipe, shots) for row in rows]
        return self._read(task, rows, self._of("", asked, self._for_base(task)))

    def _tallies(self, task: Task, rows: Sequence[Row], texts: Sequence[str]) -> list[Any]:
        found = baseline.tallies([text.strip() for text in texts], rows, task.recipe)
        return [[tally.earned, tally.possible] for tally in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder for each task")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="what was answered, to go on from")
    parser.add_argument("--rows", type=int, default=20, help="of each task, drawn by a seed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    known = [task_of(name, options.data) for name in tasks()]
    with tempfile.TemporaryDirectory(prefix="loraland-apart-") as folder:
        world = World(Path(folder))
        for task in known:
            place, rows = options.out / f"{task.recipe.task}-{options.rows}.json", list(drawn(task.test, options.rows))
            told = json.loads(place.read_text()) if place.exists() else world.answered(task, known, rows)
            if "bare" not in told:
                told |= world.sent_bare(task, rows)
            if "three" not in told:
                told |= world.added_up(task, known, rows)
            place.write_text(json.dumps(told))
            print(task.recipe.task, flush=True)
        world.engine.close()
    found = [json.loads((options.out / f"{name}-{options.rows}.json").read_text()) for name in tasks()]
    for task, told in zip(known, found, strict=True):
        _leave_to_base(task, known, list(drawn(task.test, options.rows)), told)
    print(*report(found, options.rows), sep="\n")


def _leave_to_base(task: Task, known: Sequence[Task], rows: Sequence[Row], told: dict[str, Any]) -> None:
    """Let what `auto` leaves to the base be read with the good will with which the base is read elsewhere."""
    for arm, among in (("auto", known), ("three", known), ("apart", [each for each in known if each is not task])):
        index = shipped(among)
        for place, row in enumerate(rows):
            if choose(index, [BASE], as_sent(task.recipe, row)).chosen is None:
                told[arm][place] = told["bare"][place]


def report(found: Sequence[dict[str, Any]], rows: int) -> list[Path]:
    """The claims of `auto`, of what was answered of each task."""
    tallies = {words: [[Tally(*pair) for pair in task[arm]] for task in found] for arm, words in ARMS.items()}
    arms = {words: claims.arm_of(of) for words, of in tallies.items()}
    own, auto, apart, base, bare, three = ARMS.values()
    about: dict[str, Any] = {
        "paper": PAPER,
        "command": "python -m tests.bench.routed_apart --data DATASETS --out DIR",
        "seeds": [1],
    }
    first, over_base = claims.compared(auto, own, tallies), claims.compared(auto, base, tallies)
    third = [claims.compared(apart, other, tallies) for other in (bare, base)]
    left = {arm: sum(task[f"{arm} base"] for task in found) for arm in ("auto", "apart")}
    told = f"{rows} test rows of each of {len(found)} tasks, as callers send them."
    whole = claims.Claim(
        title="LoraRetriever: the adapter that fits, by the prompt",
        claim="Chosen by the prompt, an adapter answers as well as the one that was made for it.",
        bar="Within 2 points of the own adapter and above the base, pooled, by the intervals.",
        verdict=_verdict(first.low > -0.02 and over_base.low > 0, first.high < -0.02 or over_base.high < 0),
        arms={name: arms[name] for name in (own, auto, base)},
        comparisons=[first, over_base],
        notes=[told, f"{left['auto']} rows were left to the base."],
        **about,
    )
    fourth = claims.compared(three, auto, tallies)
    mixture = claims.Claim(
        title="The three best, added up",
        claim="The three adapters that fit best, added up with equal weights, answer as well as the best one alone.",
        bar="Within 2 points of the best one alone, pooled, by the interval.",
        verdict=_verdict(fourth.low > -0.02, fourth.high < -0.02),
        arms={name: arms[name] for name in (auto, three, base)},
        comparisons=[fourth, claims.compared(three, base, tallies)],
        notes=[told, "The sum reads the prompt of the nearest, which the two others have not learnt."],
        **about,
    )
    without = claims.Claim(
        title="LoraRetriever: where the own adapter is missing",
        claim="On a task without an adapter of its own, the nearest others still answer better than the base.",
        bar="Above the base that is sent the same text, pooled, by the interval.",
        verdict=_verdict(third[0].low > 0, third[0].high < 0),
        arms={name: arms[name] for name in (apart, bare, base)},
        comparisons=third,
        notes=[
            told,
            f"{left['apart']} rows were left to the base, which read them as a chat of one message.",
            "A text as callers send it does not say what is wanted of it, so an adapter of another task answers in "
            "that task's labels; the base in its best way is told what is wanted, and shown examples.",
        ],
        **about,
    )
    named = {"auto": whole, "auto_apart": without, "auto_three": mixture}
    return [claims.write(name, claim) for name, claim in named.items()]


def _verdict(is_shown: bool, is_refuted: bool) -> Any:
    return "shown" if is_shown else "refuted here" if is_refuted else "not shown"


if __name__ == "__main__":
    main()
