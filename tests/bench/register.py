"""`python -m tests.bench.register BASE COUNT`: many random adapters at once, straight into store and catalogue.

An owner's door examines and proves each adapter, which is right for one and takes long for thousands.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import django


def main(base: Path, count: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")
    django.setup()
    from loraland.catalogue.models import Adapter
    from tests.bench.scenarios import crowd_name

    have = set(Adapter.objects.filter(slug__startswith="crowd-").values_list("slug", flat=True))
    for number in range(count):
        if crowd_name(number) not in have:
            _register(base, number, crowd_name(number))
    print(count)


def _register(base: Path, number: int, slug: str) -> None:
    from django.conf import settings

    from inference.identity import adapter_digest
    from loraland.catalogue.models import Adapter, AdapterVersion
    from loraland.catalogue.store import kept
    from tests.bench.random_adapters import write

    settings.ADAPTERS_DIR.mkdir(parents=True, exist_ok=True)
    made = write(base, Path(tempfile.mkdtemp(dir=settings.ADAPTERS_DIR)), 10_000 + number, 8, ("q_proj", "v_proj"))
    config = json.loads((made / "adapter_config.json").read_text())
    digest = adapter_digest(config, made / "adapter_model.safetensors")
    made.chmod(0o755)
    made.rename(kept(digest))
    adapter = Adapter.objects.create(slug=slug, name=slug, base=settings.BASE_NAME)
    version = AdapterVersion.objects.create(
        adapter=adapter, digest=digest, config=config, rank=8, status=AdapterVersion.Status.PUBLISHED
    )
    Adapter.objects.filter(pk=adapter.pk).update(published=version)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
