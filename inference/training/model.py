"""The base model as training sees it, and the adapter put into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.tasks.recipe import Lora


def load_base(name: str | Path, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """The frozen base model and its tokenizer, from a directory or a hub id.

    Raises OSError, with the place it looked at, when there is no model.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    model = model.to(device).eval()
    model.requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(name)


def add_adapter(model: Any, lora: Lora, seed: int) -> PeftModel:
    """Put a fresh adapter into `model`: A drawn by `seed`, B zero, both in fp32 whatever the base is."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.lora_alpha,
        target_modules=list(lora.target_modules),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


@torch.no_grad()
def round_adapter(model: PeftModel) -> None:
    """Round the adapter to bf16 in place, so that what is scored is what is saved."""
    for parameter in _trained(model):
        parameter.copy_(parameter.to(torch.bfloat16))


def save_adapter(model: PeftModel, base_name: str, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors (bf16) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.to(torch.bfloat16).cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=base_name, inference_mode=True)
    text = json.dumps({key: _plain(value) for key, value in config.items()}, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _trained(model: PeftModel) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if "lora_" in name]


def _plain(value: Any) -> Any:
    """A JSON value of a config entry; sets are sorted, so that the same adapter is the same file."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)
