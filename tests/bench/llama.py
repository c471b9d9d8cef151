"""`python -m tests.bench.llama`: one user of the base in llama.cpp, in its own process, with no server around it.

Runs in a virtual environment that has llama-cpp-python. Reads JSON from its input: the model's file, threads, and runs
of prompts and the length of an answer; writes one line of JSON a run. No adapter, greedy, ends of sequence ignored.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import islice
from typing import Any


def main() -> None:
    from llama_cpp import Llama  # there is none in the project's own environment

    asked = json.load(sys.stdin)
    model = Llama(
        asked["model"], n_ctx=2048, n_threads=asked["threads"], n_threads_batch=asked["threads"], verbose=False
    )
    _figures(model, asked["runs"][0]["prompts"][-1:], 4)  # warms up
    for run in asked["runs"]:
        print(json.dumps(_figures(model, run["prompts"], run["tokens"])), flush=True)


def _figures(model: Any, prompts: list[str], length: int) -> dict[str, float]:
    firsts, nexts, began = list[float](), list[float](), time.perf_counter()
    for prompt in prompts:
        sent = time.perf_counter()
        tokens = model.tokenize(prompt.encode(), add_bos=False)
        times = [time.perf_counter() for _ in islice(model.generate(tokens, temp=0.0), length)]
        firsts.append(times[0] - sent)
        nexts.append((times[-1] - times[0]) / (length - 1))
    return {
        "tokens_per_second": len(prompts) * length / (time.perf_counter() - began),
        "first_ms": statistics.median(firsts) * 1000,
        "next_ms": statistics.median(nexts) * 1000,
    }


if __name__ == "__main__":
    main()
