"""The trainer's own forward and backward pass against transformers, PEFT and autograd, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from torch import Tensor

from inference.model.architecture import TARGETS, read_architecture, untrained
from inference.model.weights import load_weights
from inference.tasks.recipe import Lora
from inference.training.adapter import Adapter, lora_config
from inference.training.decoder import TrainingDecoder
from inference.training.examples import IGNORED, Batch, Encoded, collate
from inference.training.mixed import lay_end_to_end
from tests.inference.checkpoints import load_reference
from tests.inference.families import VARIANTS, make_family
from tests.inference.training.through_peft import load_base

CPU = torch.device("cpu")
NARROW = Lora(rank=4, lora_alpha=8, target_modules=("q_proj", "v_proj"))
WIDE = Lora(rank=2, lora_alpha=16, target_modules=TARGETS)
OWN = ("llama", "mistral", "ministral, everywhere")
"""The variants that our own passes compute."""


@pytest.fixture
def decoder(base: Path) -> TrainingDecoder:
    architecture = read_architecture(base / "config.json")
    return TrainingDecoder(architecture, load_weights(base, architecture, torch.float32))


@pytest.mark.parametrize(("variant", "missing"), [("qwen2", "linears with a bias"), ("phi3", "fused linears")])
def test_a_base_whose_gradients_are_not_computed_here_is_refused(tmp_path: Path, variant: str, missing: str) -> None:
    directory = make_family(tmp_path / variant, variant)
    architecture = read_architecture(directory / "config.json")
    with pytest.raises(
        ValueError, match=rf"{variant} cannot be trained here, which takes the gradients of .*{missing}"
    ):
        TrainingDecoder(architecture, load_weights(directory, architecture, torch.float32))


def adapter(decoder: TrainingDecoder, lora: Lora, seed: int) -> Adapter:
    """One whose B is not zero, so that all of it matters."""
    made = Adapter(decoder.architecture, lora, seed)
    made.values.add_(torch.randn(made.values.shape, generator=torch.Generator().manual_seed(seed)) * 0.1)
    return made


def batch(seed: int, lengths: tuple[int, ...] = (9, 14, 5)) -> Batch:
    chance = torch.Generator().manual_seed(seed)
    rows = [
        Encoded(tuple(torch.randint(0, 200, (length,), generator=chance).tolist()), length - 3) for length in lengths
    ]
    return collate(rows, pad_id=0)


def gradients(decoder: TrainingDecoder, batches: list[Batch], adapters: list[Adapter]) -> tuple[Tensor, list[Tensor]]:
    losses = decoder.losses(lay_end_to_end(batches), adapters)
    torch.autograd.backward(losses.sum())
    return losses.detach(), [adapter.values.grad for adapter in adapters]  # type: ignore[misc]


def truth(base: Path, lora: Lora, tuned: Adapter, asked: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of PEFT's adapter of the same values, by the names it saves them under."""
    model: Any = get_peft_model(load_reference(base), lora_config(lora))
    set_peft_model_state_dict(model, dict(tuned.named_tensors()))
    loss = model(input_ids=asked.token_ids, attention_mask=asked.mask, labels=asked.labels).loss
    loss.backward()
    named = {
        name.replace(".default", ""): parameter.grad for name, parameter in model.named_parameters() if "lora_" in name
    }
    return loss.detach(), named


@pytest.mark.parametrize("lora", [NARROW, WIDE], ids=["narrow", "wide"])
def test_losses_and_gradients_are_those_of_peft(base: Path, decoder: TrainingDecoder, lora: Lora) -> None:
    expect_peft(base, decoder, lora)


def expect_peft(base: Path, decoder: TrainingDecoder, lora: Lora) -> None:
    tuned, asked = adapter(decoder, lora, 1), batch(1)
    loss, _ = gradients(decoder, [asked], [tuned])
    theirs, named = truth(base, lora, tuned, asked)
    torch.testing.assert_close(loss[0], theirs)
    for layer, pairs in enumerate(tuned.layers):
        for target, pair in pairs.items():
            (found,) = {name for name in named if f"layers.{layer}." in name and f"{target}.lora_A" in name}
            torch.testing.assert_close(pair.a.grad, named[found], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(pair.b.grad, named[found.replace("_A", "_B")], rtol=1e-4, atol=1e-6)


@pytest.mark.cell("gradients", "own")
@pytest.mark.parametrize("variant", OWN)
def test_so_are_those_of_other_bases_that_our_own_passes_compute(tmp_path: Path, variant: str) -> None:
    base = make_family(tmp_path, variant, vocab_size=200)
    architecture = read_architecture(base / "config.json")
    decoder = TrainingDecoder(architecture, load_weights(base, architecture, torch.float32))
    expect_peft(base, decoder, WIDE)


def test_rows_longer_than_the_window_are_refused(tmp_path: Path) -> None:
    base = make_family(tmp_path / "mistral", "mistral", vocab_size=200)
    architecture = read_architecture(base / "config.json")
    decoder = TrainingDecoder(architecture, load_weights(base, architecture, torch.float32))
    asked = lay_end_to_end([batch(1, (9, 22))])
    with pytest.raises(ValueError, match="the gradients of a window of 20 tokens over rows of 21"):
        decoder.losses(asked, [adapter(decoder, NARROW, 1)])


def test_every_base_that_our_own_passes_compute_is_compared(tmp_path: Path) -> None:
    variants = [name for name in VARIANTS if not untrained(read_architecture(made(tmp_path, name)))]
    assert variants == list(OWN)


def made(home: Path, variant: str) -> Path:
    return make_family(home / variant, variant) / "config.json"


def test_adapters_in_one_pass_learn_what_each_would_learn_alone(decoder: TrainingDecoder) -> None:
    shapes, batches = [NARROW, WIDE, NARROW], [batch(1), batch(2, (21, 4)), batch(3, (7,))]
    losses, together = gradients(decoder, batches, [adapter(decoder, lora, n) for n, lora in enumerate(shapes)])
    for number, lora in enumerate(shapes):
        loss, (alone,) = gradients(decoder, [batches[number]], [adapter(decoder, lora, number)])
        torch.testing.assert_close(losses[number], loss[0])
        torch.testing.assert_close(together[number], alone, rtol=1e-4, atol=1e-6)


def test_padding_changes_neither_loss_nor_gradients(decoder: TrainingDecoder) -> None:
    asked = batch(1)
    longer = Batch(*(torch.nn.functional.pad(part, (0, 16), value=fill) for part, fill in zip(
        (asked.token_ids, asked.mask, asked.labels), (7, 0, IGNORED), strict=True)))  # fmt: skip
    tuned, again = adapter(decoder, WIDE, 1), adapter(decoder, WIDE, 1)
    loss, (grad,) = gradients(decoder, [asked], [tuned])
    padded_loss, (padded_grad,) = gradients(decoder, [longer], [again])
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded_grad, grad, rtol=1e-4, atol=1e-6)


def test_a_fresh_adapter_leaves_the_base_as_it_is(decoder: TrainingDecoder, base: Path) -> None:
    asked = batch(1)
    fresh = Adapter(decoder.architecture, NARROW, seed=1)
    model, _ = load_base(base, CPU, torch.float32)
    theirs = model(input_ids=asked.token_ids, attention_mask=asked.mask, labels=asked.labels).loss
    torch.testing.assert_close(gradients(decoder, [asked], [fresh])[0][0], theirs)


def test_a_seed_decides_what_a_fresh_adapter_is(decoder: TrainingDecoder) -> None:
    def values(seed: int) -> Tensor:
        return Adapter(decoder.architecture, NARROW, seed).values

    assert torch.equal(values(1), values(1))
    assert not torch.equal(values(1), values(2))


def test_an_answer_of_many_rows_is_foretold_in_pieces(decoder: TrainingDecoder, base: Path) -> None:
    asked = collate([Encoded(tuple(range(100, 200)), 1), Encoded(tuple(range(80, 180)), 1)], pad_id=0)
    tuned = adapter(decoder, NARROW, 1)
    theirs, _ = truth(base, NARROW, tuned, asked)
    torch.testing.assert_close(gradients(decoder, [asked], [tuned])[0][0], theirs)


@pytest.mark.parametrize("is_fast_in_bfloat16", [True, False])
def test_products_of_bfloat16_rows_may_be_computed_in_either_type(
    base: Path, decoder: TrainingDecoder, monkeypatch: pytest.MonkeyPatch, is_fast_in_bfloat16: bool
) -> None:
    monkeypatch.setattr("inference.training.decoder._is_fast_in_bfloat16", lambda: is_fast_in_bfloat16)
    architecture = decoder.architecture
    rounded = TrainingDecoder(architecture, load_weights(base, architecture, torch.bfloat16))
    assert (rounded.weights.layers[0].qkv.weight.dtype == torch.bfloat16) == is_fast_in_bfloat16
    (loss, (grad,)), (true_loss, (true_grad,)) = (
        gradients(chosen, [batch(1)], [adapter(chosen, WIDE, 1)]) for chosen in (rounded, decoder)
    )
    torch.testing.assert_close(loss, true_loss, rtol=0.02, atol=0.02)
    assert (grad - true_grad).norm() < 0.1 * true_grad.norm()
