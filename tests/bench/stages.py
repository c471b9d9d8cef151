"""The order of a benchmark: which server stands when, and what is measured on it; what is done is left out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from tests.bench import scenarios, site, vllm
from tests.bench.bench import Bench
from tests.bench.busy import beside_burners
from tests.bench.offline import engine_variables, in_turn
from tests.bench.peers import find_peer
from tests.bench.processes import resident_mb
from tests.bench.record import Run
from tests.bench.training import beside_training
from tests.bench.workloads import NARROW, NEW_TOKENS, WIDE, WORKLOADS

PARTS: Final = {
    "bf16": {},
    "int8": {"QUANTIZATION": "int8"},
    "int4": {"QUANTIZATION": "int4"},
    "avx2": {"DECODER_UNIT": "avx2"},
}
"""The settings under which the parts of a pass are measured."""


def plain_site(bench: Bench) -> None:
    """The workloads and what else needs no cache, on one site; wide adapters come when memory has been read."""
    wanted = bench.wanted("site", WORKLOADS) if "site" in bench.systems else []
    others = bench.wanted("scenarios", ("startup", "busy", "fairness", "crowd", "cold"))
    if not wanted and not others:
        return
    with bench.site() as live:
        live.import_adapters([bench.adapters[name] for name in NARROW])
        for name in ("w1", "w2", "w3"):
            bench.load("site", name, live.target, wanted)
        if "w3" in wanted:
            bench.record.add("scenarios", "memory", {"worker_mb": resident_mb(live.worker)})
        bench.load("site", "w4", live.target, wanted)
        bench.fill("scenarios", "startup", lambda run: scenarios.startup(live))
        bench.fill("scenarios", "busy", lambda run: beside_burners(live, bench.prompts, f"busy-{run}"))
        bench.fill("scenarios", "fairness", lambda run: scenarios.fairness(live, bench.prompts, f"fairness-{run}"))
        if "w5" in wanted:
            live.import_adapters([bench.adapters[name] for name in WIDE])
            bench.load("site", "w5", live.target, wanted)
        if {"crowd", "cold"} & set(others):
            scenarios.register_crowd(live, bench.base)
            bench.fill("scenarios", "crowd", lambda run: scenarios.crowd(live, bench.prompts, f"crowd-{run}"))
            bench.fill("scenarios", "cold", lambda run: scenarios.cold(live, bench.prompts, str(run)))


def quantised_site(bench: Bench) -> None:
    """One user and many of a site whose base has fewer bits."""
    for quantization in ("int8", "int4"):
        system = f"site {quantization}"
        wanted = bench.wanted(system, ("w1", "w3")) if "site" in bench.systems else []
        if wanted:
            with bench.site(QUANTIZATION=quantization) as live:
                live.import_adapters([bench.adapters[name] for name in NARROW])
                for name in wanted:
                    bench.load(system, name, live.target, wanted)


def overhead(bench: Bench) -> None:
    """What every process but the engine costs at 1,000 tokens a second."""
    if bench.wanted("scenarios", ["overhead"]):
        with site.running(bench.directory / "hollow", bench.models, site.PLAIN, worker="tests.bench.hollow") as live:
            scenarios.register_crowd(live, bench.base, len(NARROW))
            bench.fill("scenarios", "overhead", lambda run: scenarios.overhead(live, bench.prompts, f"overhead-{run}"))


def prefix_cache(bench: Bench) -> None:
    if bench.wanted("scenarios", ["prefix"]):
        with bench.site(PREFIX_CACHE="on") as live:
            bench.fill("scenarios", "prefix", lambda run: scenarios.prefix(live, bench.prompts, bench.tasks, str(run)))


def training(bench: Bench) -> None:
    if bench.wanted("scenarios", ["training"]):
        with bench.site() as live:
            bench.fill("scenarios", "training", lambda run: beside_training(live, bench.prompts, f"training-{run}"))


def speculation(bench: Bench) -> None:
    """The same rows with speculation off and on, one user and eight; the answers must be the same."""
    if not bench.wanted("scenarios", ["speculation"]):
        return
    told: list[Run] = [{} for _ in range(bench.runs)]
    texts = set[str]()
    for setting in ("off", "on"):
        with bench.site(SPECULATION=setting) as live:
            scenarios.answers_of(live, bench.tasks, 8)
            for run in told:
                for users in (1, 8):
                    answered = scenarios.answers_of(live, bench.tasks, users)
                    run[f"{setting}_{users}_users"] = answered["tokens_per_second"]
                    texts.add(json.dumps(answered["texts"]))
    for run in told:
        run |= {f"gain_{users}_users": run[f"on_{users}_users"] / run[f"off_{users}_users"] for users in (1, 8)}
        bench.record.add("scenarios", "speculation", run | {"different_answers": len(texts) - 1})


def parts(bench: Bench) -> None:
    """How near products, attention and head come to the peak; each setting once, for it has its own repetitions."""
    for name, settings in PARTS.items():
        if "parts" in bench.only and "engine" in bench.systems and bench.record.missing("parts", name, 1):
            variables = engine_variables(bench, settings) | {"VAR_DIR": str(bench.models.parent)}
            for told in _told("tests.bench.parts", None, variables):
                if "refused" in told:
                    print(f"parts, {name}: {told['refused']}", flush=True)
                else:
                    bench.record.add("parts", name, told)


def peft(bench: Bench) -> None:
    """The workloads offline, one static batch after another, through PEFT (W4: transformers alone)."""
    names = bench.wanted("peft", WORKLOADS) if "peft" in bench.systems else []
    if not names:
        return
    runs = []
    for name in names:
        asks = bench.asks(name, "peft")[: max(WORKLOADS[name].users, 2)]
        models, prompts = [ask.model for ask in asks], [ask.prompt for ask in asks]
        runs.append({"users": WORKLOADS[name].users, "models": models, "prompts": prompts, "tokens": NEW_TOKENS})
        runs[-1]["times"] = bench.runs
    adapters = next(iter(bench.adapters.values())).parent
    asked = {"base": str(bench.base), "adapters": str(adapters), "runs": runs}
    told = _told("tests.bench.peft_batch", asked, site.environment())
    for name in names:
        for _ in range(bench.runs):
            bench.record.add("peft", name, next(told))


def vllm_variants(bench: Bench) -> None:
    """vLLM, each variant started once, with the same load generator."""
    for variant, names in vllm.WORKLOADS_OF.items():
        home = find_peer(bench.peers, "vllm") if "vllm" in bench.systems else None
        if home is None or not (wanted := bench.wanted(variant, names)):
            continue
        adapters = next(iter(bench.adapters.values())).parent
        with vllm.running(home, variant, bench.base, adapters, bench.directory / "vllm.log") as (target, seconds):
            bench.record.add(variant, "start", {"ready_seconds": seconds})
            for name in wanted:
                bench.load(variant, name, target, wanted)


STAGES: Final = (
    overhead,
    plain_site,
    quantised_site,
    in_turn,
    parts,
    vllm_variants,
    peft,
    prefix_cache,
    speculation,
    training,
)


def _told(module: str, asked: Any, variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What a measuring process of its own writes, one run a line, as it comes."""
    command, streams = [sys.executable, "-m", module], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=site.REPO, env=variables, text=True, **streams) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        yield from (json.loads(line) for line in process.stdout if line.startswith("{"))
    if process.returncode:
        raise RuntimeError(f"{module} ended with exit code {process.returncode}; see above")
