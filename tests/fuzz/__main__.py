"""`python -m tests.fuzz TARGET --seconds N`: more inputs than the suite tries, by coverage where atheris is there.

atheris (`pip install atheris`, Linux) is no dependency; without it the suite's own damage is drawn at random. A fault
ends the run with its traceback and the input, which belongs into `tests/fuzz/corpus.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import django


def main() -> int:
    options = _options()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    if find_spec("atheris"):
        import atheris

        with atheris.instrument_imports(include=["inference", "loraland"]):
            django.setup()
            from tests.fuzz import targets
        run = _by_coverage
    else:
        django.setup()
        from tests.fuzz import targets

        run = _at_random
    if options.target not in targets.TARGETS:
        print(f"error: {options.target!r} is no target; there are {', '.join(targets.TARGETS)}", file=sys.stderr)
        return 2
    with targets.shapes_of_the_base():
        run(options.target, targets.TARGETS[options.target], options.seconds)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    return parser.parse_args()


def _by_coverage(name: str, target: Callable[[bytes], None], seconds: int) -> None:
    """Let atheris change the corpus; it ends the process itself, with a failure where it found one."""
    import atheris

    from tests.fuzz.corpus import CORPUS
    from tests.fuzz.inputs import MOST_BYTES

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(CORPUS[name].values()):
            if len(data) <= MOST_BYTES:
                (Path(folder) / str(number)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=60"]
        atheris.Setup([sys.argv[0], *limits, folder], target)
        atheris.Fuzz()


def _at_random(name: str, target: Callable[[bytes], None], seconds: int) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    from tests.fuzz.inputs import INPUTS

    num_inputs, end = 0, time.monotonic() + seconds
    phases = (Phase.generate, Phase.shrink)

    @settings(max_examples=500, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck))
    @given(INPUTS[name])
    def draw(data: bytes) -> None:
        nonlocal num_inputs
        num_inputs += 1
        target(data)

    while time.monotonic() < end:
        draw()
    print(f"{name}: {num_inputs} inputs, no fault")


if __name__ == "__main__":
    sys.exit(main())
