"""Log-likelihoods as transformers and PEFT compute them, one pair at a time: the truth of what a harness is told."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from inference.model.tokenizer import Tokenizer

ADAPTERS = Path(__file__).parents[2] / "adapters"
PAIRS = [
    ["The capital of France is", " Paris"],
    ["i feel so happy today", " joy"],
    ["One two", " three 🙂 four, größer 日本語"],
    ["Question: is water wet?\nAnswer:", " Yes, because it makes other things wet."],
]
"""Contexts and what follows them."""


def likelihoods(model_dir: Path, name: str) -> list[float]:
    """The sum of log-probabilities of each pair's second text behind its first, in float32."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    if name != "base":
        model = PeftModel.from_pretrained(model, ADAPTERS / name)
    tokenizer = Tokenizer(model_dir)
    return [_likelihood(model.eval(), tokenizer.encode(context), tokenizer.encode(rest)) for context, rest in PAIRS]


@torch.inference_mode()
def _likelihood(model: torch.nn.Module, context: list[int], rest: list[int]) -> float:
    logits = model(torch.tensor([context + rest])).logits[0, len(context) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(rest)[:, None]).sum())
