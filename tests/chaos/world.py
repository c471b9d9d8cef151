"""A small world to break: a random base model that loads in a second, adapters for it, and a site that serves both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.processes import children, name_of
from tests.bench.site import PLAIN, Site, running
from tests.inference.checkpoints import load_reference, make_model
from tests.inference.engines import EOS, VOCAB, make_tokenizer

ADAPTERS: Final = ("amber", "birch", "cedar")
BASE: Final = "small-world"
CONTEXT: Final = 1024
SETTINGS: Final = {
    "BASE_MODEL": BASE,
    "DEVICE": "cpu",
    "DECODER": "torch",
    "DTYPE": "float32",
    "THREADS": "1",
    "WORKERS": "2",
    "LEASE_SECONDS": "4",
    "ANONYMOUS_PER_HOUR": "100000",
    "LOG_LEVEL": "WARNING",
}


@contextmanager
def small_world(directory: Path, web_processes: int = 1) -> Iterator[Site]:
    """The site of `make run` with two workers over the small base, ready to answer with every one of `ADAPTERS`."""
    models = directory / "models"
    make_base(models / BASE)
    adapters = [make_adapter(models / BASE, directory / name, seed) for seed, name in enumerate(ADAPTERS)]
    settings = SETTINGS | {"SPECULATION": PLAIN["SPECULATION"], "WEB_PROCESSES": str(web_processes)}
    with running(directory / "site", models, settings) as site:
        site.import_adapters(adapters)
        yield site


def make_base(directory: Path) -> None:
    """Save a random base model that hardly ever ends by itself, with a token for every byte."""
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8}
    make_tokenizer(make_model(directory, vocab_size=VOCAB, max_position_embeddings=CONTEXT, **shape))
    model = load_reference(directory)
    model.lm_head.weight.data[EOS] = 0
    model.save_pretrained(directory)


def make_adapter(model: Path, directory: Path, seed: int) -> Path:
    """Save a random adapter of `model` as PEFT writes it."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    adapted = get_peft_model(load_reference(model), LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(directory)
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": BASE}))
    return directory


def processes(site: Site) -> dict[str, list[int]]:
    """The site's processes by what they are for, children of theirs included."""
    found: dict[str, list[int]] = {}
    for pid in children(site.pids[0]):
        try:
            found.setdefault(name_of(pid), []).append(pid)
        except OSError:  # it has ended
            continue
    return found
