"""Engines for tests: a tiny real model with a tokenizer of bytes, or a decoder that only checks where it reads."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors
from torch import Tensor

from inference.adapters.file import HostAdapter
from inference.adapters.slots import Bank, LoraSlots
from inference.adapters.store import AdapterCache, AdapterNotFound
from inference.config import EngineConfig
from inference.decoders.batch import Batch, Segment
from inference.decoders.contract import Decoder
from inference.decoders.kv_tensors import KVCache
from inference.decoders.torch.lora import LoraBank
from inference.engine.engine import Engine
from inference.engine.loading import AdapterLoader
from inference.engine.machine import Machine
from inference.engine.model_runner import ModelRunner, canary_blocks
from inference.model.tokenizer import Tokenizer
from inference.scheduling.kv_cache import BlockPool
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.scheduler import Scheduler
from inference.structured.guide import Guides
from inference.tile import TILE
from inference.wire.protocol import (
    Delta,
    Embedded,
    Event,
    Failed,
    Finished,
    Progress,
    Prompted,
    Terminal,
    TokenLogprob,
    TokenWeights,
)

CONTROLS = ("<|end|>", "<|start|>")
VOCAB = 256 + len(CONTROLS)
EOS = 0
SILENT_STEPS = 20_000
"""Steps without an event after which an engine hangs. Steps and not seconds: a busy machine is only slow."""
TEMPLATE = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
CHAT_TEMPLATE = TEMPLATE + "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"


def make_tokenizer(directory: Path, chat_template: str | None = CHAT_TEMPLATE, opening: str = "") -> Path:
    """Save a tokenizer in which every byte is a token, and two control tokens come first.

    `opening` is the control token with which its texts begin.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index + len(CONTROLS) for index, letter in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocab | {control: n for n, control in enumerate(CONTROLS)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROLS))
    if opening:
        special = [(opening, CONTROLS.index(opening))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{opening} $A", special_tokens=special)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template)
    return directory


def make_config(model: Path, store: Path, **changes: Any) -> EngineConfig:
    """A small engine over the model in `model` and the adapters in `store`, which is named adapters."""
    fields: dict[str, Any] = {
        "var_dir": store.parent,
        "redis_url": "",
        "base_model": str(model),
        "device": "cpu",
        "kv_blocks": 64,
        "max_rows": 16,
        "adapter_slots": 4,
    }
    return EngineConfig(**{**fields, **changes})


@dataclass
class Record:
    """What a reader of one stream has seen."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    weights: list[TokenWeights] = field(default_factory=list)
    prompted: list[TokenLogprob] = field(default_factory=list)
    vectors: list[tuple[float, ...]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    num_chars: list[int] = field(default_factory=list)
    ends: list[Terminal] = field(default_factory=list)

    @property
    def end(self) -> Terminal:
        (end,) = self.ends
        return end

    @property
    def finished(self) -> Finished:
        assert isinstance(self.end, Finished), self.end
        return self.end

    @property
    def failed(self) -> Failed:
        assert isinstance(self.end, Failed), self.end
        return self.end


class Records(dict[str, Record]):
    """Streams by id, as a site would keep them. After its end a stream takes nothing more."""

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            record = self.setdefault(event.id, Record())
            assert not record.ends, f"{event} came after the end of its stream"
            if isinstance(event, Delta):
                record.text += event.text
                record.token_ids += event.token_ids
                record.logprobs += event.logprobs
                record.weights += event.weights
                record.num_chars += [len(record.text)] * len(event.token_ids)
            elif isinstance(event, Prompted):
                assert not record.token_ids, "the prompt is told before the answer"
                record.prompted += event.tokens
            elif isinstance(event, Embedded):
                record.vectors.append(event.vector)
            elif isinstance(event, Progress):
                record.states.append(event.state)
            else:
                record.ends.append(event)


def drain(engine: Engine, records: Records | None = None) -> Records:
    """Step until nothing is left to do."""
    records = Records() if records is None else records
    silent = 0
    while engine.has_work:
        events = engine.step()
        records.take(events)
        silent = 0 if events else silent + 1
        assert silent < SILENT_STEPS, "the engine does not come to an end"
        if silent:
            time.sleep(0.001)  # the thread that it may wait for gets its turn
    return records


def assert_nothing_held(engine: Engine) -> None:
    """All blocks, slots, rows and wishes are as they were at the start."""
    machine = engine.machine
    assert machine.scheduler.pool.num_free == machine.scheduler.pool.num_blocks
    assert machine.slots.num_pinned == 0
    assert machine.loader.num_wanted == 0
    assert not machine.scheduler.running
    assert not machine.scheduler.waiting


def next_token(token_ids: Iterable[int], digest: str, habit: int = 0) -> int:
    """The token with which `ReadingDecoder` continues `token_ids`; seldom the end.

    With a `habit` it mostly depends on so many of the newest tokens only, and is one of few.
    """
    state = hashlib.sha256(f"{digest} {list(token_ids)}".encode()).digest()
    if state[0] < 8:
        return EOS
    if habit and state[2] > 40:
        newest = [max(token, ~token) for token in token_ids][-habit:]
        return len(CONTROLS) + hashlib.sha256(f"{digest} {newest}".encode()).digest()[1] % 3
    return len(CONTROLS) + state[1] % 256


def expected_answer(prompt_ids: Iterable[int], digest: str, max_tokens: int, habit: int = 0) -> list[int]:
    """What `ReadingDecoder` answers when nothing is mixed up: it reads the prompt in tiles, and its answer in rows."""
    tokens, answer = list(prompt_ids), []
    while len(answer) < max_tokens and EOS not in answer:
        answer.append(next_token([*tokens, *(~token for token in answer)], digest, habit))
    return answer


class ReadingDecoder(Decoder):
    """A decoder without weights: the next token is a hash of all tokens that its row finds in the cache.

    So a block, a position, a slot or a replay that is off by one gives another answer. A token that was computed as
    a decode row lies there as its complement: like real keys it is another one than in a tile, if rows are not uniform.
    """

    def __init__(
        self, bank: Bank, digest_of: Callable[[int], str], habit: int = 0, rows_are_uniform: bool = False
    ) -> None:
        super().__init__(bank)
        self._digest_of = digest_of
        self._habit = habit
        self.rows_are_uniform = rows_are_uniform
        self._memory: dict[int, tuple[int, int, str]] = {}
        self.num_rows: list[int] = []
        self.num_tiles = 0
        self.failure: Exception | None = None

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        ids, positions, slots = (column.tolist() for column in (batch.token_ids, batch.positions, batch.cache_slots))
        assert len(set(slots)) == len(slots), "two rows write to one place"
        digests = [self._digest_of(adapter) for adapter in batch.adapter_slots.tolist()]
        decoded = {segment.start for segment in batch.decodes}
        for row, (slot, position, token) in enumerate(zip(slots, positions, ids, strict=True)):
            written = ~token if row in decoded and not self.rows_are_uniform else token
            self._memory[slot] = (position, written, digests[row])
        self.num_tiles += len(batch.tiles)
        self.num_rows.append(len(ids))
        owners = {row: segment for segment in batch.decodes + batch.tiles for row in self._rows(segment)}
        assert len(owners) == len(ids), "every row lies in exactly one segment"
        logits = torch.zeros(len(batch.sample_rows), VOCAB)
        for index, row in enumerate(batch.sample_rows.tolist()):
            context = self._read(owners[row], positions[row] + 1, cache.block_size, digests[row])
            logits[index, next_token(context, digests[row], self._habit)] = 8.0
        return logits

    def copy(self, source: int, target: int, block_size: int) -> None:
        for place in range(block_size):
            if source * block_size + place in self._memory:
                self._memory[target * block_size + place] = self._memory[source * block_size + place]

    @staticmethod
    def _rows(segment: Segment) -> range:
        return range(segment.start, segment.start + segment.length)

    def _read(self, segment: Segment, length: int, block_size: int, digest: str) -> list[int]:
        """What a row of the adapter `digest` finds: tokens of the base, if any, and then its own."""
        table, tokens, owners = segment.block_table, [], []
        for position in range(length):
            written, token, owner = self._memory[table[position // block_size] * block_size + position % block_size]
            assert written == position, "a row reads a place that belongs to another position"
            tokens.append(token)
            owners.append(owner)
        num_before = owners.index(digest)
        assert owners == [""] * num_before + [digest] * (length - num_before), "a row reads what another computed"
        return tokens


class _Slots(LoraSlots):
    """Real slots with adapters of no weight; knows which digest sits where."""

    def digest(self, slot: int) -> str:
        return next((digest for digest in self.digests if self.slot(digest) == slot), "")


def make_reading_engine(directory: Path, **changes: Any) -> Engine:
    """An engine over `ReadingDecoder`; adapters are any string but those that begin with "missing"."""
    settings: Mapping[str, Any] = {
        "num_blocks": 32,
        "block_size": 16,
        "num_slots": 2,
        "max_rows": 8,
        "prefill_tokens": 64,
        "context_length": 256,
        "prefix_cache": True,
        "is_shared": True,
        "speculation": True,
        "habit": 0,
        "rows_are_uniform": False,
    }
    settings = {**settings, **changes}
    host_cache = AdapterCache(_load, max_bytes=3)
    loader = AdapterLoader(host_cache.load, host_cache.find)
    slots = _Slots(settings["num_slots"], loader.get, LoraBank())
    pool = BlockPool(settings["num_blocks"], settings["block_size"])
    is_uniform = settings["rows_are_uniform"]
    is_on, is_shared = settings["prefix_cache"], settings["is_shared"]
    prefixes = PrefixCache(pool, TILE, is_on=is_on, rows_are_uniform=is_uniform, is_shared=is_shared)
    decoder = ReadingDecoder(slots.bank, slots.digest, settings["habit"], is_uniform)
    cache = _no_cache(pool.num_blocks + canary_blocks(pool.block_size), pool.block_size)
    cache.copy = lambda source, target: decoder.copy(source, target, pool.block_size)  # type: ignore[method-assign]
    tokenizer = Tokenizer(make_tokenizer(directory))
    canary = tuple(tokenizer.encode("a canary"))
    machine = Machine(
        tokenizer=tokenizer,
        scheduler=Scheduler(pool, slots, settings["max_rows"], settings["prefill_tokens"], prefixes),
        runner=ModelRunner(decoder, cache, canary),
        slots=slots,
        host_cache=host_cache,
        loader=loader,
        guides=Guides(tokenizer),
        context_length=settings["context_length"],
        max_rank=64,
        fingerprint="reading",
        self_check="exact",
    )
    return Engine(EngineConfig(directory, "", speculation=settings["speculation"]), machine)


def _load(digest: str) -> HostAdapter:
    if digest.startswith("missing"):
        raise AdapterNotFound(digest, f"no adapter {digest} is stored here")
    return HostAdapter(digest, {}, rank=8, num_bytes=1)


def _no_cache(num_blocks: int, block_size: int) -> KVCache:
    cache = KVCache.__new__(KVCache)
    cache.num_blocks, cache.block_size, cache.keys, cache.values = num_blocks, block_size, [], []
    return cache
