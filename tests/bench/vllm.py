"""vLLM's build for processors, from a virtual environment of its own, as a server to compare with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.load import Target
from tests.bench.site import answers, end, environment, free_port, wait_until
from tests.bench.workloads import NARROW, WIDE

VARIANTS: Final = {
    "vllm any adapter": (["--enable-lora", "--max-loras", "25", "--max-lora-rank", "16"], (*NARROW, *WIDE)),
    "vllm tuned to the set": (
        ["--enable-lora", "--max-loras", "25", "--max-lora-rank", "8", "--lora-target-modules", "qkv_proj"],
        NARROW,
    ),
    "vllm without LoRA": ([], ()),
}
WORKLOADS_OF: Final = {
    "vllm any adapter": ("w1", "w2", "w3", "w5"),
    "vllm tuned to the set": ("w3",),
    "vllm without LoRA": ("w4",),
}
TCMALLOC: Final = Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")


@contextmanager
def running(home: Path, variant: str, base: Path, adapters: Path, log: Path) -> Iterator[tuple[Target, float]]:
    """Start one variant over the base model in `base` and yield it with the seconds it took to be ready."""
    flags, names = VARIANTS[variant]
    port = free_port()
    command = [home / "bin" / "vllm", "serve", base, "--served-model-name", "base", "--port", port]
    command += ["--dtype", "bfloat16", "--max-model-len", 2048, "--max-num-seqs", 32, "--no-enable-prefix-caching"]
    command += flags
    if names:
        command += ["--max-cpu-loras", len(names), "--lora-modules", *(f"{name}={adapters / name}" for name in names)]
    with log.open("ab") as out:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, env=_environment(home), stdout=out, stderr=out, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        seconds = wait_until(lambda: answers(f"{url}/health"), process, log)
        yield Target(url, "none", (process.pid,)), seconds
    finally:
        end(process)


def _environment(home: Path) -> dict[str, str]:
    threads = f"0-{(os.cpu_count() or 1) - 1}"
    preloaded = [str(library) for library in (TCMALLOC, home / "lib" / "libiomp5.so") if library.exists()]
    variables = {"VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_CPU_OMP_THREADS_BIND": threads, "HF_HUB_OFFLINE": "1"}
    variables |= {"LD_PRELOAD": ":".join(preloaded), "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return environment() | variables | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
