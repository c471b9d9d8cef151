"""Adapters on every linear of every family: in one batch with each other and the base, against PEFT alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load_base, load_reference, make_adapter
from passes import Passes, answer
from peft import PeftModel
from torch import Tensor

from inference.adapters.file import AdapterRefused
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.model.spec import EMBEDDING, HEAD, TARGETS
from tests.inference.adapter_tensors import FUSED, renamed, split
from tests.inference.families import EACH, VARIANTS, load_family, make_family

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_TOKENS = 4
KNOWN_TO_PEFT = ("llama, biases", "qwen2", "qwen3", "phi", "gemma, biases, untied", "gemma2, low caps", "gemma3")
"""Whose targets PEFT chooses by itself."""


def linears(model: Path) -> list[str]:
    """What the linears of a layer are called."""
    modules = load_reference(model).named_modules()
    return sorted({name.rpartition(".")[2] for name, module in modules if type(module) is torch.nn.Linear} - {HEAD})


def prompts(count: int) -> list[list[int]]:
    """One of each length from 20 up, so that tiles are whole and broken."""
    random = torch.Generator().manual_seed(3)
    return [torch.randint(0, 131, (20 + 5 * index,), generator=random).tolist() for index in range(count)]


def answered(model: Path, store: Path, digests: list[str]) -> tuple[list[list[int]], Tensor, list[list[int]]]:
    """Prompts, logits and answers of one batch: the base first and last, between them the adapters."""
    decoder = load_family(model)
    slots = LoraSlots(32, AdapterStore(store, load_base(model)).load, decoder.bank)
    rows = [-1, *(slots.acquire(digest) for digest in digests), -1]
    texts = prompts(len(rows))
    return texts, *answer(Passes(decoder), texts, rows, NUM_TOKENS)  # type: ignore[arg-type]


def expect_peft(model: Path, store: Path, digests: list[str]) -> None:
    """Each answer has the logits and the tokens of PEFT's own."""
    texts, logits, replies = answered(model, store, digests)
    for row, digest in enumerate(["", *digests, ""]):
        base = load_reference(model)
        told = PeftModel.from_pretrained(base, store / digest).eval() if digest else base
        with torch.no_grad():
            ids = torch.tensor([texts[row] + replies[row][:-1]])
            expected = told(ids).logits[0, len(texts[row]) - 1 :]
        torch.testing.assert_close(logits[row], expected, atol=2e-4, rtol=0)
        assert replies[row] == expected.argmax(-1).tolist()


@pytest.mark.cell("adapters", "torch")
@pytest.mark.parametrize("variant", EACH)
def test_adapters_on_all_linears_and_tables_equal_peft(tmp_path: Path, store: Path, variant: str) -> None:
    model = make_family(tmp_path / "model", variant)
    names = linears(model)
    options: list[dict[str, Any]] = [
        {"target_modules": "all-linear"},
        {"target_modules": [*names, EMBEDDING, HEAD], "use_dora": True, "rank_pattern": {names[0]: 3}},
        {"target_modules": names[:1], "trainable_token_indices": list(range(0, 131, 3))},
    ]
    expect_peft(model, store, [make_adapter(model, store, seed, 0.1, **told) for seed, told in enumerate(options)])


@pytest.mark.cell("alone", "torch")
@pytest.mark.slow
@pytest.mark.parametrize("variant", EACH)
def test_an_adapter_on_each_linear_alone_equals_peft(tmp_path: Path, store: Path, variant: str) -> None:
    model = make_family(tmp_path / "model", variant)
    targets = [[name] for name in [*linears(model), EMBEDDING, HEAD]]
    chosen: list[Any] = [*targets, *([None] if variant in KNOWN_TO_PEFT else [])]
    digests = [make_adapter(model, store, seed, target_modules=names) for seed, names in enumerate(chosen)]
    expect_peft(model, store, digests)


@pytest.mark.parametrize("variant", ["phi3, short context", "glm4"])
@pytest.mark.parametrize("use_dora", [False, True], ids=["LoRA", "DoRA"])
def test_a_fused_linears_parts_may_have_adapters_of_their_own(
    tmp_path: Path, store: Path, variant: str, use_dora: bool
) -> None:
    model = make_family(tmp_path / "model", variant)
    digest = make_adapter(model, store, 0, 0.1, target_modules="all-linear", use_dora=use_dora)
    apart = split(store / digest, model, store)
    assert apart != digest
    texts, logits, _ = answered(model, store, [digest])
    _, by_parts, _ = answered(model, store, [apart])
    torch.testing.assert_close(by_parts, logits, atol=1e-5, rtol=0)
    assert len(texts) == 3


def test_a_fused_linear_and_its_part_are_not_adapted_at_once(tmp_path: Path, store: Path) -> None:
    model = make_family(tmp_path / "model", "phi3")
    digest = make_adapter(model, store, 0, target_modules=["qkv_proj", "o_proj"])
    both = split(store / digest, model, store, keep_fused=True)
    with pytest.raises(
        AdapterRefused,
        match=r"Two modules are the same outputs of model: .*\.q_proj, .*\.qkv_proj",
    ):
        answered(model, store, [both])


def test_fused_names_on_a_base_without_them_are_refused_with_the_base(tmp_path: Path, store: Path) -> None:
    phi3, llama = (make_family(tmp_path / kind, kind) for kind in ("phi3", "llama"))
    digest = make_adapter(phi3, store, 0, target_modules=["qkv_proj"])
    with pytest.raises(AdapterRefused, match=r"llama has no such module: model\.layers\.0\.self_attn\.qkv_proj"):
        answered(llama, store, [digest])


def test_an_adapter_of_a_gate_is_refused_where_the_base_has_none(tmp_path: Path, store: Path) -> None:
    phi, llama = (make_family(tmp_path / kind, kind) for kind in ("phi", "llama"))
    digest = make_adapter(llama, store, 0, target_modules=list(TARGETS))
    with pytest.raises(AdapterRefused, match=r"phi has no such module: .*gate_proj"):
        answered(phi, store, [digest])


def test_a_language_model_within_one_for_pictures_takes_its_adapters_names(tmp_path: Path, store: Path) -> None:
    model = make_family(tmp_path / "model", "gemma3")
    digest = make_adapter(model, store, 0, target_modules=["q_proj", "down_proj"])
    within = renamed(store / digest, store, lambda name: name.replace("model.layers", "model.language_model.layers"))
    _, logits, _ = answered(model, store, [digest])
    _, others, _ = answered(model, store, [within])
    assert torch.equal(logits, others)


def test_every_family_that_fuses_is_told_apart_here() -> None:
    assert {VARIANTS[variant][0] for variant in ("phi3", "glm", "glm4")} == FUSED
