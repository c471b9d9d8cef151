"""Answers that keep to a constraint, beside others that have none and do not notice. Random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import regex

from inference.engine.engine import Engine
from inference.structured.guide import Guide
from inference.wire.contract import Resume
from inference.wire.protocol import AdapterRef, Constraint, Generate, Sampling
from tests.inference.conftest import make_adapter, make_model
from tests.inference.engines import VOCAB, Record, assert_nothing_held, drain, make_config, make_tokenizer

pytestmark = pytest.mark.slow

SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": ["rot", "grün", 3, None]}, "minItems": 1, "maxItems": 4},
    {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^[a-c]{1,3}$"}]},
    {
        "type": "object",
        "properties": {
            "at": {
                "type": "object",
                "properties": {"x": {"type": "number", "minimum": -1, "maximum": 1}},
                "required": ["x"],
                "additionalProperties": False,
            }
        },
        "required": ["at"],
        "additionalProperties": False,
    },
]
OTHERS = [
    (Constraint("regex", r"[ab]{3,9}(-[0-9]{1,3})?"), lambda text: regex.fullmatch(r"[ab]{3,9}(-[0-9]{1,3})?", text)),
    (Constraint("choice", '["yes", "no", "日本"]'), ["yes", "no", "日本"].__contains__),
    (Constraint("grammar", 'start: "<" /[a-z]{1,4}/ ">"'), lambda text: regex.fullmatch("<[a-z]{1,4}>", text)),
]
MakeEngine = Callable[..., Engine]


def is_valid(schema: dict[str, Any]) -> Callable[[str], bool]:
    def valid(text: str) -> bool:
        jsonschema.validate(json.loads(text), schema)
        return True

    return valid


CONSTRAINTS = [(Constraint("json_schema", json.dumps(schema)), is_valid(schema)) for schema in SCHEMAS] + OTHERS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_tokenizer(make_model(home / "tiny", vocab_size=VOCAB))
    (home / "adapters").mkdir()
    return home


@pytest.fixture(scope="module")
def digests(home: Path) -> list[str]:
    return ["", *(make_adapter(home / "tiny", home / "adapters", seed=n, r=8) for n in range(2))]


@pytest.fixture
def make(home: Path) -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make_engine(**changes: Any) -> Engine:
        engines.append(Engine(make_config(home / "tiny", home / "adapters", **changes)))
        return engines[-1]

    yield make_engine
    for engine in engines:
        assert_nothing_held(engine)
        engine.close()


def ask(id: str, constraint: Constraint | None = None, digest: str = "", **sampling: Any) -> Generate:
    settings = {"max_tokens": 150, "temperature": 1.2, "seed": 5, "constraint": constraint, **sampling}
    prompt = sampling.pop("prompt", "say it again: say it again: say it")
    settings.pop("prompt", None)
    adapter = AdapterRef(digest) if digest else None
    return Generate(id, adapter=adapter, prompt=prompt, sampling=Sampling(**settings))


def alone(engine: Engine, request: Generate, resume: Resume | None = None) -> Record:
    engine.add(request, resume)
    return drain(engine)[request.id]


@pytest.mark.parametrize("decoder", ["auto", "torch"])
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_every_answer_keeps_to_its_constraint_in_a_mixed_batch(
    make: MakeEngine, digests: list[str], decoder: str, temperature: float
):
    engine = make(decoder=decoder)
    wanted = {f"{n}": CONSTRAINTS[n % len(CONSTRAINTS)] for n in range(21)}
    for n, (id, (constraint, _)) in enumerate(wanted.items()):
        engine.add(ask(id, constraint, digests[n % 3], seed=n, temperature=temperature))
    records = drain(engine)
    for id, (_, holds) in wanted.items():
        assert records[id].finished.reason == "done"
        assert holds(records[id].text), records[id].text


def test_rows_without_a_constraint_do_not_notice_those_that_have_one(make: MakeEngine, digests: list[str]):
    engine = make()
    free = [ask(f"free{n}", None, digest, seed=n, max_tokens=30, logprobs=2) for n, digest in enumerate(digests)]
    expected = [alone(engine, one) for one in free]
    for n in range(8):
        engine.add(ask(f"{n}", CONSTRAINTS[n % len(CONSTRAINTS)][0], digests[n % 3], seed=n))
    for one in free:
        engine.add(one)
    records = drain(engine)
    for one, alike in zip(free, expected, strict=True):
        found = records[one.id]
        assert (found.token_ids, found.logprobs, found.text) == (alike.token_ids, alike.logprobs, alike.text)


@pytest.mark.parametrize("number", range(len(CONSTRAINTS)))
def test_guesses_and_company_change_no_token(make: MakeEngine, digests: list[str], number: int):
    constraint, _ = CONSTRAINTS[number]
    plain = alone(make(speculation=False, prefix_cache="off"), ask("a", constraint, digests[1]))
    engine = make()
    for n in range(5):
        engine.add(ask(f"{n}", CONSTRAINTS[n][0], digests[n % 3], seed=n))
    engine.add(ask("a", constraint, digests[1]))
    assert drain(engine)["a"].token_ids == plain.token_ids


def test_guesses_are_taken_where_the_constraint_allows_them(make: MakeEngine):
    engine = make()
    constraint = Constraint("regex", "(say it again: ){8}")
    record = alone(engine, ask("a", constraint))
    assert record.text == "say it again: " * 8
    assert engine.load.accepted_tokens > 20


@pytest.mark.parametrize("seen", [1, 5, 12])
def test_who_takes_an_answer_over_goes_on_with_the_same_tokens(make: MakeEngine, seen: int):
    engine = make()
    request = ask("a", CONSTRAINTS[0][0])
    whole = alone(engine, request)
    rest = alone(engine, request, Resume(tuple(whole.token_ids[:seen]), whole.num_chars[seen - 1]))
    assert rest.token_ids == whole.token_ids[seen:]
    assert whole.text.endswith(rest.text)


def test_an_answer_whose_last_token_was_told_ends_where_it_is_taken_over(make: MakeEngine):
    engine = make()
    request = ask("a", Constraint("choice", '["yes"]'))
    whole = alone(engine, request)
    rest = alone(engine, request, Resume(tuple(whole.token_ids), len(whole.text)))
    assert (rest.token_ids, rest.finished.reason) == ([], "done")


def test_an_answer_that_is_computed_anew_goes_on_with_the_same_tokens(make: MakeEngine):
    expected = [alone(make(), ask(f"{n}", CONSTRAINTS[0][0], seed=n)).token_ids for n in range(6)]
    engine = make(kv_blocks=8, block_size=16)
    for n in range(6):
        engine.add(ask(f"{n}", CONSTRAINTS[0][0], seed=n))
    records = drain(engine)
    assert engine.load.preempted > 0
    assert [records[f"{n}"].token_ids for n in range(6)] == expected


def test_one_that_is_cut_off_says_so(make: MakeEngine):
    assert alone(make(), ask("a", CONSTRAINTS[0][0], max_tokens=3)).finished.reason == "length"


def test_an_end_comes_also_where_ends_are_ignored_or_too_early(make: MakeEngine):
    record = alone(make(), ask("a", Constraint("choice", '["yes"]'), ignore_eos=True, min_tokens=20))
    assert (record.text, record.finished.reason) == ("yes", "done")


def test_a_constraint_that_leaves_no_token_fails_in_words(make: MakeEngine, monkeypatch: pytest.MonkeyPatch):
    engine = make()
    monkeypatch.setattr(Guide, "_mask", lambda guide: np.zeros(-(-VOCAB // 32), dtype=np.uint32))
    engine.add(ask("stuck", Constraint("choice", '["yes"]')))
    engine.add(ask("free", max_tokens=3))
    records = drain(engine)
    assert records["stuck"].failed.code == "invalid_request"
    assert "allows none" in records["stuck"].failed.error
    assert records["free"].finished


def test_a_constraint_that_cannot_be_kept_fails_in_words(make: MakeEngine):
    engine = make()
    engine.add(ask("bad", Constraint("regex", "(")))
    engine.add(ask("good", max_tokens=3))
    records = drain(engine)
    assert records["bad"].failed.error.startswith("The regular expression cannot be used")
    assert records["good"].finished


def test_a_bias_forbids_and_forces(make: MakeEngine):
    engine = make()
    free = alone(engine, ask("free", temperature=0.0, max_tokens=1, ignore_eos=True)).token_ids[0]
    other = (free + 9) % VOCAB
    without = alone(
        engine, ask("without", temperature=0.0, max_tokens=1, logit_bias=((free, -100.0),), ignore_eos=True)
    )
    forced = alone(engine, ask("forced", max_tokens=3, logit_bias=((other, 100.0),), ignore_eos=True))
    assert without.token_ids != [free]
    assert forced.token_ids == [other] * 3


@pytest.mark.parametrize(
    ("bias", "sentence"),
    [
        (((VOCAB, 1.0),), f"logit_bias has the token {VOCAB}; the last one is {VOCAB - 1}."),
        (((3, 101.0),), "logit_bias has 3: 101.0; it must be a token id and a number from -100 to 100."),
    ],
)
def test_a_bias_of_no_token_or_out_of_bounds_is_refused(make: MakeEngine, bias: tuple[Any, ...], sentence: str):
    assert alone(make(), ask("a", logit_bias=bias)).failed.error == sentence
