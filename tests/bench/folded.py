"""What a MultiLoRA costs when it is served, and whether folding changes its answers: `python -m tests.bench.folded`.

32 rows have one of 25 random adapters each: MultiLoRAs of three parts of rank 8 on all seven linears, which a worker
folds when it loads them, or plain LoRAs of rank 24. Passes with the one and with the other take turns. Then some of the
MultiLoRAs and the LoRAs that they are exported as answer the same prompts, greedily. One thread computes.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from inference.config import EngineConfig
from inference.model.torch_environment import prepare_torch
from tests.bench import claims

prepare_torch()

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from inference.adapters.export import export  # noqa: E402
from inference.engine.engine import Engine  # noqa: E402
from inference.training.scoring import answers, put_into_store  # noqa: E402
from inference.wire.protocol import AdapterRef, Sampling  # noqa: E402
from tests.bench.parts import ADAPTERS, SHAPES, Passes, own_engine  # noqa: E402
from tests.bench.random_adapters import ALL_SEVEN, write  # noqa: E402

PARTS: Final = 3
RANK: Final = 8
ROUNDS: Final = 40
ANSWERS: Final = 8
TOKENS: Final = 32
PROMPT: Final = "The fair opens at nine, and the wheel"
FOLDED: Final = f"folded, {PARTS} parts of rank {RANK}"
PLAIN: Final = f"LoRA of rank {PARTS * RANK}"


def main() -> None:
    with own_engine("folded", threads=1) as (engine, config):
        times, same = _times(engine, config), _same(engine, config)
    print(json.dumps({name: median(found) for name, found in times.items()}), same)
    print(claims.write("multilora", claim_of(times, same)))


def multilora(base: Path, folder: Path, seed: int) -> Path:
    """A MultiLoRA of random weights, its B cut out of a LoRA of all its ranks."""
    write(base, folder, seed, PARTS * RANK, ALL_SEVEN)
    whole, tensors = load_file(folder / "adapter_model.safetensors"), dict[str, torch.Tensor]()
    chance = torch.Generator().manual_seed(seed)
    for name, tensor in whole.items():
        place, _, factor = name.removesuffix(".weight").rpartition(".")
        if factor == "lora_A":
            tensors[f"{place}.lora_A"] = tensor.view(PARTS, RANK, -1)
        else:
            tensors[f"{place}.lora_B"] = tensor.view(-1, PARTS, RANK).transpose(0, 1).contiguous()
            tensors[f"{place}.lora_scaling"] = torch.rand(PARTS, len(tensor), generator=chance).bfloat16()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"peft_type": "MULTILORA", "r": RANK, "lora_alpha": 2 * RANK, "lora_num": PARTS}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _times(engine: Engine, config: EngineConfig) -> dict[str, list[float]]:
    """Milliseconds of a core for a pass, round by round."""
    base, made, passes = Path(config.base_model), config.var_dir / "made-of-parts", Passes(engine, config)
    folders = {
        FOLDED: [multilora(base, made / f"folded-{seed}", seed) for seed in range(ADAPTERS)],
        PLAIN: [write(base, made / f"plain-{seed}", seed, PARTS * RANK, ALL_SEVEN) for seed in range(ADAPTERS)],
    }
    cache, bank = engine.machine.host_cache, passes.decoder.bank
    weights = {
        name: [bank.prepare(cache.load(put_into_store(folder, config.adapters_dir)).weights) for folder in some]
        for name, some in folders.items()
    }
    times: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(ROUNDS):
        for name, own in weights.items():
            for slot, each in enumerate(own):
                bank.put(slot, each)
            passes.seconds(SHAPES[0].whole)
            times[name].append(1000 * min(_worked(passes) for _ in range(3)))
    return times


def _worked(passes: Passes) -> float:
    """Seconds that a core computed for a pass: other work on the machine counts for little."""
    began = time.process_time()
    passes.seconds(SHAPES[0].whole)
    return time.process_time() - began


def _same(engine: Engine, config: EngineConfig) -> int:
    """How many of `ANSWERS` MultiLoRAs say token for token what their exported LoRA says."""
    base, same = Path(config.base_model), 0
    for seed in range(ANSWERS):
        folder = multilora(base, config.var_dir / "asked" / f"{seed}", 100 + seed)
        export(folder, base, config.var_dir / "asked" / f"{seed}-exported")
        refs = [put_into_store(each, config.adapters_dir) for each in (folder, folder.with_name(f"{seed}-exported"))]
        sampling = Sampling(max_tokens=TOKENS, min_tokens=TOKENS)
        told = [answers(engine, AdapterRef(ref), [PROMPT], sampling) for ref in refs]
        same += told[0] == told[1]
    return same


def claim_of(times: dict[str, Sequence[float]], same: int) -> claims.Claim:
    difference = [a - b for a, b in zip(times[FOLDED], times[PLAIN], strict=True)]
    low, high = _interval(difference)
    plain = median(times[PLAIN])
    is_shown = high <= 0.02 * plain and same == ANSWERS
    return claims.Claim(
        title="Several adapters folded into one",
        paper="Wang et al., 2023 (arXiv 2311.11501)",
        claim="MultiLoRA costs nothing when it is served: its parts are one LoRA of the sum of their ranks.",
        bar="A pass takes at most 2 % longer than with plain LoRAs of that rank, by the interval, and every answer is "
        "that of the exported LoRA.",
        verdict="shown" if is_shown else "refuted here" if low > 0.02 * plain or same < ANSWERS else "not shown",
        arms={name: claims.Arm(median(found), len(found), _interval(found)) for name, found in times.items()},
        comparisons=[claims.Comparison(FOLDED, PLAIN, median(difference), low, high)],
        command="python -m tests.bench.folded",
        seeds=list(range(ADAPTERS)),
        counted="passes",
        unit="milliseconds of one core for a pass of 32 rows; less is better",
        notes=[
            f"Medians of {ROUNDS} passes in turn, with 25 random adapters on all seven linears.",
            f"{same} of {ANSWERS} answers of {TOKENS} tokens are those of the exported LoRA.",
            "What the paper claims of training, that several small adapters learn more than one of the same rank, was "
            "not tried: no MultiLoRA is trained here.",
        ],
    )


def _interval(values: Sequence[float]) -> claims.Interval:
    """The 95 % interval of the median, by values drawn anew."""
    chance = random.Random(5)
    found = sorted(median(chance.choices(values, k=len(values))) for _ in range(claims.DRAWS))
    return found[claims.DRAWS // 40], found[-1 - claims.DRAWS // 40]


if __name__ == "__main__":
    main()
