from __future__ import annotations

from pathlib import Path

import pytest

from inference.model.tokenizer import Tokenizer
from inference.wire.protocol import Generate, Message, Sampling
from tests.inference.engines import (
    Records,
    assert_nothing_held,
    drain,
    expected_answer,
    make_reading_engine,
    make_tokenizer,
)

HOSTILE = {
    "never ends": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "fills the memory": "{{ 'x' * 10 ** 9 }}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_base_whose_template_takes_too_much_refuses_chats_and_answers_all_else(tmp_path: Path, name: str) -> None:
    engine = make_reading_engine(tmp_path / "base")
    engine.machine.tokenizer = Tokenizer(make_tokenizer(tmp_path / "hostile", HOSTILE[name]))
    engine.add(Generate("running", prompt="tell me", sampling=Sampling(max_tokens=20)))
    records = Records()
    records.take(engine.step())
    for number in range(2):
        engine.add(Generate(f"chat {number}", messages=(Message("user", "hi"),)))
    drain(engine, records)
    for number in range(2):
        failed = records[f"chat {number}"].failed
        assert failed.code == "invalid_request"
        assert failed.error.startswith("The chat template ")
        assert "it takes more than" in failed.error
    assert records["running"].token_ids == expected_answer(engine.machine.tokenizer.encode("tell me"), "", 20)
    assert_nothing_held(engine)
    engine.close()
