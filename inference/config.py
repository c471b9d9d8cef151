"""The environment of a worker, read once into a frozen `EngineConfig`; a bad value stops it with a sentence."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from inference.bases import DEFAULT_BASE_MODEL, BaseError, base_key, base_models, base_name, named_among, own_value
from inference.objects.address import Address, AddressRefused, read_address
from inference.reading import Refused
from inference.tile import TILE
from inference.wire.address import embedded_redis_url

DEVICES: Final = ("auto", "cpu", "cuda")
DTYPES: Final = ("bfloat16", "float16", "float32")
ADAPTER_QUANTIZATIONS: Final = ("none", "int8")
QUANTIZATIONS: Final = ("auto", "none", "int8", "int4", "nf4")
DEFAULT_SAMPLINGS: Final = ("greedy", "model")
PREFIX_CACHES: Final = ("on", "tenant", "off")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
DECODERS: Final = ("auto", "native", "torch")
DECODER_UNITS: Final = (
    "amx",
    "avx512_bf16",
    "avx512_vnni",
    "avx512",
    "avx_vnni",
    "avx2",
    "neon_bf16",
    "neon_dot",
    "neon",
    "portable",
)
"""Where a processor computes, in the order of `Unit` in units.h: the most able first."""
DEFAULT_CACHE_MB: Final = 20_480
_NUMBER: Final = re.compile(r"\d{1,9}(\.\d{1,9})?")
_LEAST_PART: Final = 1e-6
_REPOSITORY: Final = Path(__file__).resolve().parent.parent


class ConfigError(Refused):
    """A value of the environment that cannot be used."""


@dataclass(frozen=True)
class EngineConfig:
    """How a worker runs. Zero in `kv_blocks`, `context_length` and `threads` means: found out at start; in
    `micro_batches` for each pass."""

    var_dir: Path
    redis_url: str
    base_model: str = DEFAULT_BASE_MODEL
    device: str = "auto"
    dtype: str = "bfloat16"
    quantization: str = "auto"
    decoder: str = "auto"
    decoder_unit: str = "auto"
    adapter_quantization: str = "none"
    deterministic: bool = False
    max_rows: int = 32
    kv_blocks: int = 0
    block_size: int = 32
    context_length: int = 0
    adapter_slots: int = 32
    slots_mb: int = 2048
    max_rank: int = 64
    host_cache_mb: int = 512
    adapter_store: Address | None = None
    """None is a folder below `var_dir`."""
    adapter_cache_mb: int = DEFAULT_CACHE_MB
    model_store: Address | None = None
    memory_share: float = 1.0
    """How much of a GPU's memory this worker may take."""
    prefill_tokens: int = 256
    prefix_cache: str = "on"
    speculation: bool = True
    default_sampling: str = "greedy"
    lease_seconds: float = 10.0
    drain_seconds: float = 0.0
    """How long a worker that is to end may finish what it has; what is not done then is handed over."""
    worker_name: str = ""
    threads: int = 0
    stages: int = 1
    """Processes that share the base, each with some of its layers."""
    stage_address: str = ""
    """Where the stages of other hosts come to; empty where all are started beside the worker."""
    micro_batches: int = 0
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    first_token_within: Mapping[str, float] = field(default_factory=dict)
    """Seconds, by tenant or kind of tenant, of requests that say nothing themselves."""

    @property
    def base_key(self) -> str:
        """The name of the base model in the names of queues."""
        return base_key(self.base_model)

    @property
    def adapters_dir(self) -> Path:
        """Where adapters are read from: the store, or what of one elsewhere is on this host."""
        return folder_of_adapters(self.adapter_store, self.var_dir)

    @property
    def models_dir(self) -> Path:
        """Where fetched base models lie."""
        return self.var_dir / "models"


def folder_of_adapters(store: Address | None, var_dir: Path) -> Path:
    """Where the adapters of `store` are read from. What was a store before and what comes from one lie apart, since of
    the second the oldest goes when room is needed."""
    if store is None:
        return var_dir / "adapters"
    return Path(store.place) if store.is_local else var_dir / "adapter_cache"


def start_logging(environ: Mapping[str, str] = os.environ) -> None:
    """Log to stderr from LOG_LEVEL on. Raises `ConfigError`."""
    level = _one_of("LOG_LEVEL", environ.get("LOG_LEVEL", "").strip().lower() or "info", LOG_LEVELS)
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")


def read_config(environ: Mapping[str, str] = os.environ, base: str | None = None) -> EngineConfig:
    """Read the environment as it holds for `base`, which may be no base of the site, or for the site's default one.

    Raises `ConfigError` naming the variable, its value and what it may be.
    """
    models = bases_of(environ, base)
    base_model = (named_among(models, base) or base) if base else models[0]
    env = Environment(environ, base_model, models)
    max_rows = env.whole("MAX_ROWS", 32, 1, 1024)
    var_dir = Path(env.text("VAR_DIR", str(_REPOSITORY / "var"))).expanduser().absolute()
    return _check_together(
        EngineConfig(
            var_dir=var_dir,
            redis_url=env.text("REDIS_URL", embedded_redis_url(var_dir)),
            base_model=base_model,
            device=env.choice("DEVICE", DEVICES, "auto"),
            dtype=env.choice("DTYPE", DTYPES, "bfloat16"),
            quantization=env.choice("QUANTIZATION", QUANTIZATIONS, "auto"),
            decoder=env.choice("DECODER", DECODERS, "auto"),
            decoder_unit=env.choice("DECODER_UNIT", ("auto", *DECODER_UNITS), "auto"),
            adapter_quantization=env.choice("ADAPTER_QUANTIZATION", ADAPTER_QUANTIZATIONS, "none"),
            deterministic=env.choice("DETERMINISTIC", ("0", "1"), "0") == "1",
            max_rows=max_rows,
            kv_blocks=env.whole("KV_BLOCKS", 0, 0, 10_000_000),
            block_size=env.whole("BLOCK_SIZE", 32, 8, 256),
            context_length=env.whole("CONTEXT_LENGTH", 0, 0, 1_000_000),
            # With fewer than rows some stay empty, while those wait whose adapters have no place.
            adapter_slots=env.whole("ADAPTER_SLOTS", max(32, max_rows), 1, 1024),
            slots_mb=env.whole("SLOTS_MB", 2048, 1, 10_000_000),
            max_rank=env.whole("MAX_RANK", 64, 1, 512),
            host_cache_mb=env.whole("HOST_CACHE_MB", 512, 1, 10_000_000),
            adapter_store=_address(
                "ADAPTER_STORE", env.text("ADAPTER_STORE", ""), env.text("ADAPTER_STORE_OPTIONS", "")
            ),
            adapter_cache_mb=env.whole("ADAPTER_CACHE_MB", DEFAULT_CACHE_MB, 1, 1_000_000_000),
            model_store=_address("MODEL_STORE", env.text("MODEL_STORE", ""), env.text("MODEL_STORE_OPTIONS", "")),
            memory_share=env.part("MEMORY_SHARE", "WORKERS"),
            prefill_tokens=env.whole("PREFILL_TOKENS", 256, TILE, 65536),
            prefix_cache=env.choice("PREFIX_CACHE", PREFIX_CACHES, "on"),
            speculation=env.switch("SPECULATION", True),
            default_sampling=env.choice("DEFAULT_SAMPLING", DEFAULT_SAMPLINGS, "greedy"),
            lease_seconds=env.seconds("LEASE_SECONDS", 10.0, 1.0, 3600.0),
            drain_seconds=env.seconds("DRAIN_SECONDS", 0.0, 0.0, 3600.0),
            worker_name=env.text("WORKER_NAME", f"{socket.gethostname()}-{os.getpid()}"),
            threads=env.whole("THREADS", 0, 0, 1024),
            stages=env.whole("STAGES", 1, 1, 64),
            stage_address=env.own("STAGE_ADDRESS", ""),
            micro_batches=env.whole("MICRO_BATCHES", 0, 0, 64),
            tenant_weights=env.of_tenants("TENANT_WEIGHTS", "a share"),
            first_token_within=env.of_tenants("FIRST_TOKEN_WITHIN", "a number of seconds"),
        )
    )


def check_stages(stages: int, device: str) -> None:
    """Raises `ConfigError` where a base in stages would be on a GPU."""
    if stages > 1 and device == "cuda":
        raise ConfigError(f"STAGES={stages} is computed on CPUs alone; choose DEVICE=cpu, or STAGES=1")


def _check_together(config: EngineConfig) -> EngineConfig:
    if config.prefill_tokens % TILE:
        raise ConfigError(f"PREFILL_TOKENS={config.prefill_tokens} must be a multiple of {TILE}, the size of a tile")
    if config.quantization == "nf4" and config.device == "cpu":
        raise ConfigError("QUANTIZATION=nf4 needs a GPU; with DEVICE=cpu choose none, int8 or int4")
    if config.adapter_quantization == "int8" and config.device == "cpu":
        raise ConfigError("ADAPTER_QUANTIZATION=int8 needs a GPU; with DEVICE=cpu choose none")
    check_stages(config.stages, config.device)
    if config.stage_address and not re.fullmatch(r"[\w.-]+:\d{1,5}", config.stage_address):
        raise ConfigError(f"STAGE_ADDRESS={config.stage_address} must be a host and a port, such as 10.0.0.1:7000")
    if config.stage_address and config.stages == 1:
        raise ConfigError(
            f"STAGE_ADDRESS={config.stage_address} is where stages meet, and STAGES is 1; choose 2 or more"
        )
    if not re.fullmatch(r"[\w.-]+", config.worker_name):
        raise ConfigError(f"WORKER_NAME={config.worker_name} must be of letters, digits, dots and dashes")
    return config


def bases_of(environ: Mapping[str, str], base: str | None = None) -> tuple[str, ...]:
    """The bases of the site; `base` is held to what one may be called. Raises `ConfigError`."""
    try:
        if base:
            base_models({"BASE_MODEL": base})
        return base_models(environ)
    except BaseError as error:
        raise ConfigError(str(error)) from error


def _address(key: str, value: str, options: str) -> Address | None:
    try:
        return read_address(key, value, options) if value else None
    except AddressRefused as error:
        raise ConfigError(str(error)) from error


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{key}={value} is not known; choose {', '.join(choices[:-1])} or {choices[-1]}")
    return value


class Environment:
    """Variables with defaults; an empty value counts as unset. What is no text may differ between bases, the `models`
    of the site, and is read for `base`."""

    def __init__(self, environ: Mapping[str, str], base: str, models: tuple[str, ...]) -> None:
        self._environ, self._base, self._models = environ, base, models

    def text(self, key: str, default: str) -> str:
        return self._environ.get(key, "").strip() or default

    def own(self, key: str, default: str, base: str = "") -> str:
        try:
            return own_value(key, self.text(key, ""), base_key(base or self._base), self._models) or default
        except BaseError as error:
            raise ConfigError(str(error)) from error

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        return _one_of(key, self.own(key, default).lower(), choices)

    def switch(self, key: str, default: bool) -> bool:
        return self.choice(key, ("on", "off"), "on" if default else "off") == "on"

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        value = self.own(key, str(default))
        if not re.fullmatch(r"\d{1,9}", value) or not low <= int(value) <= high:
            raise ConfigError(f"{key}={value} must be a whole number from {low} to {high}")
        return int(value)

    def seconds(self, key: str, default: float, low: float, high: float) -> float:
        value = self.own(key, str(default))
        if not _NUMBER.fullmatch(value) or not low <= float(value) <= high:
            raise ConfigError(f"{key}={value} must be a number of seconds from {low:g} to {high:g}")
        return float(value)

    def amount(self, key: str, default: float) -> float:
        """Of a resource, of which there may be fractions."""
        value = self.own(key, f"{default:g}")
        if not _NUMBER.fullmatch(value) or float(value) > 1024:
            raise ConfigError(f"{key}={value} must be a number from 0 to 1024, such as 2 or 0.5")
        if key.endswith("GPUS") and float(value) > 1 and not float(value).is_integer():
            raise ConfigError(f"{key}={value} must be a part of one GPU, such as 0.5, or a whole number of them")
        return float(value)

    def between(self, key: str, default: str, high: int) -> tuple[int, int]:
        """A least and a most number, written as 1-4, or one that is both."""
        value = self.own(key, default)
        found = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", value)
        low, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not low <= most <= high:
            raise ConfigError(f"{key}={value} must be a number from 0 to {high} or two, the least first, as 1-4")
        return low, most

    def part(self, key: str, here: str) -> float:
        """The base's share in a whole for all bases of which there are any `here`, a number of each: the one stated,
        else an equal part of what those that are stated leave."""
        shared = [model for model in self._models if self.own(here, "1", model).lstrip("0")]
        stated = {model: self._share(key, model) for model in (shared if self._base in shared else [self._base])}
        left = 1 - sum(share or 0.0 for share in stated.values())
        silent = [base_name(model) for model, share in stated.items() if share is None]
        if left < -_LEAST_PART or (silent and left < _LEAST_PART):
            told = ", ".join(f"{share:g} for {base_name(model)}" for model, share in stated.items() if share)
            rest = f", which leaves nothing for {' and '.join(silent)}" if silent else ""
            away = f"{here}={base_name(self._models[-1])}=0"
            raise ConfigError(
                f"{key}={self.text(key, '')} is {told}{rest}; together they may take 1 at most, and where one runs on "
                f"another machine say so, as {away} does"
            )
        return stated[self._base] or left / len(silent)

    def _share(self, key: str, base: str) -> float | None:
        """The share stated for `base`, if any is."""
        value = self.own(key, "", base)
        if value and (not _NUMBER.fullmatch(value) or not 0 < float(value) <= 1):
            raise ConfigError(f"{key}={value} must be a share, greater than 0 and at most 1")
        return float(value) if value else None

    def of_tenants(self, key: str, what: str) -> dict[str, float]:
        """Numbers greater than 0 by tenant or kind of tenant."""
        found = {}
        for entry in filter(None, map(str.strip, self.text(key, "").split(","))):
            name, _, value = entry.partition("=")
            if not re.fullmatch(r"(user|session|key)(:[\w-]+)?", name) or not re.fullmatch(
                r"\d{1,4}(\.\d{1,4})?", value
            ):
                raise ConfigError(f"{key}={entry} must be like key=2,user:7=0.5: user, session or key, and {what}")
            if not float(value):
                raise ConfigError(f"{key}={entry} would never be served; {what} is greater than 0")
            found[name] = float(value)
        return found
