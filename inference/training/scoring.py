"""How good adapters are: their answers, the base's best and the best constant, on the same rows, by the engine."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from inference.adapters.config_file import read_config
from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.identity import adapter_digest
from inference.config import read_config as read_environment
from inference.engine.engine import Engine
from inference.tasks import baseline
from inference.tasks.bootstrap import interval, paired_interval
from inference.tasks.card import CARD, ScoreTable, score_table, write_score
from inference.tasks.data import Row, Split, read_split
from inference.tasks.metrics import SCORING, Tally, score
from inference.tasks.recipe import Recipe
from inference.tasks.template import fill
from inference.tasks.verdict import Verdict, verdict_of
from inference.training.run import Job
from inference.wire.failures import meaning_of
from inference.wire.protocol import AdapterRef, Delta, Failed, Generate, Message, Sampling, is_terminal

Part = Literal["test", "validation"]


@dataclass(frozen=True)
class Measured:
    """Scores of one task, each 0 to 1; `low` and `high` are the 95 % interval of `tuned`.

    `gain` and `gain_over_constant` are 95 % intervals of the paired differences to the base and to `constant`.
    `base_styles` are the validation scores that chose `base_prompt`.
    """

    metric: str
    base: float
    tuned: float
    constant: float
    low: float
    high: float
    gain: tuple[float, float]
    gain_over_constant: tuple[float, float]
    n: int
    split: str
    base_prompt: str
    base_styles: dict[str, float]

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.gain, self.gain_over_constant)

    def on_card(self) -> ScoreTable:
        """What a card says of it."""
        told = {name: getattr(self, name) for name in ("metric", "base", "tuned", "low", "high", "n", "split")}
        return score_table(**told, base_prompt=self.base_prompt, gain=self.verdict, scoring=SCORING)

    def as_line(self, task: str) -> str:
        """One line of JSON."""
        return json.dumps({"task": task, "verdict": self.verdict, **dataclasses.asdict(self)})


def score_jobs(jobs: Sequence[Job], part: Part) -> Iterator[tuple[Job, Measured]]:
    """Score the adapters of `jobs`, which have one base, on one `part` of their data, and tell their cards."""
    with serving(jobs) as (engine, adapters):
        for job, adapter in zip(jobs, adapters, strict=True):
            split = read_split(job.data, job.recipe.task, job.recipe.field_names)
            total = 2 * len(getattr(split, part)) + len(baseline.STYLES) * len(split.validation)
            with tqdm(total=total, desc=f"{job.recipe.task}, scoring", unit="answer") as bar:
                measured = measure(engine, adapter, split, job.recipe, part, bar.update)
            write_score(job.out / CARD, measured.on_card())
            yield job, measured


@contextmanager
def serving(jobs: Sequence[Job]) -> Iterator[tuple[Engine, list[AdapterRef]]]:
    """An engine over the base of `jobs`, in whose store their adapters lie."""
    with tempfile.TemporaryDirectory(prefix="loraland-scoring-") as folder:
        config = dataclasses.replace(
            read_environment(base=jobs[0].base_name),
            var_dir=Path(folder),
            base_model=str(jobs[0].base),
            device=jobs[0].device.type,
            max_rank=max(job.recipe.lora.rank for job in jobs),
        )
        config.adapters_dir.mkdir()
        adapters = [AdapterRef(put_into_store(job.out, config.adapters_dir)) for job in jobs]
        engine, threads = Engine(config), torch.get_num_threads()
        if engine.machine.runner.decoder.has_own_threads:  # torch's would spin beside them
            torch.set_num_threads(1)
        try:
            yield engine, adapters
        finally:
            engine.close()
            torch.set_num_threads(threads)


def put_into_store(adapter: Path, store: Path) -> str:
    """Copy the folder `adapter` into `store`, under its digest, which is returned."""
    digest = adapter_digest(read_config(adapter / CONFIG), adapter / WEIGHTS)
    shutil.copytree(adapter, store / digest, dirs_exist_ok=True)
    return digest


def measure(
    engine: Engine, adapter: AdapterRef, split: Split, recipe: Recipe, part: Part, on_row: Callable[[], object]
) -> Measured:
    """Score `adapter` and what it must beat on one `part` of the data; `on_row` is told of every answer."""
    rows: Sequence[Row] = getattr(split, part)
    tuned = tuned_tallies(engine, adapter, rows, recipe, on_row)
    styles = {style: _base_tallies(engine, style, split.validation, split, recipe, on_row) for style in baseline.STYLES}
    style = baseline.best_style(styles)
    base = _base_tallies(engine, style, rows, split, recipe, on_row)
    flat = baseline.tallies([baseline.best_constant(split.train, recipe)] * len(rows), rows, recipe)
    low, high = interval(tuned)
    return Measured(
        metric=recipe.metric,
        base=score(base),
        tuned=score(tuned),
        constant=score(flat),
        low=low,
        high=high,
        gain=paired_interval(tuned, base),
        gain_over_constant=paired_interval(tuned, flat),
        n=len(rows),
        split=part,
        base_prompt=style,
        base_styles={style: score(tallies) for style, tallies in styles.items()},
    )


def tuned_tallies(
    engine: Engine, adapter: AdapterRef, rows: Sequence[Row], recipe: Recipe, on_row: Callable[[], object]
) -> list[Tally]:
    """The adapter's tally of each of `rows`: what it writes is the answer, as it stands."""
    prompts = [fill(recipe.template, row.inputs) for row in rows]
    texts = answers(engine, adapter, prompts, Sampling(max_tokens=recipe.max_answer), on_row)
    return baseline.tallies([text.strip() for text in texts], rows, recipe)


def _base_tallies(
    engine: Engine, style: str, rows: Sequence[Row], split: Split, recipe: Recipe, on_row: Callable[[], object]
) -> list[Tally]:
    """The base's tally of each of `rows` when it is asked in `style`."""
    shots = baseline.choose_shots(split.train, recipe)
    asked = [baseline.ask(style, row, recipe, shots) for row in rows]
    sampling = Sampling(max_tokens=baseline.max_tokens(recipe), stop=baseline.stops(recipe))
    texts = answers(engine, None, asked, sampling, on_row)
    return baseline.tallies([baseline.read_answer(text, recipe) for text in texts], rows, recipe)


def answers(
    engine: Engine,
    adapter: AdapterRef | None,
    asked: Sequence[str | baseline.Chat],
    sampling: Sampling,
    on_row: Callable[[], object] = lambda: None,
) -> list[str]:
    """The answer to each of `asked`, in their order; empty where the prompt is too long.

    Raises ValueError with a sentence where there is no answer for any other reason.
    """
    waiting = [_request(str(index), adapter, prompt, sampling) for index, prompt in enumerate(asked)][::-1]
    texts = [""] * len(asked)
    while waiting or engine.has_work:
        while waiting and engine.capacity:
            engine.add(waiting.pop())
        for event in engine.step():
            if isinstance(event, Delta):
                texts[int(event.id)] += event.text
            elif isinstance(event, Failed) and meaning_of(event.code).fault != "text":
                raise ValueError(event.error)
            if is_terminal(event):
                on_row()
    return texts


def _request(id: str, adapter: AdapterRef | None, asked: str | baseline.Chat, sampling: Sampling) -> Generate:
    if isinstance(asked, str):
        return Generate(id, adapter, prompt=asked, sampling=sampling)
    return Generate(id, adapter, messages=tuple(Message(*turn) for turn in asked), sampling=sampling)
