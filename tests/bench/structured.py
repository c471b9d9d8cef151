"""`python -m tests.bench.structured`: answers that keep to schemas, how many do, and what their masks cost.

First `--count` answers of all shipped adapters and the base in mixed batches, greedy and sampled, each with one of many
constraints, beside answers that have none: all must be valid, and the free ones must have the tokens that they have
without masked neighbours. Then W3 in the engine, with no row masked and with all of them, in turn. Engine settings come
from the environment, as a worker's do.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import jsonschema
import regex

from inference.config import EngineConfig, read_config
from inference.model.torch_environment import prepare_torch
from inference.wire.protocol import AdapterRef, Constraint, Delta, Failed, Finished, Generate, Sampling
from tests.bench.random_adapters import write_adapters
from tests.bench.site import REPO
from tests.bench.workloads import NARROW, NEW_TOKENS, WORKLOADS, Prompts

prepare_torch()

from inference.engine.engine import Engine  # noqa: E402 - loads torch
from inference.training.scoring import put_into_store  # noqa: E402

MODEL = REPO / "var" / "models" / "SmolLM2-135M-Instruct"
AT_ONCE = 32
FREE = 8
"""Every so manieth answer has no constraint."""
ENDLESS = Constraint("json_schema", json.dumps({"type": "array", "items": {"type": "string"}, "minItems": 90}))
"""What is written in W3 with masks: it never ends before the limit."""
ROUNDS = 3


@dataclass
class Told:
    """What came of one answer."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class Rule:
    """A constraint, and whether a text keeps to it as somebody else reads it."""

    constraint: Constraint
    holds: Callable[[str], bool]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.structured", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--skip-cost", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        is_sound = _validity(_config(home, options.model), options.count)
    if not options.skip_cost:
        with tempfile.TemporaryDirectory() as home:
            _cost(_config(home, options.model))
    sys.exit(0 if is_sound else 1)


def _config(home: str, model: Path) -> EngineConfig:
    return replace(read_config(), var_dir=Path(home), base_model=str(model), max_rows=AT_ONCE)


def _validity(config: EngineConfig, count: int) -> bool:
    engine = Engine(config)
    names = sorted(path.parent.name for path in REPO.glob("adapters/*/adapter_config.json"))
    refs = [None, *(AdapterRef(put_into_store(REPO / "adapters" / name, config.adapters_dir)) for name in names)]
    masked = dict(_asks(refs, count))
    free = [_ask(f"free-{number}", refs[number % len(refs)], number, None) for number in range(count // FREE)]
    alone = run(engine, free)
    together = run(engine, list(_mixed([ask for ask, _ in masked.values()], free)))
    engine.close()
    wrong = [id for id, (_, rule) in masked.items() if not _is_valid(rule, together[id])]
    changed = [ask.id for ask in free if together[ask.id].token_ids != alone[ask.id].token_ids]
    print(f"{count - len(wrong)} of {count} valid; {len(free) - len(changed)} of {len(free)} free answers unchanged")
    for id in wrong[:5]:
        print(f"  {id}: {masked[id][1].constraint} {together[id]}")
    return not wrong and not changed


def _is_valid(rule: Rule, told: Told) -> bool:
    try:
        return told.reason == "done" and bool(rule.holds(told.text))
    except (ValueError, jsonschema.ValidationError):
        return False


def _asks(refs: list[AdapterRef | None], count: int) -> Iterator[tuple[str, tuple[Generate, Rule]]]:
    """Every second one sampled."""
    chance = random.Random(7)
    for number in range(count):
        rule = draw_rule(chance)
        yield f"{number}", (_ask(f"{number}", refs[number % len(refs)], number, rule.constraint), rule)


def _ask(id: str, ref: AdapterRef | None, number: int, constraint: Constraint | None) -> Generate:
    warm = {"temperature": 0.9, "seed": number} if number % 2 else {}
    sampling = Sampling(max_tokens=600 if constraint else 24, constraint=constraint, **warm)  # type: ignore[arg-type]
    return Generate(id, ref, prompt=f"Record {number} of the river garden, as asked:", sampling=sampling)


def _mixed(masked: list[Generate], free: list[Generate]) -> Iterator[Generate]:
    waiting = deque(free)
    for number, ask in enumerate(masked):
        yield ask
        if number % FREE == 0 and waiting:
            yield waiting.popleft()
    yield from waiting


def draw_rule(chance: random.Random) -> Rule:
    """One of many constraints, each of which bounds the length of its answer."""
    kind = chance.choice(("schema", "schema", "schema", "schema", "regex", "choice", "grammar"))
    if kind == "schema":
        schema = _schema(chance, 2)
        return Rule(Constraint("json_schema", json.dumps(schema)), lambda text: _validates(text, schema))
    if kind == "choice":
        words = chance.sample(["yes", "no", "größer", "日本", "one two", 'with "quotes"', "🙂", "yesterday"], 4)
        return Rule(Constraint("choice", json.dumps(words)), words.__contains__)
    low, word = chance.randint(1, 4), chance.choice(("[a-z]", "[0-9]", "(ab|cd)", "[äöü]"))
    pattern = f"{word}{{{low},{low + 6}}}(-[A-Z]{{2}})?"
    if kind == "regex":
        return Rule(Constraint("regex", pattern), lambda text: bool(regex.fullmatch(pattern, text)))
    lark = f'start: "<" item ("," item)? ">"\nitem: /{pattern}/'
    return Rule(Constraint("grammar", lark), lambda text: bool(regex.fullmatch(f"<{pattern}(,{pattern})?>", text)))


def _schema(chance: random.Random, depth: int) -> dict[str, Any]:
    kinds = ("object", "array", "union") if depth else ()
    match chance.choice(("string", "integer", "number", "boolean", "enum", "pattern", "date", *kinds, *kinds)):
        case "string":
            return {"type": "string", "minLength": chance.randint(0, 2), "maxLength": chance.randint(3, 20)}
        case "integer":
            return {"type": "integer", "minimum": chance.randint(-99, 0), "maximum": chance.randint(1, 9999)}
        case "number":
            return {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": chance.randint(1, 100)}
        case "boolean":
            return {"type": ["boolean", "null"]}
        case "enum":
            return {"enum": ["rot", "grün", 3, None, {"a": [1, 2]}]}
        case "pattern":
            return {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}
        case "date":
            return {"type": "string", "format": "date"}
        case "array":
            return {"type": "array", "items": _schema(chance, depth - 1), "minItems": 1, "maxItems": 3}
        case "union":
            return {"anyOf": [_schema(chance, depth - 1), {"type": "null"}]}
    names = chance.sample(["name", "größe", "at", "tags", "n", "is it"], chance.randint(1, 4))
    properties = {name: _schema(chance, depth - 1) for name in names}
    required = names[: chance.randint(1, len(names))]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _validates(text: str, schema: dict[str, Any]) -> bool:
    jsonschema.validate(json.loads(text), schema)
    return True


def run(engine: Engine, asks: Iterable[Generate]) -> dict[str, Told]:
    """What came of every answer, `AT_ONCE` at a time. Raises RuntimeError for one that failed."""
    waiting, told, live = deque(asks), dict[str, Told](), set[str]()
    while waiting or engine.has_work:
        while waiting and len(live) < AT_ONCE:
            told[waiting[0].id] = Told()
            live.add(waiting[0].id)
            engine.add(waiting.popleft())
        for event in engine.step():
            if isinstance(event, Failed):
                raise RuntimeError(f"{event.id}: {event.error}")
            if isinstance(event, Delta):
                told[event.id].text += event.text
                told[event.id].token_ids += event.token_ids
            elif isinstance(event, Finished):
                told[event.id].reason = event.reason
                live.discard(event.id)
    return told


def _cost(config: EngineConfig) -> None:
    """W3 in the engine without guesses and known beginnings, free and masked in turn."""
    engine = Engine(replace(config, speculation=False, prefix_cache="off"))
    made = write_adapters(Path(config.base_model), config.var_dir / "made")
    paths = [path for path in made if path.name in NARROW]
    refs = [AdapterRef(put_into_store(path, config.adapters_dir)) for path in paths]
    prompts, rates = Prompts(Path(config.base_model)), dict[str, list[float]](free=[], masked=[])
    for turn in range(ROUNDS + 1):
        for name, constraint in (("free", None), ("masked", ENDLESS)):
            asks = prompts.asks(NARROW, WORKLOADS["w3"].requests, f"{name} {turn}")
            sampling = Sampling(max_tokens=NEW_TOKENS, ignore_eos=True, constraint=constraint)
            requests = [
                Generate(f"{name}-{turn}-{n}", refs[n % len(refs)], prompt=ask.prompt, sampling=sampling)
                for n, ask in enumerate(asks)
            ]
            began = time.monotonic()
            told = run(engine, requests)
            tokens = sum(len(one.token_ids) for one in told.values())
            if turn:  # the first of each warms up
                rates[name].append(tokens / (time.monotonic() - began))
    engine.close()
    free, masked = median(rates["free"]), median(rates["masked"])
    told = f"{free:.1f} tokens a second free, {masked:.1f} with all rows masked, {1 - masked / free:.1%} less"
    print(f"W3 in the engine: {told}")
    print({name: [f"{rate:.1f}" for rate in found] for name, found in rates.items()})


if __name__ == "__main__":
    main()
