"""Adapters with tokens of their own, whose rows they trained: read in prompts and written in answers, as with PEFT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from inference.adapters.file import AdapterRefused
from inference.adapters.identity import composed_digest
from inference.adapters.store import AdapterStore
from inference.engine.engine import Engine
from inference.model.added_tokens import AddedToken
from inference.wire.protocol import AdapterRef, Component, Generate, Sampling
from tests.inference.checkpoints import load_base, load_reference, make_adapter, make_model, publish
from tests.inference.engines import VOCAB, Record, drain, make_config, make_tokenizer

WORD, TURN, STOP = VOCAB, VOCAB + 1, VOCAB + 2
TOKENS = [
    AddedToken(WORD, "<gene>", is_special=False),
    AddedToken(TURN, "<|turn|>"),
    AddedToken(STOP, "[STOP]", ends=True),
]
PROMPT = "<|turn|>the <gene> of a fly"
BIAS = ((STOP, 100.0),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose table has more rows than its tokenizer has tokens."""
    return make_tokenizer(make_model(tmp_path_factory.mktemp("model"), vocab_size=VOCAB + 30, eos_token_id=0))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("var") / "adapters"
    store.mkdir()
    return store


@pytest.fixture(scope="module")
def digests(model: Path, store: Path) -> list[str]:
    """Two adapters, of which the first has tokens of its own."""
    plain = make_adapter(model, store, 1)
    rows = {"embed_tokens": [WORD, TURN, STOP], "lm_head": [STOP]}
    folder = store / make_adapter(model, store, 0, trainable_token_indices=rows)
    config = json.loads((folder / "adapter_config.json").read_text())
    entries = [token.entry() for token in TOKENS]
    (folder / "adapter_config.json").write_text(json.dumps(config | {"added_tokens": entries}))
    return [publish(folder, store), plain]


@pytest.fixture(scope="module", params=["torch", "auto"])
def engine(request: pytest.FixtureRequest, model: Path, store: Path) -> Iterator[Engine]:
    changes: dict[str, Any] = {"decoder": request.param, "dtype": "float32"}
    engine = Engine(make_config(model, store, **changes))
    yield engine
    engine.close()


def answer(engine: Engine, adapter: AdapterRef | None, **sampling: Any) -> Record:
    terms = Sampling(**{"max_tokens": 6, "temperature": 0.0, **sampling})
    engine.add(Generate("a", adapter=adapter, prompt=PROMPT, sampling=terms))
    return drain(engine)["a"]


def ids_of(engine: Engine) -> list[int]:
    """The prompt as its own tokenizer has it."""
    read = engine.machine.tokenizer.encode_text
    return [TURN, *read("the "), WORD, *read(" of a fly")]


def peft_logits(model: Path, folder: Path, token_ids: list[int]) -> Tensor:
    told = PeftModel.from_pretrained(load_reference(model), folder).eval()
    with torch.no_grad():
        logits: Tensor = told(torch.tensor([token_ids])).logits[0]
    return logits


def test_its_tokens_are_read_in_its_prompt_and_answered_as_with_peft(
    engine: Engine, model: Path, store: Path, digests: list[str]
) -> None:
    record = answer(engine, AdapterRef(digests[0]))
    ids = ids_of(engine)
    assert record.finished.stats.prompt_tokens == len(ids)
    logits = peft_logits(model, store / digests[0], ids + record.token_ids[:-1])
    assert record.token_ids == logits[len(ids) - 1 :].argmax(-1).tolist()


def test_its_own_end_ends_its_answer(engine: Engine, digests: list[str]) -> None:
    record = answer(engine, AdapterRef(digests[0]), logit_bias=BIAS)
    assert (record.token_ids, record.text, record.finished.reason) == ([STOP], "", "done")
    put_off = answer(engine, AdapterRef(digests[0]), logit_bias=BIAS, min_tokens=3)
    assert STOP not in put_off.token_ids[:2]


def test_the_base_and_other_adapters_read_the_same_text_as_the_bases_tokens(engine: Engine, digests: list[str]) -> None:
    count = len(engine.machine.tokenizer.encode(PROMPT))
    for adapter in (None, AdapterRef(digests[1])):
        record = answer(engine, adapter)
        assert record.finished.stats.prompt_tokens == count > len(ids_of(engine))
    refused = answer(engine, AdapterRef(digests[1]), logit_bias=BIAS)
    assert refused.failed.error == f"logit_bias has the token {STOP}; the last one is {VOCAB - 1}."


@pytest.mark.parametrize(("order", "is_own"), [([0, 1], True), ([1, 0], False)])
def test_a_sum_reads_as_its_first_part_does(engine: Engine, digests: list[str], order: list[int], is_own: bool) -> None:
    parts = tuple(Component(digests[index], 0.5) for index in order)
    digest = composed_digest((part.digest, part.weight) for part in parts)
    record = answer(engine, AdapterRef(digest, components=parts))
    assert (record.finished.stats.prompt_tokens == len(ids_of(engine))) == is_own


def test_other_tokens_make_another_adapter_and_those_beyond_the_table_are_refused(
    tmp_path: Path, model: Path, store: Path, digests: list[str]
) -> None:
    staging = tmp_path / "staging"
    shutil.copytree(store / digests[0], staging, ignore=shutil.ignore_patterns("mapped*"))
    config = json.loads((staging / "adapter_config.json").read_text())
    beyond = [AddedToken(VOCAB + 30, "<far>").entry(), AddedToken(VOCAB + 31, "<away>").entry()]
    (staging / "adapter_config.json").write_text(json.dumps(config | {"added_tokens": beyond}))
    digest = publish(staging, tmp_path)
    assert digest != digests[0]
    with pytest.raises(AdapterRefused) as caught:
        AdapterStore(tmp_path, load_base(model)).load(digest)
    assert caught.value.reasons == (
        f"2 of its own tokens (added_tokens) have no row in the table of {model.name}, whose last is {VOCAB + 29}: "
        "<far>, <away>.",
    )
