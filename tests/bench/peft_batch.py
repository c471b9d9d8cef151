"""`python -m tests.bench.peft_batch`: the workloads offline through PEFT's mixed batch, or transformers alone.

Reads JSON from its input: the base model's directory, that of the adapters, and runs of (users, models, prompts,
tokens). Each run is one static batch after another of `users` prompts; writes one line of JSON a run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(asked["base"], padding_side="left")
    for run in asked["runs"]:
        model = AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.bfloat16)
        model = _with_adapters(model, Path(asked["adapters"]), sorted(set(run["models"]) - {"base"}))
        for _ in range(run["times"]):
            print(json.dumps({"tokens_per_second": _tokens_per_second(model, tokenizer, run)}), flush=True)


def _with_adapters(model: Any, directory: Path, names: list[str]) -> Any:
    if names:
        model = PeftModel.from_pretrained(model, str(directory / names[0]), adapter_name=names[0])
        for name in names[1:]:
            model.load_adapter(str(directory / name), adapter_name=name)
    return model.eval()


@torch.inference_mode()
def _tokens_per_second(model: Any, tokenizer: Any, run: dict[str, Any]) -> float:
    users, tokens = run["users"], run["tokens"]
    began, count = time.perf_counter(), 0
    for start in range(0, len(run["prompts"]), users):
        names = run["models"][start : start + users]
        chosen = {"adapter_names": names} if isinstance(model, PeftModel) else {}
        batch = tokenizer(run["prompts"][start : start + users], return_tensors="pt", padding=True)
        output = model.generate(**batch, **chosen, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
        count += (output.shape[1] - batch["input_ids"].shape[1]) * len(names)
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
