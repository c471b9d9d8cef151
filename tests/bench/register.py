"""`python -m tests.bench.register BASE COUNT`: many random adapters at once, straight into store and catalogue.

An owner's door examines and proves each adapter, which is right for one and takes long for thousands. Like a proof,
this leaves behind the file that the decoder maps.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import django
import torch

from inference.adapters.file import Base
from inference.adapters.store import AdapterStore
from inference.config import read_config
from inference.decoders.native.build import missing_feature
from inference.fetch import find_model
from inference.model.architecture import read_architecture
from inference.model.base_weights import BaseWeights


def main(base: Path, count: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")
    django.setup()
    from loraland.catalogue.models import Adapter
    from tests.bench.scenarios import crowd_name

    store = _store()
    have = set(Adapter.objects.filter(slug__startswith="crowd-").values_list("slug", flat=True))
    for number in range(count):
        if crowd_name(number) not in have:
            _register(base, number, crowd_name(number), store)
    print(count)


def _store() -> AdapterStore:
    config = read_config()
    directory = find_model(config)
    architecture = read_architecture(directory / "config.json")
    weights = BaseWeights(directory, architecture, torch.bfloat16)
    is_packed = config.decoder != "torch" and missing_feature() is None
    base = Base(architecture, torch.bfloat16, weights.read, weights.bias, weights.identity, is_packed=is_packed)
    return AdapterStore(config.adapters_dir, base)


def _register(base: Path, number: int, slug: str, store: AdapterStore) -> None:
    from django.conf import settings

    from inference.adapters.identity import adapter_digest
    from loraland.catalogue.models import Adapter, AdapterVersion
    from loraland.catalogue.store import kept
    from tests.bench.random_adapters import write

    settings.ADAPTERS_DIR.mkdir(parents=True, exist_ok=True)
    made = write(base, Path(tempfile.mkdtemp(dir=settings.ADAPTERS_DIR)), 10_000 + number, 8, ("q_proj", "v_proj"))
    config = json.loads((made / "adapter_config.json").read_text())
    digest = adapter_digest(config, made / "adapter_model.safetensors")
    made.chmod(0o755)
    made.rename(kept(digest))
    store.load(digest)
    adapter = Adapter.objects.create(slug=slug, name=slug, base=settings.BASE_NAME)
    version = AdapterVersion.objects.create(
        adapter=adapter, digest=digest, config=config, rank=8, status=AdapterVersion.Status.PUBLISHED
    )
    Adapter.objects.filter(pk=adapter.pk).update(published=version)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
