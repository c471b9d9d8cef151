"""What the loader refuses, one by one, and how adapters move between disk, host and device."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load_base, make_adapter, publish
from safetensors.torch import load_file, save_file

from inference.adapters.file import AdapterRefused, HostAdapter
from inference.adapters.identity import adapter_digest
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterNotFound, AdapterStore
from inference.adapters.weights import TargetWeights
from inference.decoders.torch.lora import LoraBank

RUNAWAY = "".join(rf"(.*)\{n}*" for n in range(1, 9)) + "[!?]"
"""A pattern that would try for years to match the name of a module."""
Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def sound(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter with nothing wrong."""
    directory = tmp_path_factory.mktemp("sound")
    return directory / make_adapter(tiny_model, directory, r=8)


@pytest.fixture
def adapters(tiny_model: Path, store: Path) -> AdapterStore:
    return AdapterStore(store, load_base(tiny_model))


def damage(
    sound: Path,
    store: Path,
    config: dict[str, Any] | None = None,
    tensors: Callable[[Tensors], Any] | None = None,
) -> str:
    """A copy of `sound` with other fields in its config and its tensors changed in place; its digest."""
    staging = store / "staging"
    shutil.copytree(sound, staging)
    path = staging / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    if tensors:
        weights = load_file(staging / "adapter_model.safetensors")
        tensors(weights)
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()}, staging / "adapter_model.safetensors"
        )
    return publish(staging, store)


def refusal(adapters: AdapterStore, digest: str) -> str:
    with pytest.raises(AdapterRefused) as caught:
        adapters.load(digest)
    return "\n".join(caught.value.reasons)


def test_a_sound_adapter_is_loaded_with_its_scaling_in_b(sound: Path, store: Path, adapters: AdapterStore) -> None:
    digest = damage(sound, store)
    adapter = adapters.load(digest)
    tensors = load_file(sound / "adapter_model.safetensors")
    pair = adapter.weights["q_proj"]
    assert (adapter.digest, adapter.rank, sorted(adapter.weights)) == (digest, 8, ["q_proj", "v_proj"])
    assert torch.equal(pair.a[0], tensors[Q0.format("A")].T)
    assert torch.equal(pair.b[0], tensors[Q0.format("B")].T * 2)
    assert adapter.num_bytes == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("use_dora", True, "use_dora is set, but lora_magnitude_vector is missing: model.layers.0.self_attn.q_proj"),
        ("ensure_weight_tying", True, "ensure_weight_tying"),
        ("modules_to_save", ["score"], "carries whole modules (modules_to_save: score)"),
        ("bias", "some", 'bias is "some"'),
        ("layer_replication", [[0, 2], [1, 3]], "layer_replication"),
        ("lora_bias", True, "lora_bias"),
        ("trainable_token_indices", [1, 2], "names a table whose rows are not in the file: embed_tokens"),
        ("megatron_config", {"a": 1}, "Megatron's parallel layers"),
        ("target_parameters", ["experts.up"], "target_parameters"),
        ("use_qalora", True, "QA-LoRA"),
        ("alora_invocation_tokens", "assistant", "must be a list of the ids of the tokens that invoke"),
        ("alora_invocation_tokens", [5, -1], "must be a list of the ids"),
        ("alora_invocation_tokens", [5, True], "must be a list of the ids"),
        ("alora_invocation_tokens", [5] * 257, "has 257 tokens; at most 256"),
        ("peft_type", "LOHA", 'peft_type is "LOHA"'),
        ("init_lora_weights", "pissa", 'init_lora_weights is "pissa"'),
        ("a_new_trick", True, 'keys that nobody here knows: "a_new_trick": true'),
        ("r", 0, "r is 0"),
        ("r", "8", 'r is "8"'),
        ("r", True, "r is true"),
        ("r", 65, "r is 65; it must be a whole number from 1 to 64"),
        ("r", 16, "The rank is 8 but adapter_config.json says 16: model.layers.0.self_attn.q_proj"),
        (
            "rank_pattern",
            {"q_proj": 4},
            "The rank is 8 but adapter_config.json says 4: model.layers.0.self_attn.q_proj",
        ),
        ("rank_pattern", {"q_proj": 128}, "must hold numbers from 1 to 64"),
        ("rank_pattern", {f"layers.{n}.q_proj": 8 for n in range(30_000)}, "30000 keys; at most 2000 are read"),
        ("rank_pattern", ["q_proj"], "must be an object of module names and numbers"),
        ("rank_pattern", {RUNAWAY: 8}, "takes too long"),
        ("alpha_pattern", {"q_proj": "many"}, "must hold positive numbers"),
        ("alpha_pattern", {"(": 8}, "is no regular expression"),
        ("lora_alpha", float("nan"), "NaN is not a number in JSON"),
        ("lora_alpha", None, "lora_alpha is null"),
        ("lora_alpha", 10**400, "it must be a positive number"),
        ("target_modules", [1, {}], "must list the modules"),
        ("target_modules", ["q_proj", "v_proj", "k_proj"], "target_modules names modules without any tensor: k_proj"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(
    sound: Path, store: Path, adapters: AdapterStore, field: str, value: Any, named: str
) -> None:
    assert named in refusal(adapters, damage(sound, store, {field: value}))


def replace(name: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, tensor)


def rename(old: str, new: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(new, tensors.pop(old))


NOT_FINITE = torch.zeros(8, 64).index_fill_(0, torch.tensor([3]), float("nan"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replace(Q0.format("A"), torch.zeros(8, 65)), "lora_A has 65 inputs where "),
        (replace(Q0.format("B"), torch.zeros(63, 8)), "lora_B has 63 outputs where "),
        (replace(Q0.format("A"), torch.zeros(8)), "lora_A is 8 and lora_B is 64×8, but both must be matrices"),
        (replace(Q0.format("B"), torch.zeros(64, 4)), "lora_A has rank 8 but lora_B has rank 4"),
        (replace(Q0.format("A"), NOT_FINITE), "These tensors hold NaN or infinity, read as float32: "),
        (
            replace(Q0.format("B"), torch.full((64, 8), torch.inf)),
            "These tensors hold NaN or infinity, read as float32: ",
        ),
        (lambda tensors: tensors.pop(Q0.format("B")), "lora_B is missing: model.layers.0.self_attn.q_proj"),
        (lambda tensors: tensors.pop(Q0.format("A")), "lora_A is missing: model.layers.0.self_attn.q_proj"),
        (rename(Q0.format("A"), Q0.format("A").replace("q_proj", "z_proj")), "has no such module: model.layers."),
        (rename(Q0.format("A"), Q0.format("A").replace("layers.0", "layers.3")), "has no such module: model.layers."),
        (replace("base_model.model.lm_head.lora_A.weight", torch.zeros(8, 64)), "lora_B is missing: lm_head"),
        (
            replace("base_model.model.model.embed_tokens.lora_embedding_B", torch.zeros(64, 8)),
            "lora_A is missing: model.embed_tokens",
        ),
        (replace("base_model.model.model.embed_tokens.lora_A.weight", torch.zeros(8, 64)), "train a LoRA on them"),
        (replace("base_model.model.lm_head.weight", torch.zeros(131, 64)), "131 of its rows differ"),
        (
            rename(Q0.format("A"), Q0.format("A").replace("layers.0", f"layers.{'9' * 400}")),
            "has no such module: model.layers.",
        ),
        (
            replace(Q0.format("A").replace("lora_A.weight", "lora_magnitude_vector"), torch.zeros(64)),
            "DoRA magnitudes come without use_dora",
        ),
        (
            replace(Q0.format("A").replace("lora_A.weight", "lora_magnitude_vector"), torch.zeros(65)),
            "lora_magnitude_vector is 65, not one number for each output",
        ),
        (
            replace(Q0.format("A").replace("lora_A", "lora_A.default"), torch.zeros(8, 64)),
            "Two tensors have the same name",
        ),
        (lambda tensors: tensors.clear(), "No module of the base is changed: 0 tensors"),
        (
            lambda tensors: [tensors.pop(Q0.format(side).replace("layers.0", "layers.2")) for side in "AB"],
            "q_proj has no tensors in these layers of ",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_refused(
    sound: Path, store: Path, adapters: AdapterStore, change: Callable[[Tensors], Any], named: str
) -> None:
    assert named in refusal(adapters, damage(sound, store, tensors=change))


def test_a_refusal_lists_every_reason(sound: Path, store: Path, adapters: AdapterStore) -> None:
    reasons = refusal(
        adapters,
        damage(sound, store, {"use_qalora": True, "bias": "some"}, replace(Q0.format("A"), torch.zeros(8, 65))),
    )
    assert all(named in reasons for named in ("QA-LoRA", "bias", "65 inputs"))


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a DoRA on a linear, the embedding and the head, as PEFT saves it: with the base's own tables."""
    directory = tmp_path_factory.mktemp("whole")
    return directory / make_adapter(
        tiny_model, directory, use_dora=True, target_modules=["q_proj", "embed_tokens", "lm_head"]
    )


def test_a_dora_on_every_kind_of_module_is_loaded_with_its_scale(
    whole: Path, store: Path, adapters: AdapterStore, tiny_model: Path
) -> None:
    weights = adapters.load(damage(whole, store)).weights
    assert sorted(weights) == ["embed_tokens", "lm_head", "q_proj"]
    shapes = {name: [tuple(tensor.shape) for tensor in (pair.a, pair.b, pair.scale)] for name, pair in weights.items()}
    assert shapes["embed_tokens"] == [(1, 131, 8), (1, 8, 64), (1, 64)]
    assert shapes["lm_head"] == [(1, 64, 8), (1, 8, 131), (1, 131)]
    assert shapes["q_proj"] == [(3, 64, 8), (3, 8, 64), (3, 64)]


def test_the_scale_of_a_dora_keeps_all_its_digits_in_a_decoder_of_bfloat16(
    whole: Path, store: Path, tiny_model: Path
) -> None:
    digest = damage(whole, store)
    scale = AdapterStore(store, load_base(tiny_model, torch.bfloat16)).load(digest).weights["q_proj"].scale
    assert scale is not None
    assert scale.dtype == torch.float32


HEAD, TABLE = "base_model.model.lm_head.{}", "base_model.model.model.embed_tokens.{}"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda tensors: tensors.pop(HEAD.format("lora_magnitude_vector")),
            "lora_magnitude_vector is missing: lm_head",
        ),
        (
            lambda tensors: tensors[TABLE.format("base_layer.weight")].add_(1),
            "the table of model.embed_tokens is not the base's own",
        ),
        (replace(TABLE.format("base_layer.weight"), torch.zeros(132, 64)), "The vocabulary was "),
        (
            lambda tensors: tensors[TABLE.format("lora_magnitude_vector")].fill_(torch.nan),
            "These tensors hold NaN or infinity, read as float32: ",
        ),
    ],
)
def test_a_dora_or_a_table_that_does_not_fit_the_base_is_refused(
    whole: Path, store: Path, adapters: AdapterStore, change: Callable[[Tensors], Any], named: str
) -> None:
    assert named in refusal(adapters, damage(whole, store, tensors=change))


def test_a_copy_of_the_bases_table_may_be_rounded_or_missing(whole: Path, store: Path, tiny_model: Path) -> None:
    def halve(tensors: Tensors) -> None:
        name = HEAD.format("base_layer.weight")
        tensors[name] = tensors[name].to(torch.bfloat16)
        del tensors[TABLE.format("base_layer.weight")]

    assert (
        AdapterStore(store, load_base(tiny_model, torch.bfloat16)).load(damage(whole, store, tensors=halve)).rank == 8
    )


def test_a_dora_is_refused_over_a_base_in_4_bits(whole: Path, store: Path, tiny_model: Path) -> None:
    packed = AdapterStore(store, dataclasses.replace(load_base(tiny_model), is_nf4=True))
    assert "norms of the base's weights" in refusal(packed, damage(whole, store))


def test_a_dora_whose_adapted_weights_vanish_is_refused(whole: Path, store: Path, tiny_model: Path) -> None:
    real = load_base(tiny_model)
    empty = dataclasses.replace(real, weight=lambda target, layer: real.weight(target, layer) * (target != "q_proj"))
    digest = damage(whole, store, tensors=replace(Q0.format("B"), torch.zeros(64, 8)))
    assert "cannot scale model.layers.0.self_attn.q_proj" in refusal(AdapterStore(store, empty), digest)


def test_files_changed_after_import_are_refused(sound: Path, store: Path, adapters: AdapterStore) -> None:
    digest = damage(sound, store)
    weights = load_file(store / digest / "adapter_model.safetensors")
    weights[Q0.format("A")][0, 0] += 1
    save_file(weights, store / digest / "adapter_model.safetensors")
    assert "changed since it was imported" in refusal(adapters, digest)


def test_a_file_that_is_cut_while_it_is_read_is_refused(
    sound: Path, store: Path, adapters: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = damage(sound, store)
    path = store / digest / "adapter_model.safetensors"

    def cut(config: dict[str, Any], weights: Path) -> str:
        path.write_bytes(path.read_bytes()[:100])
        return adapter_digest(config, weights)

    monkeypatch.setattr("inference.adapters.file.adapter_digest", cut)
    assert "changed since it was imported" in refusal(adapters, digest)


def test_a_disk_that_fails_is_no_fault_of_the_adapters(
    sound: Path, store: Path, adapters: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    digest = damage(sound, store)
    monkeypatch.setattr("inference.adapters.examination.read_header", fail)
    with pytest.raises(OSError, match="Input/output error"):
        adapters.load(digest)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x80\x05\x95pickle", "safetensors"),
        (b"", "8-byte length"),
        (b"\xff" * 64, "header claims"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(
    sound: Path, store: Path, adapters: AdapterStore, content: bytes, named: str
) -> None:
    digest = damage(sound, store)
    (store / digest / "adapter_model.safetensors").write_bytes(content)
    assert named in refusal(adapters, digest)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_config_may_come_in_any_unicode(sound: Path, store: Path, adapters: AdapterStore, encoding: str) -> None:
    digest = damage(sound, store)
    path = store / digest / "adapter_config.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert adapters.load(digest).rank == 8


@pytest.mark.parametrize(
    ("text", "named"), [("[1]", "not a JSON object"), ("{", "not JSON"), ("[" * 99999, "not JSON")]
)
def test_a_config_that_is_no_object_is_refused(
    sound: Path, store: Path, adapters: AdapterStore, text: str, named: str
) -> None:
    digest = damage(sound, store)
    (store / digest / "adapter_config.json").write_text(text)
    assert named in refusal(adapters, digest)


def test_a_link_out_of_the_store_is_refused(sound: Path, store: Path, adapters: AdapterStore, tmp_path: Path) -> None:
    digest = damage(sound, store)
    outside = tmp_path / "outside"
    (store / digest / "adapter_model.safetensors").rename(outside)
    (store / digest / "adapter_model.safetensors").symlink_to(outside)
    assert "adapter_model.safetensors is missing" in refusal(adapters, digest)


def test_a_folder_that_leads_out_of_the_store_is_not_found(
    sound: Path, store: Path, adapters: AdapterStore, tmp_path: Path
) -> None:
    digest = damage(sound, store)
    (store / digest).rename(tmp_path / "elsewhere")
    (store / digest).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterNotFound):
        adapters.load(digest)


@pytest.mark.parametrize("digest", ["", "..", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 64 + "\n", "/etc", "a" * 64])
def test_a_digest_that_is_none_or_unknown_is_not_found(adapters: AdapterStore, digest: str) -> None:
    with pytest.raises(AdapterNotFound):
        adapters.load(digest)


def test_values_that_overflow_the_decoders_type_are_refused(sound: Path, store: Path, tiny_model: Path) -> None:
    digest = damage(sound, store, {"lora_alpha": 10_000_000})
    halves = AdapterStore(store, load_base(tiny_model, torch.float16))
    with pytest.raises(AdapterRefused, match="overflow"):
        halves.load(digest)


class Shelf:
    """Adapters made on demand, which remembers what was asked for."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def load(self, digest: str) -> HostAdapter:
        self.loads.append(digest)
        if digest == "broken":
            raise AdapterRefused(["it is broken"])
        pair = TargetWeights(torch.zeros(1, 4, 8), torch.zeros(1, 8, 4))
        return HostAdapter(digest, {"q_proj": pair}, 8, 300 if digest.startswith("wide") else 100)


def test_the_host_cache_forgets_the_least_recently_used() -> None:
    shelf = Shelf()
    cache = AdapterCache(shelf.load, max_bytes=250)
    for digest in ("a", "b", "a", "c", "a", "b"):
        assert cache.load(digest).digest == digest
    assert shelf.loads == ["a", "b", "c", "b"]
    assert cache.digests == ("a", "b")
    assert cache.num_bytes == 200


def test_an_adapter_larger_than_the_host_cache_is_served_and_not_kept() -> None:
    cache = AdapterCache(Shelf().load, max_bytes=50)
    assert cache.load("a").digest == "a"
    assert cache.digests == ()


def test_a_refused_adapter_is_not_kept() -> None:
    cache = AdapterCache(Shelf().load, max_bytes=250)
    with pytest.raises(AdapterRefused):
        cache.load("broken")
    assert cache.digests == ()


def test_a_slot_in_use_is_never_given_away() -> None:
    slots = LoraSlots(2, Shelf().load, LoraBank())
    assert {slots.acquire("a"), slots.acquire("b")} == {0, 1}
    assert not slots.can_acquire("c")
    assert slots.acquire("c") is None
    assert set(slots.digests) == {"a", "b"}


def test_the_least_recently_used_free_slot_is_given_away() -> None:
    slots = LoraSlots(3, Shelf().load, LoraBank())
    for digest in ("a", "b", "c", "a"):
        slots.acquire(digest)
    for digest in ("a", "a", "b"):
        slots.release(digest)
    taken = slots.slot("b")
    assert slots.acquire("d") == taken
    assert set(slots.digests) == {"a", "c", "d"}


def test_an_adapter_is_loaded_once_while_it_is_on_the_device() -> None:
    shelf = Shelf()
    slots = LoraSlots(2, shelf.load, LoraBank())
    first = slots.acquire("a")
    slots.release("a")
    assert slots.acquire("a") == first
    assert shelf.loads == ["a"]


def test_pins_are_counted_and_never_negative() -> None:
    slots = LoraSlots(1, Shelf().load, LoraBank())
    slots.acquire("a")
    slots.acquire("a")
    slots.release("a")
    assert (slots.pins("a"), slots.num_pinned, slots.can_acquire("b")) == (1, 1, False)
    slots.release("a")
    assert (slots.pins("a"), slots.num_pinned, slots.can_acquire("b")) == (0, 0, True)
    with pytest.raises(AssertionError, match="more often than acquired"):
        slots.release("a")


def test_the_device_holds_no_more_bytes_than_it_may() -> None:
    slots = LoraSlots(8, Shelf().load, LoraBank(), max_bytes=400)
    for digest in "abcd":
        slots.acquire(digest)
        slots.release(digest)
    slots.acquire("b")
    assert slots.acquire("wide") is not None
    assert (set(slots.digests), slots.num_bytes) == ({"b", "wide"}, 400)
    assert not slots.can_acquire("c")
    assert slots.acquire("c") is None
    slots.release("wide")
    assert slots.acquire("c") is not None
    assert set(slots.digests) == {"b", "c"}


def test_an_adapter_larger_than_all_slots_is_on_the_device_alone() -> None:
    slots = LoraSlots(2, Shelf().load, LoraBank(), max_bytes=250)
    slots.acquire("a")
    assert not slots.can_acquire("wide")
    slots.release("a")
    assert slots.acquire("wide") is not None
    assert slots.digests == ("wide",)
    assert not slots.can_acquire("a")
    slots.release("wide")
    assert slots.acquire("a") is not None
    assert slots.digests == ("a",)


def test_an_adapter_that_is_refused_evicts_nobody() -> None:
    slots = LoraSlots(1, Shelf().load, LoraBank())
    slots.acquire("a")
    slots.release("a")
    with pytest.raises(AdapterRefused):
        slots.acquire("broken")
    assert (slots.digests, slots.num_pinned) == (("a",), 0)
