"""Real workers with a small model and real adapters: an answer is the same at home, where it was stolen, and after a
home was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference.wire.protocol import AdapterRef, Generate, Sampling
from inference.wire.redis_wire import RedisWire
from tests.inference.checkpoints import make_adapter, make_model
from tests.inference.engines import VOCAB, make_tokenizer
from tests.inference.worker.test_takeover import Reader, Start, owner, ready, server, start, wire

__all__ = ["server", "start", "wire"]

pytestmark = pytest.mark.slow

TOKENS = 400


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("homes") / "models" / "tiny"
    return make_tokenizer(make_model(directory, vocab_size=VOCAB, max_position_embeddings=1024))


async def ask(wire: RedisWire, id: str, digest: str) -> Reader:
    sampling = Sampling(temperature=0.8, seed=3, max_tokens=TOKENS, ignore_eos=True)
    request = Generate(id, AdapterRef(digest), prompt="Tell me of a lighthouse.", sampling=sampling, tenant=id)
    await wire.submit(request, "tiny", "chat", 100)
    return Reader(wire, id)


async def answer(wire: RedisWire, id: str, digest: str) -> tuple[list[int], str]:
    """The tokens of one answer, and which worker has computed it."""
    reader = await ask(wire, id, digest)
    await reader.seen(1)
    worker = await owner(wire, id) or ""
    await reader.end()
    return reader.token_ids, worker


def run(start: Start, base: Path, url: str) -> dict[str, subprocess.Popen]:
    """Two workers over the same base."""
    var_dir = base.parent.parent
    env = {"REDIS_URL": url, "BASE_MODEL": str(base), "VAR_DIR": str(var_dir), "THREADS": "1", "DEVICE": "cpu"}
    env |= {"DECODER": "torch", "DTYPE": "float32", "LEASE_SECONDS": "2"}
    command = [sys.executable, "-m", "inference"]
    return {name: start(name, command=command, env={**env, "WORKER_NAME": name}) for name in ("w1", "w2")}


async def test_tokens_are_the_same_at_home_when_stolen_and_when_the_home_is_killed(wire, server, start, base):
    adapters = base.parent.parent / "adapters"
    adapters.mkdir()
    digests = [make_adapter(base, adapters, seed=seed) for seed in range(4)]
    workers = run(start, base, server.url)
    await ready(wire, "tiny", *workers)

    undisturbed = {digest: await answer(wire, f"first-{digest[:8]}", digest) for digest in digests}
    assert len({tuple(tokens) for tokens, _ in undisturbed.values()}) == len(digests)
    again = {digest: await answer(wire, f"again-{digest[:8]}", digest) for digest in digests}
    assert again == undisturbed, "each is answered where it was answered first"

    digest = digests[0]
    tokens, home = undisturbed[digest]
    thief = "w2" if home == "w1" else "w1"
    workers[home].send_signal(signal.SIGSTOP)
    stolen = await answer(wire, "stolen", digest)
    workers[home].send_signal(signal.SIGCONT)
    assert stolen == (tokens, thief)
    assert await answer(wire, "after", digest) == (tokens, thief), "it is at home there now"

    reader = await ask(wire, "killed", digest)
    await reader.seen(5)
    workers[thief].kill()
    end = await reader.end()
    assert (reader.token_ids, end.stats.takeovers) == (tokens, 1)
    for digest in digests:
        assert await answer(wire, f"later-{digest[:8]}", digest) == (undisturbed[digest][0], home)
