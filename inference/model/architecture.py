"""What a decoder looks like, read from its config.json. Numbers only: no torch, no weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from inference.model.config_values import check_values
from inference.model.families.family import WINDOWED, Config, Family, rotary_part
from inference.model.families.known import family_of
from inference.model.json_file import read_object
from inference.model.rope_config import read_rope
from inference.model.spec import (
    EMBEDDING,
    HEAD,
    LAST_NORM,
    NORMS,
    QKV,
    TARGETS,
    ArchitectureError,
    DecoderSpec,
    Names,
    Rope,
)
from inference.reading import reading, shown

__all__ = [
    "EMBEDDING",
    "HEAD",
    "TARGETS",
    "Architecture",
    "ArchitectureError",
    "Place",
    "Rope",
    "Source",
    "parse_architecture",
    "read_architecture",
    "untrained",
]

_NUMBER: Final = re.compile(r"\.([0-9]{1,5})\.")


@dataclass(frozen=True)
class Place:
    """Where an adapter's module is in the decoder: a target of a layer, and its share of the module's outputs."""

    target: str
    layer: int
    outputs: slice | list[int]

    @property
    def width(self) -> int:
        """How many outputs that are."""
        return self.outputs.stop - self.outputs.start if isinstance(self.outputs, slice) else len(self.outputs)


@dataclass(frozen=True)
class Source:
    """Where a checkpoint holds a target: in `rows` of the `outputs` of the linear `module`."""

    module: str
    rows: slice
    outputs: int


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder, and the name that sentences give it.

    `sliding_window` counts tokens a row may look back to, itself included; None is all.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    max_position: int
    rope: Rope = field(default_factory=Rope)
    sliding_window: int | None = None
    tied_embeddings: bool = False
    spec: DecoderSpec = field(default_factory=DecoderSpec)
    names: Names = field(default_factory=Names)
    name: str = field(default="the base", repr=False, compare=False)

    @property
    def targets(self) -> tuple[str, ...]:
        """The linears of a layer."""
        return TARGETS if self.spec.is_gated else tuple(target for target in TARGETS if target != "gate_proj")

    @property
    def rotary_dim(self) -> int:
        """How many numbers of a head turn."""
        return int(self.head_dim * self.spec.rotary_part)

    def window(self, layer: int) -> int | None:
        """How many tokens a row of `layer` may look back to."""
        return self.sliding_window if self._is_windowed(layer) else None

    def rope_of(self, layer: int) -> Rope | None:
        """By what queries and keys of `layer` turn, if they do."""
        if self.spec.turning and not self.spec.turning[layer]:
            return None
        return self.spec.local_rope if self.spec.local_rope and self._is_windowed(layer) else self.rope

    def within(self, context: int) -> Architecture:
        """The same, served with a context of so many tokens: a rotary embedding that is another one for long contexts
        is that for all of them or for none, so that no token's keys depend on how long its text becomes."""
        if self.rope.kind != "longrope":
            return self
        is_long = context > self.rope.scaling["original_max_position_embeddings"]
        return replace(self, rope=replace(self.rope, scaling={**self.rope.scaling, "is_long": is_long}))

    def _is_windowed(self, layer: int) -> bool:
        return not self.spec.windowed or self.spec.windowed[layer]

    def target_shape(self, target: str) -> tuple[int, int]:
        """(in features, out features) of `target`: one of `TARGETS`, `NORMS`, `EMBEDDING` or `HEAD`."""
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            **dict.fromkeys(NORMS, (self.hidden_size, self.hidden_size)),
            "q_norm": (heads, heads),
            "k_norm": (kv_heads, kv_heads),
            "q_proj": (self.hidden_size, heads),
            "k_proj": (self.hidden_size, kv_heads),
            "v_proj": (self.hidden_size, kv_heads),
            "o_proj": (heads, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
            EMBEDDING: (self.vocab_size, self.hidden_size),
            HEAD: (self.hidden_size, self.vocab_size),
        }[target]

    def target_layers(self, target: str) -> int:
        """How many modules of the base are a `target`: one in each layer, or the one embedding, head or last norm."""
        return 1 if target in (EMBEDDING, HEAD, LAST_NORM) else self.num_layers

    def module_name(self, target: str, layer: int) -> str:
        """The module `target` of `layer`, by itself: ``model.layers.0.mlp.up_proj`` or ``lm_head``."""
        if target == HEAD:
            return HEAD
        if target == EMBEDDING:
            return f"model.{EMBEDDING}"
        return self._in_layer(layer, self.names.path(target))

    def _in_layer(self, layer: int, path: str) -> str:
        return f"{self.names.layers}.{layer + self.names.first_layer}.{path}"

    def source(self, target: str, layer: int) -> Source:
        """Where checkpoints hold `target` of `layer`."""
        path = self.names.fused_path(target)
        shares = dict(self._blocks(self.names.fused.get(path, (target,))))
        outputs = max(share.stop for share in shares.values())
        module = self._in_layer(layer, path) if path else self.module_name(target, layer)
        return Source(module, shares[target], outputs)

    def published_name(self, target: str) -> str:
        """What checkpoints call `target`, by itself or fused of several: ``o_proj``, ``dense``, ``qkv_proj``."""
        return self.source(target, 0).module.rpartition(".")[2]

    def modules(self, named: Collection[str] = ()) -> Iterator[str]:
        """All modules that an adapter may change, as checkpoints name them; for a fused one its parts, if any of these
        is `named`."""
        for target in (*self.targets, EMBEDDING, HEAD):
            for layer in range(self.target_layers(target)):
                yield from self._modules_of(target, layer, named)

    def _modules_of(self, target: str, layer: int, named: Collection[str]) -> Iterator[str]:
        members = self.names.fused.get(self.names.fused_path(target), (target,))
        if len(members) == 1 or any(self.module_name(member, layer) in named for member in members):
            yield self.module_name(target, layer)
        elif target == members[0]:
            yield self.source(target, layer).module

    def places(self, module: str) -> tuple[Place, ...]:
        """What `module` is of this decoder, by itself or fused of several; empty when there is no such module."""
        layer, path = self.names.numbered(module)
        for target in (*self.targets, EMBEDDING, HEAD):
            # Other code has no name for a part of what it fused.
            has_name = not (self.names.whose and self.names.fused_path(target))
            if has_name and self.module_name(target, max(layer, 0)) == module and layer < self.target_layers(target):
                return (Place(target, max(layer, 0), slice(0, self.target_shape(target)[1])),)
        members = self.names.fused.get(path, ()) if 0 <= layer < self.num_layers else ()
        shares = self._by_head() if self.names.is_by_head and members == QKV else self._blocks(members)
        return tuple(Place(target, layer, outputs) for target, outputs in shares)

    def spelled_for(self, modules: Collection[str]) -> Architecture:
        """The same in the names of whose code has most of `modules`; in the family's own where none has more."""
        if all(map(self.places, modules)):
            return self
        spellings = [self, *(replace(self, names=names) for names in self.names.others)]
        return max(spellings, key=lambda spelled: sum(bool(spelled.places(module)) for module in modules))

    def _blocks(self, members: tuple[str, ...]) -> Iterator[tuple[str, slice]]:
        """The outputs of each of `members` in the linear that they make, one behind the other."""
        start = 0
        for target in members:
            stop = start + self.target_shape(target)[1]
            yield target, slice(start, stop)
            start = stop

    def _by_head(self) -> Iterator[tuple[str, list[int]]]:
        """The outputs of queries, keys and values where each key head has its own together: the queries that share it,
        its key and its value."""
        dim, group = self.head_dim, self.num_heads // self.num_kv_heads
        for target, first, count in zip(QKV, (0, group, group + 1), (group, 1, 1), strict=True):
            starts = [(head * (group + 2) + first) * dim for head in range(self.num_kv_heads)]
            yield target, [row for start in starts for row in range(start, start + count * dim)]


def layer_of(module: str) -> str:
    """The number of the layer that `module` lies in; empty for the embedding and the head."""
    numbered = _NUMBER.search(module)
    return numbered[1] if numbered else ""


def read_architecture(path: Path) -> Architecture:
    """Read the config.json at `path`; the model is named by its folder.

    Raises `ArchitectureError` for a model that the decoder does not compute.
    """
    if not path.is_file():
        raise ArchitectureError(f"{path} is missing; a model directory holds a config.json")
    return replace(parse_architecture(read_object(path, ArchitectureError)), name=path.parent.name)


def parse_architecture(config: dict[str, Any]) -> Architecture:
    """The `Architecture` that a config.json describes; raises `ArchitectureError` naming what does not fit."""
    with reading("config.json", ArchitectureError):
        family = family_of(config)
        # One that was published with a model for pictures has a config within a config.
        inner = config.get("text_config") or {}
        if not isinstance(inner, dict):
            raise ArchitectureError(f"text_config is {shown(inner)}; it is an object, or absent")
        whole = {**family.defaults, **config, **inner}
        architecture = _parse(family, whole)
        _check(architecture)
        _check_windows(architecture, whole)
    return architecture


def _parse(family: Family, config: Config) -> Architecture:
    check_values(config, family.eps, family.firm)
    _check_meant(family, config)
    heads, spec = config["num_attention_heads"], family.describe(config)
    window = config.get("sliding_window")
    if spec.windowed and not any(spec.windowed):
        spec, window = replace(spec, windowed=(), local_rope=None), None
    return Architecture(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        norm_eps=config.get(family.eps, 1e-6),
        max_position=config.get("max_position_embeddings", 2048),
        rope=read_rope(config),
        sliding_window=window,
        tied_embeddings=config.get("tie_word_embeddings", False),
        spec=spec,
        names=family.names,
    )


def _check_meant(family: Family, config: Config) -> None:
    """What means nothing in `family` is not asked for, since programs differ in what they make of it. Raises
    `ArchitectureError`."""
    name, window = family.architectures[0], config.get("sliding_window")
    if not family.has_window and window is not None:
        raise ArchitectureError(
            f"sliding_window is {shown(window)}, and a {name} has no window; say null, or name one that has"
        )
    if not family.turns_in_part and (part := rotary_part(config)) != 1:
        raise ArchitectureError(
            f"partial_rotary_factor is {part}, and a {name} turns all of a head; leave it out, or name an architecture "
            "that does not"
        )
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if config.get("head_dim") is None and width % heads:
        raise ArchitectureError(f"hidden_size {width} is no multiple of {heads} heads; give head_dim")


def _check_windows(arch: Architecture, config: Config) -> None:
    """What `layer_types` says of windows is what the other words make of them. Raises `ArchitectureError`."""
    if any(arch.spec.windowed) and arch.sliding_window is None:
        raise ArchitectureError("some layers have a window, and sliding_window is null; say how wide it is")
    told = [kind == WINDOWED for kind in config.get("layer_types") or ()]
    found = [arch.window(layer) is not None for layer in range(arch.num_layers)]
    if told and told != found:
        raise ArchitectureError(
            f"layer_types has {WINDOWED} in {sum(told)} layers, and by sliding_window, use_sliding_window and the "
            f"architecture there is a window in {sum(found)}; let them say the same"
        )


def _check(arch: Architecture) -> None:
    """What must go together does. Raises `ArchitectureError`."""
    if arch.num_heads % arch.num_kv_heads:
        raise ArchitectureError(f"{arch.num_heads} heads cannot share {arch.num_kv_heads} key heads evenly")
    if not 0 < arch.spec.rotary_part <= 1:
        raise ArchitectureError(f"partial_rotary_factor is {arch.spec.rotary_part}; it is above 0 and at most 1")
    if arch.rotary_dim % 2:
        raise ArchitectureError(f"{arch.rotary_dim} of the {arch.head_dim} numbers of a head turn; they turn in pairs")
    for key in ("short_factor", "long_factor") if arch.rope.kind == "longrope" else ():
        if len(arch.rope.scaling[key]) != arch.rotary_dim // 2:
            has = f"has {len(arch.rope.scaling[key])} factors; {arch.rotary_dim // 2} pairs turn"
            raise ArchitectureError(f"the rotary scaling's {key} {has}")


def untrained(architecture: Architecture, longest: int = 0) -> tuple[str, ...]:
    """What a base has whose gradients our own trainer does not compute, in words, where rows have up to `longest`
    tokens."""
    fused = ("fused linears",) if architecture.names.fused else ()
    window = architecture.sliding_window
    narrow = (f"a window of {window} tokens over rows of {longest}",) if window is not None and longest > window else ()
    return (*architecture.spec.beyond_llama(), *fused, *narrow)
