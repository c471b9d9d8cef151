"""QLoRA (arXiv 2305.14314) for a base too large for the plain trainer: its weights in NF4, products in bfloat16.

Through transformers, PEFT and bitsandbytes, on one GPU. The settings are those of the paper's adapters:
rank 8 on q and v with dropout, paged AdamW, a cosine after 3 % of warm-up, 16 rows a step of which one is computed at a
time. Of the two learning rates that were printed, 2e-3 and 2e-4, the second is taken: it is the usual one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from inference.tasks.data import read_split
from inference.tasks.recipe import Lora, Recipe, RecipeError
from inference.training.adapter import lora_config, peft_config
from inference.training.checkpoint import EVERY, identity_of, read_checkpoint, write_checkpoint
from inference.training.examples import IGNORED, Batch, Encoded, encode_all
from inference.training.loop import Learner, Step
from inference.training.run import Cancelled, Job, Trained, finish

LORA: Final = Lora(rank=8, lora_alpha=16, target_modules=("q_proj", "v_proj"))
DROPOUT: Final = 0.05
ROWS: Final = 16
LEARNING_RATE: Final = 2e-4
WARMUP: Final = 0.03


def with_qlora(recipe: Recipe) -> Recipe:
    """`recipe` with these settings; steps, seed and the longest row stay its own."""
    check_method(recipe)
    schedule = dataclasses.replace(recipe.schedule, batch=ROWS, learning_rate=LEARNING_RATE, warmup=WARMUP)
    return dataclasses.replace(recipe, lora=LORA, schedule=schedule)


def check_method(recipe: Recipe) -> None:
    """Raise `RecipeError` for what PEFT does not train."""
    if recipe.lora.nola_basis:
        raise RecipeError(
            f"{recipe.task}: nola_basis asks for a NOLA, which PEFT has none of and which only bases of the family of "
            "Llama learn here, without --qlora; leave it out"
        )
    if recipe.lora.invocation is not None:
        raise RecipeError(
            f"{recipe.task}: invocation asks for an aLoRA, which only bases of the family of Llama learn here, without "
            "--qlora; leave it out"
        )


def quantization() -> BitsAndBytesConfig:
    """NF4 with quantised scales, multiplied in bfloat16."""
    make: Any = BitsAndBytesConfig  # which is not typed
    config: BitsAndBytesConfig = make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return config


def load_quantized(folder: Path, device: torch.device) -> Any:
    """The base of `folder` on `device`, its linears in NF4. Raises ValueError without the package bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        raise ValueError("QLoRA needs the package bitsandbytes; run `pip install 'loraland[gpu]'`")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no safetensors, on which QLoRA trains; set BASE_MODEL to the model in full")
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization(), dtype=torch.bfloat16, device_map={"": device}
    )


def train_qlora(
    job: Job,
    on_step: Callable[[Step], None],
    is_wanted: Callable[[], bool] = lambda: True,
    load: Callable[[Path, torch.device], Any] = load_quantized,
    dropout: float = DROPOUT,
) -> Trained:
    """Train the adapter of `job` and save it in its folder, with a card; `load` gives the base.

    Checkpoints, cancelling and errors are those of `train_jobs`.
    """
    check_method(job.recipe)
    split = read_split(job.data, job.recipe.task, job.recipe.field_names)
    tokenizer: Any = AutoTokenizer.from_pretrained(job.base)
    rows = encode_all(split.train, job.recipe, tokenizer)
    learner = learner_in(load(job.base, job.device), job.recipe, rows, tokenizer.eos_token_id, dropout)
    read_checkpoint(job.out, identity_of(job.recipe, job.base_name), learner)
    while not learner.is_done:
        on_step(learn(learner))
        wanted = is_wanted()
        if not wanted or learner.steps_done % EVERY == 0:
            write_checkpoint(job.out, identity_of(job.recipe, job.base_name), learner)
        if not wanted:
            raise Cancelled
    return finish(job, learner)


class PeftAdapter:
    """The adapter in a PEFT model."""

    def __init__(self, model: PeftModel, lora: Lora) -> None:
        self.model, self.lora = model, lora

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimizer steps over."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every factor under the name that PEFT saves it by."""
        yield from get_peft_model_state_dict(self.model).items()

    def config(self) -> dict[str, Any]:
        """adapter_config.json, but for the base's name."""
        return peft_config(self.lora)

    @torch.no_grad()
    def round(self) -> None:
        """Round to bfloat16 in place, so that what is scored is what is saved."""
        for parameter in self.parameters:
            parameter.copy_(parameter.to(torch.bfloat16))


def learner_in(
    base: Any, recipe: Recipe, rows: Sequence[Encoded], pad_id: int, dropout: float = DROPOUT
) -> Learner[PeftAdapter]:
    """A fresh adapter in `base`, and what it learns from."""
    adapter = PeftAdapter(put_adapter(base, recipe.lora, recipe.schedule.seed, dropout), recipe.lora)
    return Learner(recipe.task, adapter, rows, recipe.schedule, pad_id, _paged_adam(adapter.parameters))


def learn(learner: Learner[PeftAdapter]) -> Step:
    """One step of `learner`. Raises FloatingPointError for a loss that is not finite."""
    started = time.monotonic()
    torch.manual_seed(learner.schedule.seed + learner.steps_done)  # dropout is the same when a step is made again
    loss = add_gradients(learner.adapter.model, learner.next_batch())
    return learner.learn(loss, time.monotonic() - started)


def put_adapter(base: Any, lora: Lora, seed: int, dropout: float = DROPOUT) -> PeftModel:
    """A fresh float32 adapter in the frozen `base`, which computes hidden states again instead of keeping them."""
    base.requires_grad_(False)
    base.config.use_cache = False
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.enable_input_require_grads()
    torch.manual_seed(seed)
    return get_peft_model(base, lora_config(lora, dropout)).train()


def add_gradients(model: PeftModel, batch: Batch) -> float:
    """Add the gradients of the mean cross-entropy of the answers' tokens, which is returned in nats.

    Rows are computed one at a time, and weighed by their tokens: the same as one pass over all of them.
    """
    tokens = (batch.labels[:, 1:] != IGNORED).sum().item()
    total = 0.0
    for row in single_rows(batch.to(model.device)):
        loss = _summed_loss(model.get_base_model(), row) / tokens
        torch.autograd.backward(loss)
        total += loss.item()
    return total


def single_rows(batch: Batch) -> Iterator[Batch]:
    """Each row of `batch` as a batch of its own, without padding."""
    for index, length in enumerate(batch.mask.sum(dim=1).tolist()):
        row = (slice(index, index + 1), slice(length))
        yield Batch(batch.token_ids[row], batch.mask[row], batch.labels[row])


def _summed_loss(model: Any, batch: Batch) -> Tensor:
    """The cross-entropy of the answers' tokens of a single row, summed, a scalar in float32; other logits are not
    computed."""
    predicted = batch.labels[0, 1:]
    (chosen,) = (predicted != IGNORED).nonzero(as_tuple=True)
    out = model(input_ids=batch.token_ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=chosen)
    return functional.cross_entropy(out.logits[0].float(), predicted[chosen], reduction="sum")


def _paged_adam(parameters: list[Tensor]) -> torch.optim.Optimizer | None:
    """AdamW whose state is paged out to host memory when a long row needs the room; None without a GPU."""
    if not parameters[0].is_cuda:
        return None
    from bitsandbytes.optim import PagedAdamW

    optimizer: torch.optim.Optimizer = PagedAdamW(parameters, weight_decay=0.0)
    return optimizer
