"""An adapter that a program loads, and replaces as often as it learns: through the one door for uploads, examined and
proven as any other.

Who asked before goes on with the version that was asked. Its files go a while after the next one answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Set
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.db.models import ProtectedError
from django.utils import timezone

from inference.reading import reading
from inference.tasks.card import CARD, Card
from loraland.catalogue import card as cards
from loraland.catalogue import slug as slugs
from loraland.catalogue import store
from loraland.catalogue.blends import BlendPart
from loraland.catalogue.models import Adapter, AdapterVersion, NotPossible
from loraland.catalogue.status import WITHOUT_FILES, VersionStatus
from loraland.catalogue.template import TemplateError
from loraland.catalogue.upload import hub
from loraland.catalogue.upload.folder import card_in, version_of
from loraland.catalogue.upload.layout import files_below, misses_here
from loraland.catalogue.upload.succession import succeed
from loraland.catalogue.versions import SLUG, unknown
from loraland.refusal import Refused

if TYPE_CHECKING:
    from django.contrib.auth.models import User

KEPT: Final = 3
"""How many versions that a later one replaced keep their files."""
KEPT_FOR: Final = timedelta(minutes=1)
"""So long all do: a request that was let in with one is in the queue by then, and holds its files from there."""
TOGETHER: Final = 8
"""So many that may go are waited for: to look who is in the way costs as much for one as for all."""
MOST_TOGETHER: Final = 64
"""So many go at once at most."""
_PAST: Final = (VersionStatus.RETIRED, VersionStatus.READY)
"""What was replaced, and what was ready only when a later one was published already."""
_AGAIN: Final = (VersionStatus.READY, VersionStatus.RETIRED, VersionStatus.REPLACED)


def load(name: str, source: str, user: User, *, in_place: bool) -> AdapterVersion:
    """The version that the adapter `name` is to answer with, from the folder or repository `source`: on its way to a
    proof, or there again. Raises `Refused`.
    """
    _check_name(name)
    adapter = Adapter.objects.filter(slug=name).select_related("published").first()
    _check_owner(adapter, user)
    if adapter and adapter.published and not in_place:
        sentence = f"The adapter {name} has already been loaded; set load_inplace to true to replace it."
        raise Refused("invalid_request", sentence, param="lora_name")
    with ExitStack() as stack, reading(source, _unreadable, OSError, store.TooLarge):
        try:
            directory = _directory(source, stack)
            version = succeed(adapter, directory, user) or version_of(
                directory, name, _card(directory, name, adapter), user=user, is_loaded=True
            )
        except (hub.HubError, store.TooLarge) as error:
            raise _unreadable(str(error)) from error
        except (cards.CardError, TemplateError) as error:
            raise _unreadable(" ".join(error.reasons)) from error
    if version.status in _AGAIN:
        _publish(version)
    return version


def unload(name: str, user: User) -> None:
    """Take the adapter `name` out of the catalogue; answers under way are finished. Raises `Refused`."""
    version = AdapterVersion.objects.shown_as(name).first() if SLUG.fullmatch(name) else None
    if version is None:
        raise unknown(name)
    _check_owner(version.adapter, user)
    version.retire()


def let_go_of_replaced(adapter: Adapter, waited_for: Callable[[], Set[str]]) -> None:
    """Remove the files of versions of `adapter` that a program has replaced, unless somebody waits for an answer of
    that digest, or a blend is of it; the row goes too where no answer refers to it."""
    before = timezone.now() - KEPT_FOR
    loaded = adapter.versions.filter(is_loaded=True, status__in=_PAST).order_by("-changed", "-pk")
    loaded = loaded.exclude(in_blends__in=BlendPart.objects.exclude(blend__status__in=WITHOUT_FILES))
    old = loaded.filter(changed__lt=before)
    if len(old.values_list("pk")[:TOGETHER]) < TOGETHER:
        return
    newest, held = [*loaded.values_list("pk", flat=True)[:KEPT]], waited_for()
    for version in old.exclude(pk__in=newest).exclude(digest__in=held)[:MOST_TOGETHER]:
        _let_go(version)


def _publish(version: AdapterVersion) -> None:
    try:
        version.publish()
    except NotPossible as reason:
        raise Refused("invalid_request", str(reason), param="lora_path") from reason


def _let_go(version: AdapterVersion) -> None:
    if not version.give_up():
        return
    try:
        version.delete()
    except ProtectedError:
        return  # answers refer to it


def _check_name(name: str) -> None:
    if not SLUG.fullmatch(name):
        sentence = f"{name[:160]!r} is no name of an adapter; write up to 80 letters, digits, - and _."
        raise Refused("invalid_request", sentence, param="lora_name")
    if reason := slugs.refusal(name):
        raise Refused("invalid_request", reason, param="lora_name")


def _check_owner(adapter: Adapter | None, user: User) -> None:
    """Staff replace every adapter, others those of which all versions are theirs."""
    if adapter is None or user.is_staff or not adapter.versions.exclude(created_by=user).exists():
        return
    sentence = f"The adapter {adapter.slug} belongs to others; load yours under another name."
    raise Refused("invalid_request", sentence, status=403, param="lora_name")


def _card(directory: Path, name: str, adapter: Adapter | None) -> Card:
    """The card beside the files; else the prompt of the version that is replaced, so that a trainer writes only
    weights."""
    card = card_in(directory, name)
    if (directory / CARD).is_file() or not adapter or not (last := adapter.published or adapter.versions.first()):
        return card
    return replace(card, template=last.template, fields=last.fields, examples=last.examples)


def _directory(source: str, stack: ExitStack) -> Path:
    """The folder that `source` names, or one with what the hub has under that name."""
    if (here := _folder(source)) is not None:
        return here
    if not hub.REPOSITORY.fullmatch(source):
        where = settings.LOAD_ADAPTERS_FROM or "no folder: LOAD_ADAPTERS_FROM names none"
        raise _unreadable(
            f"{source[:300]!r} is no folder from which this site loads adapters ({where}), nor a repository of the "
            "hub such as owner/name."
        )
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    hub.fetch(hub.HuggingFaceHub(), source, directory)
    return directory


def _folder(source: str) -> Path | None:
    """The folder `source`, which lies with all its files below that from which programs may load; None where it does
    not, whether it exists or not."""
    if not settings.LOAD_ADAPTERS_FROM or "\0" in source:
        return None
    root = Path(settings.LOAD_ADAPTERS_FROM).resolve()
    folder = (root / source).resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        return None
    if any(not path.resolve().is_relative_to(root) for path in folder.iterdir()):
        raise _unreadable(f"{source} has links that lead out of {root}; put the files themselves there.")
    if not all((folder / name).is_file() for name in store.FILES):
        raise _unreadable(" ".join(misses_here(files_below(folder), source)))
    return folder


def _unreadable(sentence: str) -> Refused:
    return Refused("invalid_request", sentence, param="lora_path")
