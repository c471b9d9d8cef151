"""`python -m tests.bench.judges`: how long many judges take over one conversation, as aLoRAs and as plain adapters.

A judge is an adapter that reads a conversation of `--tokens` tokens, what invokes it and a short question, and answers
in `NEW_TOKENS`. All come at once, over a conversation that nobody has read before, once as aLoRAs and once as plain
adapters of the same weights, in turn. Engine settings come from the environment, as a worker's do.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from inference.config import EngineConfig, read_config
from inference.model.torch_environment import prepare_torch
from inference.wire.protocol import AdapterRef, Failed, Finished, Generate, Sampling
from tests.bench.random_adapters import ALL_SEVEN, write
from tests.bench.site import REPO

prepare_torch()

from inference.engine.engine import Engine  # noqa: E402 - loads torch
from inference.training.scoring import put_into_store  # noqa: E402

MODEL: Final = REPO / "var" / "models" / "SmolLM2-135M-Instruct"
INVOCATION: Final = "<|im_start|>judge\n"
QUESTION: Final = "Is the last answer kind? Say yes or no.<|im_end|>\n"
NEW_TOKENS: Final = 8
BAR: Final = 1 / 5
"""Of the plain adapters' time."""


@dataclass(frozen=True)
class Round:
    """Seconds until the last of the judges had answered, and how many tokens were computed for them."""

    seconds: float
    num_computed: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.judges", description=__doc__.splitlines()[0])
    parser.add_argument("--judges", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        places = {"max_rows": options.judges + 4, "adapter_slots": 2 * options.judges}
        config = replace(read_config(), var_dir=Path(home), base_model=str(options.model), **places)
        sys.exit(0 if _compare(config, options.judges, options.tokens, options.rounds) else 1)


def _compare(config: EngineConfig, num_judges: int, num_tokens: int, num_rounds: int) -> bool:
    engine = Engine(config)
    counts = _counted(engine)
    kinds = {"aLoRA": engine.machine.tokenizer.encode(INVOCATION), "plain": []}
    judges = {name: _judges(config, ids, num_judges) for name, ids in kinds.items()}
    measured: dict[str, list[Round]] = {name: [] for name in judges}
    for number in range(num_rounds + 1):
        for name, refs in judges.items():
            found = _round(engine, refs, _conversation(engine, f"{number} {name}", num_tokens), counts)
            if number:  # adapters come onto the device with the first
                measured[name].append(found)
    engine.close()
    seconds = {name: median(found.seconds for found in rounds) for name, rounds in measured.items()}
    for name, rounds in measured.items():
        spread = ", ".join(f"{found.seconds:.2f}" for found in rounds)
        print(f"{num_judges} {name}: {seconds[name]:.2f} s ({spread}), {rounds[0].num_computed} tokens computed")
    share = seconds["aLoRA"] / seconds["plain"]
    print(f"{share:.3f} of the time, at most {BAR:.2f} wanted")
    return share <= BAR


def _judges(config: EngineConfig, invocation: list[int], count: int) -> list[AdapterRef]:
    """Adapters of rank 16 on all seven linears, random, active from `invocation` on where there is one."""
    refs = []
    for seed in range(count):
        directory = write(
            Path(config.base_model), config.var_dir / f"judge-{seed}-{bool(invocation)}", seed, 16, ALL_SEVEN
        )
        path = directory / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"alora_invocation_tokens": invocation or None}))
        refs.append(AdapterRef(put_into_store(directory, config.adapters_dir)))
    return refs


def _conversation(engine: Engine, seed: str, num_tokens: int) -> tuple[int, ...]:
    """Random words, which nobody has read before."""
    drawn = random.Random(seed)
    return tuple(drawn.randrange(100, engine.machine.tokenizer.vocab_size) for _ in range(num_tokens))


def _round(engine: Engine, judges: list[AdapterRef], conversation: tuple[int, ...], counts: list[int]) -> Round:
    prompt = (*conversation, *engine.machine.tokenizer.encode(INVOCATION + QUESTION))
    sampling = Sampling(max_tokens=NEW_TOKENS, ignore_eos=True)
    counts.clear()
    start = time.perf_counter()
    for number, judge in enumerate(judges):
        engine.add(Generate(f"{number}", judge, token_ids=prompt, sampling=sampling, tenant="bench"))
    ended = 0
    while engine.has_work:
        for event in engine.step():
            assert not isinstance(event, Failed), event
            ended += isinstance(event, Finished)
    assert ended == len(judges), "each judge answers"
    return Round(time.perf_counter() - start, sum(counts))


def _counted(engine: Engine) -> list[int]:
    """The rows of each pass of `engine` from now on."""
    counts: list[int] = []
    forward = engine.machine.runner.decoder.forward

    def counting(batch: Any, cache: Any) -> Any:
        counts.append(len(batch.token_ids))
        return forward(batch, cache)

    engine.machine.runner.decoder.forward = counting  # type: ignore[method-assign]
    return counts


if __name__ == "__main__":
    main()
