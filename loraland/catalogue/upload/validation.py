"""The examination of an upload without torch: every reason to refuse it, or what the catalogue tells about it.

What passes here still has to be proven by a worker, which loads the weights and compares its answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, transaction

from inference.adapters.examination import Examination, examine_files
from inference.adapters.identity import adapter_digest
from inference.model.architecture import Architecture
from loraland.catalogue import store
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.upload.bases import doubt_about_base, known_base, named_base, remark_on_base, served_base

CONFIRM: Final = (
    "If it is to be served so, confirm it: --confirm-base of import_adapter, or the tick “Its base is right” in the "
    "admin's upload form. If not, serve the base that it names."
)


@dataclass(frozen=True)
class Examined:
    """What the site knows of two files. With any `reasons` the rest is empty; `fits`: the served base takes them."""

    reasons: list[str]
    fits: bool = True
    digest: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """The values of an `AdapterVersion` that are read from the files."""


def examine(version: AdapterVersion) -> None:
    """Take `version` from its files to the store and on to a proof, or reject it with every reason.

    A disk that fails is not the files' fault: the examination is put off.
    """
    directory = store.quarantined(version.quarantine) if version.quarantine else store.kept(version.digest)
    if not directory.is_dir():
        return version.reject(["The uploaded files are gone; upload them again."])
    try:
        found = examine_upload(directory, version.adapter.base)
        if reasons := found.reasons or _conflicts(version, found) or _unconfirmed(version, found):
            return version.reject(reasons)
        if not _adopt(version, found):
            return None
    except OSError as error:
        return version.put_off(f"The examination was put off, for the disk fails ({error}). It is tried again.")
    return version.probe() if found.fits else version.list_unserved()


def examine_upload(directory: Path, base: str) -> Examined:
    """Examine the adapter in `directory`, made for the base named `base`; empty if nobody knows. Raises OSError."""
    found, fits = _examine(directory, base)
    reasons = list(found.reasons)
    if not found.fits and base.lower() == settings.BASE_KEY != named_base(found.config).lower():
        reasons.append(f"adapter_config.json names the base {named_base(found.config) or '(none)'}, not {base}.")
    if reasons:
        return Examined(reasons)
    weights = directory / store.WEIGHTS
    return Examined([], fits, adapter_digest(found.config, weights), _facts(found, weights, fits))


def fits_served(directory: Path) -> bool:
    """Whether the adapter in `directory` is sound and of the shapes of the base that is served. Raises OSError."""
    found = _examine_for(directory, base) if (base := served_base()) else None
    return found is not None and found.fits and not found.reasons


def _examine(directory: Path, base: str) -> tuple[Examination, bool]:
    """As an adapter of the base that is served, or of `base` if it is another one and only its shapes may fit."""
    served, is_other = served_base(), base.lower() not in ("", settings.BASE_KEY)
    found = _examine_for(directory, served)
    if is_other and (served is None or not found.fits):
        return _examine_for(directory, known_base(base)), False
    return found, True


def _examine_for(directory: Path, base: Architecture | None) -> Examination:
    return examine_files(directory / store.CONFIG, directory / store.WEIGHTS, base, settings.MAX_RANK)


def _facts(found: Examination, weights: Path, fits: bool) -> dict[str, Any]:
    trained = [tensor for parts in found.modules.values() for part, tensor in parts.items() if part != "base"]
    return {
        "config": found.config,
        "remarks": [*found.remarks, *filter(None, [remark_on_base(found.config) if fits else ""])],
        "rank": found.config["r"],
        "lora_alpha": found.config["lora_alpha"],
        "target_modules": sorted({module.rpartition(".")[2] for module in found.modules}),
        "num_parameters": sum(math.prod(tensor.shape) for tensor in trained),
        "size_bytes": weights.stat().st_size,
    }


def _conflicts(version: AdapterVersion, found: Examined) -> list[str]:
    """An adapter belongs to one base; its versions cannot be for two."""
    adapter = version.adapter
    if not found.fits or adapter.is_served:
        return []
    usable = adapter.versions.exclude(pk=version.pk).exclude(status=AdapterVersion.Status.REJECTED)
    if not usable.exclude(digest="").exists():
        return []
    return [
        f"{adapter.slug} is an adapter for {adapter.base}, and these weights are for {settings.BASE_NAME}; "
        "upload them under another slug."
    ]


def _unconfirmed(version: AdapterVersion, found: Examined) -> list[str]:
    """An upload whose config names another model of the same shape is served when its owner says so, not before."""
    if not version.quarantine or version.base_confirmed or not found.fits:
        return []
    doubt = doubt_about_base(found.facts["config"])
    return [f"{doubt} {CONFIRM}"] if doubt else []


def _adopt(version: AdapterVersion, found: Examined) -> bool:
    """Store the files by digest and the facts in the row; false when the adapter has this digest already.

    The quarantine goes last: whatever breaks this off, the next attempt finds the files again.
    """
    token = version.quarantine
    with store.alone():
        if token:
            store.keep(token, found.digest)
        try:
            with transaction.atomic():
                _save(version, found)
            is_kept = True
        except IntegrityError:
            AdapterVersion.objects.filter(pk=version.pk).delete()
            is_kept = False
    store.drop(token)
    return is_kept


def _save(version: AdapterVersion, found: Examined) -> None:
    remarks = [*dict.fromkeys([*version.remarks, *found.facts["remarks"]])]
    values = {
        **found.facts,
        "remarks": remarks,
        "digest": found.digest,
        "reasons": [],
        "quarantine": "",
        "examinations": 0,
    }
    for name, value in values.items():
        setattr(version, name, value)
    version.save(update_fields=list(values))
    if found.fits and not version.adapter.is_served:
        version.adapter.base = settings.BASE_NAME
        Adapter.objects.filter(pk=version.adapter_id).update(base=settings.BASE_NAME)
