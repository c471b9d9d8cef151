from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.config import ConfigError
from inference.engine.defaults import fill, filled, read_defaults
from inference.engine.engine import Engine
from inference.wire.protocol import AdapterRef, Generate, Probe, Sampling, decode, encode
from tests.inference.engines import drain, expected_answer, make_reading_engine

OWN = {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05}
OPEN = ("temperature", "top_p", "top_k", "repetition_penalty")


def ask(**sampling: Any) -> Generate:
    return Generate("a", prompt="tell me", sampling=Sampling(**{"max_tokens": 20, **sampling}))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_reading_engine(tmp_path)
    yield engine
    engine.close()


def test_what_is_left_open_is_as_the_base_has_it() -> None:
    request = fill(ask(unset=OPEN), OWN)
    assert isinstance(request, Generate)
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.top_p) == (0.7, 20, 1.0)
    assert filled(request) == OWN


def test_what_is_said_stands() -> None:
    request = fill(ask(temperature=0.2, unset=("top_k",)), OWN)
    assert filled(request) == {"top_k": 20}
    assert request.sampling.temperature == 0.2  # type: ignore[union-attr]


def test_a_greedy_answer_takes_the_penalty_alone() -> None:
    assert filled(fill(ask(unset=("top_k", "repetition_penalty")), OWN)) == {"repetition_penalty": 1.05}


def test_without_defaults_and_for_a_probe_nothing_changes() -> None:
    assert filled(fill(ask(unset=OPEN), {})) == {}
    probe = Probe("p", AdapterRef("a"))
    assert fill(probe, OWN) is probe
    assert filled(probe) == {}


def test_a_value_that_cannot_be_meant_stops_the_worker(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_p": 7}))
    with pytest.raises(ConfigError, match=r"generation_config\.json cannot be followed: top_p is 7; .*greedy"):
        read_defaults(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"num_beams": 2}))
    with pytest.raises(ConfigError, match="num_beams=2"):
        read_defaults(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert read_defaults(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in ("0.7", True, -1, float("nan"), float("inf"), [0.7])),
        *(("top_p", value) for value in ("0.9", 0, 1.5, float("nan"), {})),
        *(("top_k", value) for value in ("20", 2.5, -1, True)),
        *(("min_p", value) for value in ("0.1", 1.5, -0.1)),
        *(("typical_p", value) for value in ("1", 0, 1.5)),
        *(("repetition_penalty", value) for value in ("1.1", 0, -1.0, float("nan"), False)),
    ],
)
def test_each_value_is_of_its_kind_and_within_its_bounds(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True, name: value}))
    with pytest.raises(ConfigError, match=rf"generation_config\.json cannot be followed: {name} is .*; .*greedy"):
        read_defaults(tmp_path)


def test_the_answer_tells_what_stood_in_and_is_the_one_that_says_it_all(engine: Engine) -> None:
    engine.machine.default_sampling = {"temperature": 30.0}
    engine.add(ask(seed=5, unset=OPEN))
    drawn = drain(engine)["a"]
    assert drawn.finished.stats.defaults == {"temperature": 30.0}
    assert decode(encode(drawn.finished)).stats.defaults == {"temperature": 30.0}
    engine.add(ask(seed=5, temperature=30.0))
    said = drain(engine)["a"]
    assert said.token_ids == drawn.token_ids
    assert said.finished.stats.defaults == {}
    assert said.token_ids != expected_answer(engine.machine.tokenizer.encode("tell me"), "", 20)


def test_a_string_of_the_bases_ends_an_answer_unless_ends_are_ignored(engine: Engine) -> None:
    engine.add(ask())
    whole = drain(engine)["a"].text
    engine.machine.tokenizer.end_strings = (whole[3:5],)
    engine.add(ask())
    cut = drain(engine)["a"]
    assert cut.text == whole[: whole.index(whole[3:5])]
    assert cut.finished.reason == "done"
    engine.add(ask(ignore_eos=True))
    assert drain(engine)["a"].text.startswith(whole[:5])


def test_any_of_several_tokens_ends_an_answer(engine: Engine) -> None:
    prompt = engine.machine.tokenizer.encode("tell me")
    third = expected_answer(prompt, "", 20)[2]
    engine.machine.tokenizer.eos_ids |= {third}
    engine.add(ask())
    record = drain(engine)["a"]
    assert record.token_ids[-1] == third
    assert record.finished.reason == "done"
