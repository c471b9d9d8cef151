"""The environment: defaults, every key, and the sentence for each bad value."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from inference.bases import base_name
from inference.config import ConfigError, read_config


def test_an_empty_environment_gives_the_defaults() -> None:
    config = read_config({})
    assert config.base_model == "SmolLM2-135M-Instruct"
    assert config.base_key == "smollm2-135m-instruct"
    assert (config.device, config.dtype, config.quantization) == ("auto", "bfloat16", "auto")
    assert (config.max_rows, config.block_size, config.prefill_tokens) == (32, 32, 256)
    assert (config.adapter_slots, config.max_rank, config.host_cache_mb) == (32, 64, 512)
    assert config.var_dir.name == "var"
    assert config.redis_url == f"unix://{config.var_dir}/redis.sock"
    assert config.worker_name


@pytest.mark.parametrize(
    "text",
    [
        "Mistral-7B-v0.1",
        "mistralai/Mistral-7B-v0.1",
        "/models/Mistral-7B-v0.1/",
        "C:\\models\\Mistral-7B-v0.1",
        "/models/Mistral-7B-v0.1.gguf",
    ],
)
def test_a_base_has_one_name_however_it_is_given(text: str) -> None:
    assert base_name(text) == "Mistral-7B-v0.1"


def test_every_row_of_a_batch_may_have_an_adapter_of_its_own() -> None:
    assert read_config({"MAX_ROWS": "100"}).adapter_slots == 100
    assert read_config({"MAX_ROWS": "1"}).adapter_slots == 32


def test_every_key_is_read(tmp_path: Path) -> None:
    config = read_config(
        {
            "VAR_DIR": str(tmp_path),
            "REDIS_URL": "redis://queue:6379/1",
            "BASE_MODEL": "mistralai/Mistral-7B-v0.1",
            "DEVICE": "CUDA",
            "DTYPE": "float16",
            "QUANTIZATION": "nf4",
            "MAX_ROWS": "64",
            "KV_BLOCKS": "1000",
            "BLOCK_SIZE": "16",
            "CONTEXT_LENGTH": "2048",
            "ADAPTER_SLOTS": "8",
            "MAX_RANK": "16",
            "HOST_CACHE_MB": "100",
            "SLOTS_MB": "300",
            "PREFILL_TOKENS": "512",
            "PREFIX_CACHE": "off",
            "SPECULATION": "OFF",
            "DEFAULT_SAMPLING": "model",
            "LEASE_SECONDS": "2.5",
            "WORKER_NAME": "one",
            "THREADS": "4",
            "TENANT_WEIGHTS": "key=2, user:7=0.5",
        }
    )
    assert (config.var_dir, config.redis_url) == (tmp_path, "redis://queue:6379/1")
    assert (config.base_key, config.device, config.dtype) == ("mistral-7b-v0.1", "cuda", "float16")
    assert (config.quantization, config.max_rows, config.kv_blocks, config.block_size) == ("nf4", 64, 1000, 16)
    assert (config.context_length, config.adapter_slots, config.slots_mb) == (2048, 8, 300)
    assert (config.max_rank, config.host_cache_mb, config.prefill_tokens, config.lease_seconds) == (16, 100, 512, 2.5)
    assert (config.worker_name, config.threads) == ("one", 4)
    assert (config.prefix_cache, config.speculation, config.default_sampling) == ("off", False, "model")
    assert config.tenant_weights == {"key": 2.0, "user:7": 0.5}
    assert config.adapters_dir == tmp_path / "adapters"


def test_an_empty_value_counts_as_unset() -> None:
    assert read_config({"DTYPE": "", "MAX_ROWS": " "}).max_rows == 32


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        read_config({}).max_rows = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"DTYPE": "int8"}, "DTYPE=int8 is not known; choose bfloat16, float16 or float32"),
        ({"DEVICE": "tpu"}, "DEVICE=tpu is not known; choose auto, cpu or cuda"),
        ({"QUANTIZATION": "awq"}, "QUANTIZATION=awq is not known; choose auto, none, int8, int4 or nf4"),
        ({"QUANTIZATION": "nf4", "DEVICE": "cpu"}, "QUANTIZATION=nf4 needs a GPU"),
        ({"ADAPTER_QUANTIZATION": "int8", "DEVICE": "cpu"}, "ADAPTER_QUANTIZATION=int8 needs a GPU"),
        ({"DETERMINISTIC": "yes"}, "DETERMINISTIC=yes is not known; choose 0 or 1"),
        ({"MAX_ROWS": "many"}, "MAX_ROWS=many must be a whole number from 1 to 1024"),
        ({"MAX_ROWS": "0"}, "MAX_ROWS=0 must be a whole number from 1 to 1024"),
        ({"SLOTS_MB": "0"}, "SLOTS_MB=0 must be a whole number from 1 to 10000000"),
        ({"BLOCK_SIZE": "-1"}, "BLOCK_SIZE=-1 must be a whole number from 8 to 256"),
        ({"PREFILL_TOKENS": "100"}, "PREFILL_TOKENS=100 must be a multiple of 32"),
        ({"PREFIX_CACHE": "yes"}, "PREFIX_CACHE=yes is not known; choose on, tenant or off"),
        ({"DEFAULT_SAMPLING": "best"}, "DEFAULT_SAMPLING=best is not known; choose greedy or model"),
        ({"LEASE_SECONDS": "0.1"}, "LEASE_SECONDS=0.1 must be a number of seconds from 1 to 3600"),
        ({"LEASE_SECONDS": "nan"}, "LEASE_SECONDS=nan must be a number"),
        ({"BASE_MODEL": "a/b c"}, "BASE_MODEL=a/b c must end in a name"),
        ({"TENANT_WEIGHTS": "guest=2"}, "TENANT_WEIGHTS=guest=2 must be like key=2,user:7=0.5"),
        ({"TENANT_WEIGHTS": "key=-1"}, "TENANT_WEIGHTS=key=-1 must be like"),
        ({"TENANT_WEIGHTS": "key=0"}, "TENANT_WEIGHTS=key=0 would never be served"),
        ({"WORKER_NAME": "a:b"}, "WORKER_NAME=a:b must be of letters"),
        ({"STAGES": "0"}, "STAGES=0 must be a whole number from 1 to 64"),
        ({"STAGES": "2", "DEVICE": "cuda"}, "STAGES=2 is computed on CPUs alone; choose DEVICE=cpu, or STAGES=1"),
        ({"STAGES": "2", "STAGE_ADDRESS": "here"}, "STAGE_ADDRESS=here must be a host and a port"),
        ({"STAGE_ADDRESS": "a:7000"}, "STAGE_ADDRESS=a:7000 is where stages meet, and STAGES is 1; choose 2 or more"),
        ({"MICRO_BATCHES": "65"}, "MICRO_BATCHES=65 must be a whole number from 0 to 64"),
    ],
)
def test_a_bad_value_is_refused_with_the_choices(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(environ)
    assert sentence in str(caught.value)


def test_a_store_elsewhere_has_its_copies_apart_from_what_was_a_store(tmp_path: Path) -> None:
    places = {"": "adapters", "s3://land/adapters": "adapter_cache"}
    for store, name in places.items():
        config = read_config({"VAR_DIR": str(tmp_path), "ADAPTER_STORE": store})
        assert config.adapters_dir == tmp_path / name
    config = read_config({"VAR_DIR": str(tmp_path), "ADAPTER_STORE": "file:///srv/adapters", "ADAPTER_CACHE_MB": "7"})
    assert (config.adapters_dir, config.adapter_cache_mb) == (Path("/srv/adapters"), 7)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ADAPTER_STORE", "bucket", "ADAPTER_STORE=bucket is no address of a store"),
        ("MODEL_STORE", "s3://key:hush@land", "MODEL_STORE=s3://…land must be a bucket"),
        ("ADAPTER_CACHE_MB", "0", "ADAPTER_CACHE_MB=0 must be a whole number from 1"),
    ],
)
def test_a_store_that_cannot_be_meant_is_refused(variable: str, value: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_config({variable: value})
