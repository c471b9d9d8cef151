"""The base model as transformers knows it, for what is compared with PEFT or scored through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load_base(name: str | Path, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """The frozen base model and its tokenizer, from a directory or a hub id.

    Raises OSError, with the place it looked at, when there is no model.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    model = model.to(device).eval()
    model.requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(name)
