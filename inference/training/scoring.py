"""How good an adapter is: its answers, the base's best and the best constant, on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from peft import PeftModel

from inference.tasks import baseline, verdict
from inference.tasks.bootstrap import interval, paired_interval
from inference.tasks.card import ScoreTable, score_table
from inference.tasks.data import Row, Split
from inference.tasks.metrics import METRICS, Tally, score
from inference.tasks.recipe import Recipe
from inference.tasks.template import fill
from inference.training.answers import answers

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Verdict:
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
    def verdict(self) -> verdict.Verdict:
        return verdict.verdict_of(self.gain, self.gain_over_constant)

    def on_card(self) -> ScoreTable:
        """What a card says of it."""
        told = {name: getattr(self, name) for name in ("metric", "base", "tuned", "low", "high", "n", "split")}
        return score_table(**told, base_prompt=self.base_prompt, gain=self.verdict)


def judge(
    model: PeftModel, tokenizer: Any, split: Split, recipe: Recipe, part: Literal["test", "validation"], on_rows: OnRows
) -> Verdict:
    """Score the adapter in `model` and what it must beat on one `part` of the data."""
    rows = split.test if part == "test" else split.validation
    tuned = tuned_tallies(model, tokenizer, rows, recipe, on_rows)
    with model.disable_adapter():
        styles = {
            style: base_tallies(style, model, tokenizer, split.validation, split, recipe, on_rows)
            for style in baseline.STYLES
        }
        style = baseline.best_style(styles)
        base = base_tallies(style, model, tokenizer, rows, split, recipe, on_rows)
    constant = baseline.best_constant(split.train, recipe)
    flat = baseline.tallies([constant] * len(rows), rows, recipe)
    low, high = interval(tuned)
    return Verdict(
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
        base_styles={name: score(each) for name, each in styles.items()},
    )


def tuned_tallies(
    model: PeftModel, tokenizer: Any, rows: Sequence[Row], recipe: Recipe, on_rows: OnRows
) -> list[Tally]:
    """The adapter's tally of each of `rows`: what it writes is the answer, as it stands."""
    metric = METRICS[recipe.metric]
    prompts = [fill(recipe.template, row.inputs) for row in rows]
    texts = answers(model, tokenizer, prompts, recipe.max_answer, on_rows=on_rows)
    return [metric(text.strip(), row.target) for text, row in zip(texts, rows, strict=True)]


def base_tallies(
    style: str, model: Any, tokenizer: Any, rows: Sequence[Row], split: Split, recipe: Recipe, on_rows: OnRows
) -> list[Tally]:
    """The base's tally of each of `rows` when it is asked in `style`."""
    shots = baseline.choose_shots(split.train, recipe)
    prompts = [as_text(baseline.ask(style, row, recipe, shots), tokenizer) for row in rows]
    tokens = baseline.max_tokens(recipe)
    texts = answers(
        model, tokenizer, prompts, tokens, on_rows=on_rows, is_whole=lambda text: baseline.is_whole(text, recipe)
    )
    return baseline.tallies([baseline.read_answer(text, recipe) for text in texts], rows, recipe)


def as_text(asked: str | baseline.Chat, tokenizer: Any) -> str:
    """What the model reads: a chat goes through the base's chat template."""
    if isinstance(asked, str):
        return asked
    turns = [{"role": role, "content": content} for role, content in asked]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text
