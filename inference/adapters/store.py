"""Adapters from disk into host memory: by digest out of the store, through the host cache.

What is loaded has been proved to be what was asked for (`inference.adapters.file`). The cache forgets the least
recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final

from inference.adapters.blend import blend
from inference.adapters.composition import compose
from inference.adapters.config_file import ConfigRefused, read_config
from inference.adapters.examination import CONFIG
from inference.adapters.file import AdapterRefused, Base, HostAdapter
from inference.adapters.gate_file import gate_digest, read_gate
from inference.adapters.gate_head import GATE_FILE
from inference.adapters.invocation import read_invocation
from inference.adapters.mapped import load_mapped
from inference.adapters.stored import AdapterNotFound, checked, digest_of, held, is_digest
from inference.adapters.stored_gate import StoredGate
from inference.adapters.weights import AdapterWeights
from inference.model.added_tokens import AddedToken, read_added
from inference.objects.cache import FolderCache
from inference.wire.protocol import Component, GateRef

MOST_KNOWN: Final = 4096
"""Adapters of which a worker remembers what they ask of their prompts."""


@dataclass(frozen=True)
class Told:
    """What an adapter's config says of its prompts: the tokens of its own tokenizer, and those that invoke it."""

    tokens: tuple[AddedToken, ...] = ()
    invocation: tuple[int, ...] = ()


class AdapterStore:
    """The directory that holds adapters, each in a folder named by its digest. With a `cache` the store lies elsewhere
    and this is where its folders come when they are asked for."""

    def __init__(self, directory: Path, base: Base, max_rank: int = 64, cache: FolderCache | None = None) -> None:
        self.directory = directory
        self._base, self._max_rank, self._cache = base, max_rank, cache
        self._known: dict[str, Told] = {}

    def load(self, digest: str) -> HostAdapter:
        """Map or read the adapter `digest`. Raises `AdapterNotFound`, or `AdapterRefused` with every reason, and
        OSError."""
        adapter = self._load(digest)
        return replace(adapter, is_activated=bool(self.told(digest).invocation))

    def _load(self, digest: str) -> HostAdapter:
        """A copy on this host that is refused was proven when it came: if its disk has changed it, another comes."""
        try:
            with self._held(digest) as directory:
                return load_mapped(directory, digest, self._base, self._max_rank)
        except AdapterRefused:
            if self._cache is None or not self._is_changed(digest):
                raise
        self._cache.forget(digest)
        with self._held(digest) as directory:
            return load_mapped(directory, digest, self._base, self._max_rank)

    def _is_changed(self, digest: str) -> bool:
        with self._held(digest) as directory:
            return digest_of(directory) != digest

    def gate(self, digest: str) -> StoredGate:
        """Read the gate `digest`. Raises `AdapterNotFound`, or `AdapterRefused` with every reason."""
        try:
            with self._held(digest) as directory:
                gate = read_gate(directory / GATE_FILE, self._base.architecture.hidden_size)
        except AdapterNotFound as error:
            raise AdapterNotFound(digest, str(error), "gate") from error
        if gate_digest(gate) != digest:
            raise AdapterRefused([f"the gate that is stored as {digest[:12]} is another one; import it again"])
        return gate

    def told(self, digest: str) -> Told:
        """What the adapter asks of its prompts; nothing where nobody can read its config, which `load` tells."""
        try:
            return self._told(digest)
        except (AdapterNotFound, ConfigRefused, OSError):
            return Told()

    def is_here(self, digest: str) -> bool:
        """Whether nothing of `digest` has to come from elsewhere before it can be loaded. What is no digest is here:
        there is nothing to fetch."""
        return self._cache is None or not is_digest(digest) or self._cache.has(digest)

    def fetch(self, digest: str) -> None:
        """Have `digest` on this host, and know what it asks of its prompts. Raises `AdapterNotFound` and OSError."""
        with self._held(digest) as directory:
            if (directory / CONFIG).exists():
                self.told(digest)

    def knows(self, digest: str) -> bool:
        """Whether `told` needs no file to say what the adapter asks of its prompts."""
        return digest in self._known

    def _told(self, digest: str) -> Told:
        """What is stored under a digest stays as it is."""
        if (told := self._known.get(digest)) is None:
            with self._held(digest) as directory:
                config = read_config(directory / CONFIG)
            while len(self._known) >= MOST_KNOWN:
                self._known.pop(next(iter(self._known)), None)
            told = self._known[digest] = Told(read_added(config)[0], read_invocation(config)[0])
        return told

    @contextmanager
    def _held(self, digest: str) -> Iterator[Path]:
        """The folder of `digest`, which stays while it is read."""
        if self._cache is None:
            yield self._path(digest)
            return
        with held(self._cache, digest) as directory:
            yield directory

    def _path(self, digest: str) -> Path:
        """The folder of `digest`, which must lie inside the store; raises `AdapterNotFound`."""
        path = (self.directory / checked(digest)).resolve()
        if not path.is_relative_to(self.directory.resolve()) or not path.is_dir():
            raise AdapterNotFound(digest, f"no adapter {digest[:12]}… is stored here; import it again")
        return path


def _no_gate(digest: str) -> StoredGate:
    raise AdapterNotFound(digest, f"no gate {digest[:12]}… is stored here; import it again", "gate")


class AdapterCache:
    """Adapters in host memory, at most `max_bytes` of them. Safe to call from several threads.

    Sums and blends of adapters, of ranks up to `max_rank` together, are made from what is kept and kept like any
    other. What is kept is in the layout that `prepare` gives weights, which is one of `Bank`. `load_gate` reads a
    trained gate.
    """

    def __init__(
        self,
        load: Callable[[str], HostAdapter],
        max_bytes: int,
        max_rank: int = 64,
        prepare: Callable[[AdapterWeights], AdapterWeights] = lambda weights: weights,
        load_gate: Callable[[str], StoredGate] = _no_gate,
    ) -> None:
        self._load, self._max_bytes, self._max_rank, self._prepare = load, max_bytes, max_rank, prepare
        self._load_gate = load_gate
        self._kept: OrderedDict[str, HostAdapter] = OrderedDict()
        self._lock = Lock()

    @property
    def digests(self) -> tuple[str, ...]:
        """What is kept, least recently used first."""
        with self._lock:
            return tuple(self._kept)

    @property
    def num_bytes(self) -> int:
        """Bytes of weights kept."""
        with self._lock:
            return self._num_bytes()

    def find(self, digest: str) -> HostAdapter | None:
        """The adapter `digest` if it is kept."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            return self._kept.get(digest)

    def load(self, digest: str, components: tuple[Component, ...] = (), gate: GateRef | None = None) -> HostAdapter:
        """The adapter `digest`, read if it is not kept, or of `components` if there are any: their sum, or their blend
        by `gate`.

        Raises as `AdapterStore.load`, `compose` and `blend` do.
        """
        if kept := self.find(digest):
            return kept
        parts = [(self.load(component.digest), component.weight) for component in components]
        if gate:
            adapter = self._blend(digest, parts, gate)
        else:
            adapter = compose(digest, parts, self._max_rank) if parts else self._load(digest)
        adapter = replace(adapter, weights=self._prepare(adapter.weights))
        with self._lock:
            self._keep(adapter)
        return adapter

    def _blend(self, digest: str, parts: list[tuple[HostAdapter, float]], gate: GateRef) -> HostAdapter:
        stored = self._load_gate(gate.digest) if gate.digest else None
        return blend(digest, parts, gate, stored, self._max_rank)

    def _keep(self, adapter: HostAdapter) -> None:
        """An adapter larger than the whole cache is served but not kept."""
        if adapter.num_bytes > self._max_bytes:
            return
        self._kept[adapter.digest] = adapter
        self._kept.move_to_end(adapter.digest)
        while self._num_bytes() > self._max_bytes:
            self._kept.popitem(last=False)

    def _num_bytes(self) -> int:
        return sum(adapter.num_bytes for adapter in self._kept.values())
