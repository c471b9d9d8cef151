"""`python -m tests.bench.llama`: one user of the base in llama.cpp, in its own process, with no server around it.

Runs in a virtual environment that has llama-cpp-python; its arguments are the model's file and how many threads. Reads
a run in JSON from each line of its input, as `tests.bench.direct` does; writes one line of JSON first, which says what
computes, and one a run. No adapter, greedy, ends of sequence ignored.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import islice
from typing import Any


def main() -> None:
    from llama_cpp import Llama, llama_print_system_info  # there is none in the project's own environment

    path, threads = sys.argv[1], int(sys.argv[2])
    model = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    print(json.dumps({"unit": llama_print_system_info().decode()}), flush=True)
    for run in map(json.loads, sys.stdin):
        prompts, length = [prompt for _, prompt, _ in run["asks"]], run["asks"][0][2]
        if run["is_first"]:
            _figures(model, prompts[-1:], 4)
        print(json.dumps(_figures(model, prompts, length)), flush=True)


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
