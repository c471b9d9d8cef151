"""What tests of the site stand on: a real Redis of their own, adapters in the catalogue, and a scripted worker."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.apps import AppConfig
from django.conf import settings as site_settings
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType
from django.db import connection, connections
from django.db.models import Model
from django.db.models.signals import post_migrate
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from inference.wire.contract import Wire
from loraland import inference_client
from loraland.catalogue.models import Adapter, AdapterVersion
from tests.loraland.adapter_files import SMOLLM2
from tests.loraland.scripted_worker import Script, ScriptedWorker, echo


@pytest.fixture(scope="session", autouse=True)
def no_permissions() -> None:
    """Permissions are made by `grant`: Django would make all of them anew whenever the tables are emptied, after every
    test that commits, and that takes longer than most of these."""
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")


@pytest.fixture(scope="session", autouse=True)
def kept_content_types(no_permissions: None, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """So would it look for the kinds of content of each app; they are put back as they were."""
    with django_db_blocker.unblock():
        if ContentType._meta.db_table not in connection.introspection.table_names():
            return  # none of the tests at hand has a database
        kept = list(ContentType.objects.all())

    def put_back(sender: AppConfig, **sent: object) -> None:
        if sender.name == "django.contrib.contenttypes":
            ContentType.objects.clear_cache()
            ContentType.objects.bulk_create(kept)

    post_migrate.disconnect(create_contenttypes)
    post_migrate.connect(put_back, weak=False)


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Each client of HTTP would read the certificates of all authorities anew, and none here speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture
def grant(db: None) -> Callable[..., None]:
    """`grant(user, Adapter, "view", "change")` gives a member of staff these permissions."""

    def give(user: User, model: type[Model], *verbs: str) -> None:
        kind = ContentType.objects.get_for_model(model)
        for verb in verbs:
            codename = f"{verb}_{model._meta.model_name}"
            user.user_permissions.add(Permission.objects.get_or_create(codename=codename, content_type=kind)[0])

    return give


@pytest_asyncio.fixture
async def site_wire(redis_url: str, settings: object) -> AsyncIterator[Wire]:
    """The site's wire over an empty Redis of the tests."""
    settings.REDIS_URL = redis_url
    await inference_client.redis().flushall()
    yield inference_client.wire()
    await inference_client.close()
    await sync_to_async(connections.close_all)()


@pytest_asyncio.fixture
async def answering(site_wire: Wire) -> AsyncIterator[Callable[[Script], ScriptedWorker]]:
    """`answering(script)` starts a worker that answers by `script` until the test ends."""
    workers: list[ScriptedWorker] = []
    async with asyncio.TaskGroup() as tasks:

        def begin(script: Script = echo) -> ScriptedWorker:
            workers.append(ScriptedWorker(site_wire, site_settings.BASE_KEY, script))
            tasks.create_task(workers[-1].run())
            return workers[-1]

        yield begin
        for worker in workers:
            worker.leaving = True


@pytest.fixture
def other_base(settings: object) -> str:
    """Let the site serve a second base, and tell its name."""
    settings.BASE_MODELS = (settings.BASE_MODEL, "owner/Tiny-Llama")
    settings.WORKERS = {settings.BASE_KEY: 1, "tiny-llama": 2}
    settings.MAX_RANK = {settings.BASE_KEY: 64, "tiny-llama": 16}
    return "Tiny-Llama"


@pytest.fixture
def publish(db: None) -> Callable[..., AdapterVersion]:
    """`publish(slug, **fields)` puts a published version with one-letter digest `digest` into the catalogue."""

    def make(slug: str = "emotion", digest: str = "a", status: str = "published", **fields: object) -> AdapterVersion:
        base = fields.pop("base", site_settings.BASE_NAME)
        if status in ("published", "retired"):
            fields.setdefault("published_at", timezone.now())
        adapter, _ = Adapter.objects.get_or_create(slug=slug, defaults={"name": slug.title(), "base": base})
        version = AdapterVersion.objects.create(adapter=adapter, digest=(digest * 64)[:64], status=status, **fields)
        if status == "published":
            adapter.published = version
            adapter.save()
        return version

    return make


@pytest.fixture
def adapter_store(settings: object, tmp_path: Path) -> Path:
    """Empty directories for the site's files, and the shapes of the base that it serves; the store's is given."""
    settings.ADAPTERS_DIR = tmp_path / "store" / "adapters"
    settings.QUARANTINE_DIR = tmp_path / "store" / "quarantine"
    settings.MODELS_DIR = tmp_path / "store" / "models"
    config = settings.MODELS_DIR / site_settings.BASE_NAME / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(SMOLLM2))
    return settings.ADAPTERS_DIR


@pytest.fixture(autouse=True)
def plain_static_files(settings: object) -> None:
    """Pages name static files as they are called, without a collected manifest."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}
