"""Adapters of methods that are expanded to LoRA when they are loaded, beside PEFT, which runs each as it is."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import peft
import pytest
import torch
from peft import AdaLoraConfig, BdLoraConfig, LoraConfig, MissConfig, PeftModel, PeftType, VBLoRAConfig, VeraConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor

from inference.adapters.config import check_config
from inference.adapters.examination import examine_files
from inference.adapters.file import AdapterRefused
from inference.adapters.identity import adapter_digest, composed_digest
from inference.adapters.methods.known import METHODS as SERVED
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.native.library import open_library, units_of
from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from inference.wire.protocol import Component
from tests.inference.adapters.methods import CONFIG, WEIGHTS, Change, change, make_method, save_method
from tests.inference.checkpoints import load_base, load_decoder, load_reference, make_adapter, publish
from tests.inference.passes import Passes, answer

HERE = units_of(open_library(library_path())) if missing_feature() is None else []
NUM_TOKENS, BLOCK_SIZE = 4, 32
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Q = "base_model.model.model.layers.0.self_attn.q_proj"

METHODS: dict[str, Any] = {
    "VeRA": VeraConfig(r=6, target_modules=ALL),
    "MiSS": MissConfig(r=7, target_modules="all-linear", exclude_modules=["k_proj"]),
    "MiSS of one width": MissConfig(r=4, init_weights="mini", mini_r=16, target_modules=["q_proj", "down_proj"]),
    "BD-LoRA": LoraConfig(
        r=8,
        target_modules=ALL,
        rank_pattern={"up_proj": 4},
        alpha_pattern={"q_proj": 5},
        use_bdlora=BdLoraConfig(["o_proj", "down_proj"], ["layers.0.self_attn.q", "up_proj"], 4, match_strict=False),
    ),
    "VB-LoRA": VBLoRAConfig(r=4, num_vectors=11, vector_length=16, topk=3, target_modules=["q_proj", "down_proj"]),
    "VB-LoRA of few shares": VBLoRAConfig(
        r=5, num_vectors=300, vector_length=32, target_modules=ALL, save_only_topk_weights=True
    ),
    "VB-LoRA of one share": VBLoRAConfig(
        r=2, num_vectors=9, vector_length=8, topk=1, target_modules=["v_proj"], save_only_topk_weights=True
    ),
    "AdaLoRA": AdaLoraConfig(
        init_r=6,
        lora_alpha=10,
        total_step=9,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={
            f"model.layers.{layer}.{module}.lora_E": [bool((layer + 2) >> one & 1) for one in range(6)]
            for layer in range(3)
            for module in ("self_attn.q_proj", "mlp.down_proj")
        }
        | {"model.layers.1.self_attn.q_proj.lora_E": [False] * 6},
    ),
    "AdaLoRA of all ranks": AdaLoraConfig(init_r=5, total_step=9, target_modules=ALL[:4]),
    "VeRA of the head": VeraConfig(r=12, target_modules=["v_proj", "lm_head"], layers_to_transform=[0, 2]),
}
PLAIN: list[dict[str, Any]] = [{}, {"use_dora": True, "target_modules": ["o_proj", "up_proj"]}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def digests(tiny_model: Path, store: Path) -> list[str]:
    """One of each method, a LoRA and a DoRA."""
    made = [make_method(tiny_model, store, config, seed) for seed, config in enumerate(METHODS.values())]
    return made + [make_adapter(tiny_model, store, 100 + seed, **options) for seed, options in enumerate(PLAIN)]


def make_decoder(model: Path, unit: str) -> Any:
    """The torch decoder, or the native one on a `unit`."""
    if unit == "torch":
        return load_decoder(model)
    architecture = read_architecture(model / "config.json").within(128)
    weights = load_weights(model, architecture, torch.float32)
    return NativeDecoder(architecture, weights, NativeBank(32), library_path(), BLOCK_SIZE, 1, unit)


def load_cache(decoder: Any, model: Path, store: Path, max_rank: int = 64) -> AdapterCache:
    base = replace(load_base(model), is_packed=decoder.bank.is_packed)
    return AdapterCache(AdapterStore(store, base, max_rank).load, 2**30, max_rank, decoder.bank.prepare)


def passes_of(decoder: Any) -> Passes:
    return Passes(decoder, block_size=BLOCK_SIZE, dtype=torch.float32)


def prompts(count: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(3)
    return [torch.randint(0, 131, (20 + 3 * index,), generator=random).tolist() for index in range(count)]


def peft_logits(model: Path, adapter: Path | None, token_ids: list[int]) -> Tensor:
    """What PEFT says after each of `token_ids`, or the base where there is no adapter."""
    base: Any = load_reference(model)
    told = PeftModel.from_pretrained(base, adapter).eval() if adapter else base
    with torch.no_grad():
        logits: Tensor = told(torch.tensor([token_ids])).logits[0]
    return logits


@pytest.mark.parametrize("unit", ["torch", *HERE[:1]])
def test_every_method_answers_as_with_peft_beside_lora_dora_and_the_base(
    tiny_model: Path, store: Path, digests: list[str], unit: str
) -> None:
    decoder = make_decoder(tiny_model, unit)
    slots = LoraSlots(32, load_cache(decoder, tiny_model, store).load, decoder.bank)
    rows = [-1, *(slots.acquire(digest) for digest in digests), -1]
    texts = prompts(len(rows))
    logits, replies = answer(passes_of(decoder), texts, rows, NUM_TOKENS)  # type: ignore[arg-type]
    base = [peft_logits(tiny_model, None, text) for text in texts]
    for row, digest in enumerate(["", *digests, ""]):
        told = peft_logits(tiny_model, store / digest if digest else None, texts[row] + replies[row][:-1])
        expected = told[len(texts[row]) - 1 :]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-5)
        assert replies[row] == expected.argmax(-1).tolist()
        assert not digest or (told[: len(texts[row])] - base[row]).abs().max() > 0.1


def test_methods_are_added_up_with_others(tiny_model: Path, store: Path, digests: list[str]) -> None:
    decoder = make_decoder(tiny_model, "torch")
    cache = load_cache(decoder, tiny_model, store)
    plain = digests[len(METHODS)]
    for digest in digests[: len(METHODS)]:
        components = (Component(digest, 0.5), Component(plain, 1.0))
        total = cache.load(composed_digest((one.digest, one.weight) for one in components), components)
        assert total.rank == cache.load(digest).rank + 8


@pytest.mark.parametrize("name", METHODS)
def test_the_site_says_the_rank_that_a_method_is_expanded_to(tiny_model: Path, tmp_path: Path, name: str) -> None:
    digest = make_method(tiny_model, tmp_path, METHODS[name])
    folder, architecture = tmp_path / digest, read_architecture(tiny_model / "config.json")
    found = examine_files(folder / CONFIG, folder / WEIGHTS, architecture, 64)
    assert found.reasons == []
    assert found.meaning is not None
    assert AdapterStore(tmp_path, load_base(tiny_model)).load(digest).rank == found.meaning.r
    assert examine_files(folder / CONFIG, folder / WEIGHTS, None, 64).reasons == []


def test_a_digest_is_of_the_method_its_numbers_and_its_files(tiny_model: Path, tmp_path: Path) -> None:
    folder = save_method(tiny_model, tmp_path / "staging", METHODS["VeRA"])
    config = {"peft_type": "VERA", "r": 6}
    digest = adapter_digest(config, folder / WEIGHTS)
    assert adapter_digest(config | {"base_model_name_or_path": "x", "vera_dropout": 0.5}, folder / WEIGHTS) == digest
    assert adapter_digest(config | {"peft_type": "LORA"}, folder / WEIGHTS) != digest
    change(folder, lambda config, tensors: tensors["base_model.vera_A"].add_(1e-3))
    assert adapter_digest(config, folder / WEIGHTS) != digest


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["torch", *HERE])
def test_a_rank_of_256_is_served_where_max_rank_lets_it(tiny_model: Path, tmp_path: Path, unit: str) -> None:
    digest = make_method(tiny_model, tmp_path, VeraConfig(target_modules=["q_proj", "down_proj"]), size=0.1)
    decoder = make_decoder(tiny_model, unit)
    with pytest.raises(AdapterRefused, match="raise MAX_RANK to 256 for the site and the workers"):
        load_cache(decoder, tiny_model, tmp_path).load(digest)
    slots = LoraSlots(2, load_cache(decoder, tiny_model, tmp_path, 256).load, decoder.bank)
    (text,) = prompts(1)
    rows = [slots.acquire(digest), -1]
    logits, replies = answer(passes_of(decoder), [text] * 2, rows, NUM_TOKENS)  # type: ignore[arg-type]
    for row, folder in enumerate([tmp_path / digest, None]):
        expected = peft_logits(tiny_model, folder, text + replies[row][:-1])[len(text) - 1 :]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-5)


VERA_A = "base_model.vera_A"
REFUSALS: list[tuple[str, Change, str]] = [
    (
        "VeRA",
        lambda config, tensors: config.update(r=65),
        "expanded to a LoRA of rank 65 when it is loaded, and up to 64",
    ),
    ("VeRA", lambda config, tensors: config.update(r=600), "MAX_RANK may be raised to 512 at most; train a lower rank"),
    ("VeRA", lambda config, tensors: config.update(r="6"), 'r is "6"; it must be a whole number of at least 1'),
    ("VeRA", lambda config, tensors: config.update(r=5), "vera_A is 6×96, and adapter_config.json means 5×any"),
    (
        "VeRA",
        lambda config, tensors: config.update(save_projection=False),
        "save_projection is false: vera_A and vera_B",
    ),
    ("VeRA", lambda config, tensors: config.update(use_dora=True), 'keys that nobody here knows: "use_dora": true'),
    ("VeRA", lambda config, tensors: config.update(bias="lora_only"), 'bias is "lora_only"; PEFT knows none and all'),
    ("VeRA", lambda config, tensors: config.update(peft_type="LORA", lora_alpha=8), "is no tensor of a LoRA, which"),
    ("VeRA", lambda config, tensors: tensors.pop(VERA_A), "A tensor of all modules is missing: base_model.vera_A"),
    ("VeRA", lambda config, tensors: tensors.pop(f"{Q}.vera_lambda_d"), "vera_lambda_d is missing: model.layers.0"),
    (
        "VeRA",
        lambda config, tensors: tensors.update({f"{Q}.lora_A.weight": torch.zeros(6, 64)}),
        "lora_A is no tensor of VeRA with this config: model.layers.0.self_attn.q_proj",
    ),
    (
        "VeRA",
        lambda config, tensors: tensors.update({f"{Q}.vera_lambda_b": torch.zeros(65)}),
        "vera_lambda_b is 65, which for {name} is 64: model.layers.0.self_attn.q_proj",
    ),
    (
        "VeRA",
        lambda config, tensors: tensors.update({f"{Q}.vera_lambda_b": torch.zeros(0)}),
        "vera_lambda_b is 0, and adapter_config.json means any",
    ),
    (
        "VeRA",
        lambda config, tensors: tensors.update({VERA_A: torch.zeros(6, 95)}),
        "vera_A is 6×95, where modules of {name} need: 6×96",
    ),
    (
        "VeRA",
        lambda config, tensors: tensors.update({VERA_A: torch.full((6, 96), torch.nan)}),
        "hold NaN or infinity, read as float32: base_model.vera_A",
    ),
    (
        "VeRA",
        lambda config, tensors: tensors.update(
            {"base_model.model.model.layers.9.mlp.up_proj.vera_lambda_b": torch.ones(96)}
        ),
        "{name} has no such module: model.layers.9.mlp.up_proj",
    ),
]


E = "model.layers.1.self_attn.q_proj.lora_E"


def left(ranks: dict[str, Any]) -> Change:
    return lambda config, tensors: config["rank_pattern"].update(ranks)


REFUSALS += [
    ("AdaLoRA", lambda config, tensors: config.update(init_r=0), "init_r is 0; it must be a whole number from 1 to"),
    ("AdaLoRA", lambda config, tensors: config.update(lora_alpha="1"), 'lora_alpha is "1"; it must be a number'),
    (
        "AdaLoRA",
        lambda config, tensors: config["rank_pattern"].update({E: 3}),
        "has a list of true and false for each …",
    ),
    (
        "AdaLoRA",
        lambda config, tensors: config["rank_pattern"].update({E: [True]}),
        "lora_A is 0×64, and adapter_config",
    ),
    (
        "AdaLoRA",
        lambda config, tensors: config["rank_pattern"].update(q_proj=[True]),
        'rank_pattern of "q_proj" is [true]',
    ),
    (
        "AdaLoRA",
        lambda config, tensors: config["rank_pattern"].pop(E),
        "rank_pattern does not say that fewer than 6 ranks",
    ),
    (
        "AdaLoRA",
        lambda config, tensors: config["rank_pattern"].update({E: [True] * 65}),
        "Of the ranks that were left, r is 65: AdaLoRA is expanded to a LoRA of rank 65",
    ),
]
BANK = "base_model.vblora_vector_bank"
INDICES = "base_model.model.model.layers.0.self_attn.v_proj.vblora_logits_A_topk_indices"
LORA_B = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"


def bd(**told: Any) -> Change:
    return lambda config, tensors: config["use_bdlora"].update(told)


REFUSALS += [
    ("MiSS", lambda config, tensors: config.update(r=65), "MiSS is expanded to a LoRA of rank 65"),
    ("MiSS", lambda config, tensors: config.update(r=8), "miss_block is 7×64, and adapter_config.json means 8×any"),
    (
        "MiSS",
        lambda config, tensors: config.update(init_weights="bat"),
        "multiplies the base's weights, so it is no LoRA",
    ),
    ("MiSS", lambda config, tensors: config.update(init_weights="olora"), 'init_weights is "olora"; PEFT knows'),
    ("MiSS", lambda config, tensors: config.update(mini_r=16, init_weights="mini"), "adapter_config.json means 7×16"),
    (
        "MiSS",
        lambda config, tensors: tensors.update({f"{Q}.miss_block": torch.zeros(7, 63)}),
        "miss_block is 7×63, which for {name} is 7×64",
    ),
    (
        "MiSS of one width",
        lambda config, tensors: config.update(mini_r=0),
        "mini_r is 0; it must be a whole number from 1 to",
    ),
    (
        "MiSS of one width",
        lambda config, tensors: (config.update(mini_r=15), tensors.update({f"{Q}.miss_block": torch.zeros(4, 15)})),
        "mini_r is 15, which does not divide the 64 outputs of {name}",
    ),
    ("BD-LoRA", bd(nblocks=3), "nblocks of use_bdlora is 3; it must be a whole number that divides r, which is 8"),
    ("BD-LoRA", bd(nblocks=2), "lora_B is 64×2, and adapter_config.json means any×4"),
    ("BD-LoRA", bd(target_modules_bd_a="o_proj"), 'target_modules_bd_a of use_bdlora is "o_proj"; it must list'),
    ("BD-LoRA", bd(target_modules_bd_a=["proj"]), "use_bdlora means blocks in A and in B of one module"),
    ("BD-LoRA", bd(twist=1), 'use_bdlora has the key "twist", which nobody here knows'),
    ("BD-LoRA", lambda config, tensors: config.update(use_bdlora=[1]), "use_bdlora is [1]; PEFT writes an object"),
    ("BD-LoRA", lambda config, tensors: config.update(use_dora=True), "use_bdlora comes with use_dora"),
    ("BD-LoRA", lambda config, tensors: config.update(use_bdlora=None), "lora_A has rank 8 but lora_B has rank 2"),
    (
        "BD-LoRA",
        lambda config, tensors: tensors.update({LORA_B: torch.zeros(95, 1)}),
        "lora_B is 95×1, which for {name} is 96×1",
    ),
    ("VB-LoRA", lambda config, tensors: config.update(topk=12), "topk is 12, more than the 11 vectors (num_vectors)"),
    ("VB-LoRA", lambda config, tensors: config.update(topk=65), "topk is 65; it must be a whole number from 1 to 64"),
    ("VB-LoRA", lambda config, tensors: config.update(num_vectors=12), "vblora_vector_bank is 11×16, and adapter_conf"),
    ("VB-LoRA", lambda config, tensors: config.update(num_vectors=2**40), "num_vectors is 1099511627776; it must be"),
    (
        "VB-LoRA",
        lambda config, tensors: config.update(save_only_topk_weights=True),
        "vblora_logits_A_topk_indices is mis",
    ),
    ("VB-LoRA", lambda config, tensors: tensors.pop(BANK), f"A tensor of all modules is missing: {BANK}"),
    (
        "VB-LoRA",
        lambda config, tensors: (config.update(vector_length=15), tensors.update({BANK: torch.zeros(11, 15)})),
        "vector_length is 15, which does not divide the widths 64 and 64 of {name}",
    ),
    (
        "VB-LoRA of one share",
        lambda config, tensors: tensors.update({INDICES: torch.full((2, 8, 1), 9, dtype=torch.uint8)}),
        f"These tensors point at vectors that the bank does not have: {INDICES}",
    ),
    (
        "VB-LoRA of one share",
        lambda config, tensors: tensors.update({INDICES: torch.full((2, 8, 1), -1, dtype=torch.int64)}),
        f"These tensors point at vectors that the bank does not have: {INDICES}",
    ),
]


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound adapter of each method that is damaged below."""
    directory = tmp_path_factory.mktemp("sound")
    return {name: save_method(tiny_model, directory / name, METHODS[name]) for name in {name for name, *_ in REFUSALS}}


@pytest.mark.parametrize(("name", "edit", "sentence"), REFUSALS, ids=[f"{name}: {told}" for name, _, told in REFUSALS])
def test_damaged_adapters_of_a_method_are_refused_alike_by_site_and_worker(
    tiny_model: Path, tmp_path: Path, saved: dict[str, Path], name: str, edit: Change, sentence: str
) -> None:
    staging = shutil.copytree(saved[name], tmp_path / "staging")
    change(staging, edit)
    found = examine_files(staging / CONFIG, staging / WEIGHTS, read_architecture(tiny_model / "config.json"), 64)
    assert sentence.format(name=tiny_model.name) in " ".join(found.reasons)
    with pytest.raises(AdapterRefused) as caught:
        AdapterStore(tmp_path, load_base(tiny_model)).load(publish(staging, tmp_path))
    assert list(caught.value.reasons) == found.reasons


def test_indices_that_are_no_whole_numbers_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = save_method(tiny_model, tmp_path / "staging", METHODS["VB-LoRA of one share"])
    change(folder, lambda config, tensors: tensors.update({INDICES: torch.zeros(2, 8, 1)}))
    (reason,) = examine_files(
        folder / CONFIG, folder / WEIGHTS, read_architecture(tiny_model / "config.json"), 64
    ).reasons
    assert "has type 'F32'; allowed are U8, I16, I32, I64" in reason


def save_multilora(model: Path, directory: Path) -> dict[str, Tensor]:
    """Save three LoRAs of rank 4 side by side on q_proj and down_proj, and give what they add to each weight."""
    random, architecture = torch.Generator().manual_seed(2), read_architecture(model / "config.json")
    tensors, changes = {}, {}
    for target in ("q_proj", "down_proj"):
        inputs, outputs = architecture.target_shape(target)
        for module in (architecture.module_name(target, layer) for layer in range(3)):
            a, b, s = (
                torch.randn(*shape, generator=random) for shape in ((3, 4, inputs), (3, outputs, 4), (3, outputs))
            )
            tensors |= {f"{module}.lora_A": a, f"{module}.lora_B": b, f"{module}.lora_scaling": 0.1 * s}
            parts = [torch.diag(0.1 * s[part]) @ b[part] @ a[part] for part in range(3)]
            changes[module] = 1.5 * torch.stack(parts).sum(0)
    directory.mkdir()
    save_file(tensors, directory / WEIGHTS)
    config = {
        "peft_type": "MULTILORA",
        "r": 4,
        "lora_alpha": 6,
        "lora_num": 3,
        "target_modules": ["q_proj", "down_proj"],
    }
    (directory / CONFIG).write_text(json.dumps(config))
    return changes


def test_loras_side_by_side_answer_as_the_weights_that_they_add_up_to(tiny_model: Path, tmp_path: Path) -> None:
    changes = save_multilora(tiny_model, tmp_path / "staging")
    digest = publish(tmp_path / "staging", tmp_path)
    decoder = make_decoder(tiny_model, "torch")
    cache = load_cache(decoder, tiny_model, tmp_path)
    assert cache.load(digest).rank == 12
    slots = LoraSlots(2, cache.load, decoder.bank)
    (text,) = prompts(1)
    logits, replies = answer(passes_of(decoder), [text], [slots.acquire(digest) or 0], NUM_TOKENS)
    reference: Any = load_reference(tiny_model)
    with torch.no_grad():
        for module, change_of in changes.items():
            reference.get_submodule(module).weight += change_of
        expected = reference(torch.tensor([text + replies[0][:-1]])).logits[0, len(text) - 1 :]
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=1e-5)
    assert (expected - peft_logits(tiny_model, None, text + replies[0][:-1])[len(text) - 1 :]).abs().max() > 0.1


MULTI: list[tuple[Change, str]] = [
    (
        lambda config, tensors: config.update(lora_num=17),
        "r is 4, 17 times: MultiLoRA is expanded to a LoRA of",
    ),
    (lambda config, tensors: config.update(lora_num=None), "lora_num is null; it must be a whole number from 1 to 512"),
    (lambda config, tensors: config.update(lora_num=2), "lora_A is 3×4×96, and adapter_config.json means 2×4×any"),
    (lambda config, tensors: config.update(lora_alpha=-1), "lora_alpha is -1; it must be a positive number"),
    (lambda config, tensors: config.update(peft_type="LORA", lora_num=None), "lora_scaling is no tensor of a LoRA"),
]


@pytest.mark.parametrize(("edit", "sentence"), MULTI, ids=[sentence for _, sentence in MULTI])
def test_damaged_loras_side_by_side_are_refused(tiny_model: Path, tmp_path: Path, edit: Change, sentence: str) -> None:
    save_multilora(tiny_model, tmp_path / "staging")
    change(tmp_path / "staging", edit)
    files = tmp_path / "staging" / CONFIG, tmp_path / "staging" / WEIGHTS
    assert sentence in " ".join(examine_files(*files, read_architecture(tiny_model / "config.json"), 64).reasons)


def can_be_converted(peft_type: PeftType) -> bool:
    """Whether PEFT itself makes a LoRA of such an adapter."""
    room = PEFT_TYPE_TO_TUNER_MAPPING[peft_type].__module__.rpartition(".")[0]
    if importlib.util.find_spec(f"{room}.layer") is None:
        return False
    kinds = inspect.getmembers(importlib.import_module(f"{room}.layer"), inspect.isclass)
    linears = [kind for name, kind in kinds if "Linear" in name and issubclass(kind, BaseTunerLayer)]
    return any(kind.supports_lora_conversion(MagicMock()) for kind in linears)


@pytest.mark.parametrize("peft_type", sorted({kind.value for kind in PEFT_TYPE_TO_TUNER_MAPPING} - {"LORA", *SERVED}))
def test_other_methods_are_refused_with_pefts_conversion_where_there_is_one(peft_type: str) -> None:
    reasons = check_config({"peft_type": peft_type, "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}, 64)[1]
    told = next(reason for reason in reasons if reason.startswith(f'peft_type is "{peft_type}"; '))
    assert ("peft.save_as_lora" in told) is can_be_converted(PeftType(peft_type))
    assert ("is lost" in told) is ("save_as_lora" in told)
    assert callable(peft.save_as_lora)
