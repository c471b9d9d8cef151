"""The examination of an upload without torch: every reason to refuse it, or what the catalogue tells about it.

What passes here still has to be proven by a worker, which loads the weights and compares its answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from inference.adapters.config import LoraConfig
from inference.adapters.identity import TensorInfo, adapter_digest, part_of
from inference.reading import reading
from loraland.catalogue import store
from loraland.catalogue.base_shapes import served_shapes, shapes_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.peft_config import named_base, read_config
from loraland.catalogue.tensors import Binding, bind, non_finite, read_tensors


@dataclass(frozen=True)
class Examination:
    """What the two files say. With any `reasons` the rest may be empty; `fits` is whether the served base takes it."""

    reasons: list[str]
    fits: bool = True
    digest: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """The values of an `AdapterVersion` that are read from the files."""


class _Unreadable(ValueError):
    pass


def examine(version: AdapterVersion) -> None:
    """Take `version` from its files to the store and on to a proof, or reject it with every reason.

    A disk that fails is not the files' fault: the examination is put off.
    """
    directory = store.quarantined(version.quarantine) if version.quarantine else store.kept(version.digest)
    if not directory.is_dir():
        return version.reject(["The uploaded files are gone; upload them again."])
    try:
        found = examine_files(directory, version.adapter.base)
        if reasons := found.reasons or _conflicts(version, found):
            return version.reject(reasons)
        if not _adopt(version, found):
            return None
    except OSError as error:
        return version.put_off(f"The examination was put off, for the disk fails ({error}). It is tried again.")
    return version.probe() if found.fits else version.list_unserved()


def examine_files(directory: Path, base: str) -> Examination:
    """Examine the adapter in `directory`, which is said to be made for `base` (the shapes decide).

    Whatever is wrong with its files is a reason. Raises OSError and MemoryError, which are not about them.
    """
    try:
        with reading("The adapter", _Unreadable):
            return _examine_files(directory, base)
    except _Unreadable as error:
        return Examination([str(error)])


def _examine_files(directory: Path, base: str) -> Examination:
    config, meaning, reasons = read_config(directory / store.CONFIG)
    weights = directory / store.WEIGHTS
    header, damage = read_tensors(weights)
    if damage:
        return Examination([*reasons, *damage])
    binding, fits = _bind(header, meaning, base)
    reasons += [*binding.faults.sentences(), *binding.misfits.sentences()]
    if binding.misfits.sentences() and base.lower() == settings.BASE_KEY != named_base(config).lower():
        reasons.append(f"adapter_config.json names the base {named_base(config) or '(none)'}, not {base}.")
    if broken := non_finite(weights, header):
        reasons.append(f"{len(broken)} tensors hold NaN or infinity, {ascii(broken[0])[:200]} among them.")
    if reasons:
        return Examination(reasons)
    return Examination([], fits, adapter_digest(config, weights), _facts(config, header, binding, weights))


def _bind(header: dict[str, TensorInfo], meaning: LoraConfig | None, base: str) -> tuple[Binding, bool]:
    """The binding to the base that is served, or to `base` if it is another one and only its shapes may fit."""
    served = served_shapes()
    binding = bind(header, meaning, served)
    is_other = bool(base) and base.lower() != settings.BASE_KEY
    if is_other and (served is None or binding.misfits.sentences()):
        return bind(header, meaning, shapes_of(base)), False
    return binding, True


def _facts(config: dict[str, Any], header: dict[str, TensorInfo], binding: Binding, weights: Path) -> dict[str, Any]:
    return {
        "config": config,
        "rank": config["r"],
        "lora_alpha": config["lora_alpha"],
        "target_modules": binding.targets,
        "num_parameters": sum(math.prod(tensor.shape) for tensor in header.values() if _is_trained(tensor)),
        "size_bytes": weights.stat().st_size,
    }


def _is_trained(tensor: TensorInfo) -> bool:
    """PEFT saves the base's own table beside a LoRA on it."""
    return (part_of(tensor.name) or ("", ""))[1] != "base"


def _conflicts(version: AdapterVersion, found: Examination) -> list[str]:
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


def _adopt(version: AdapterVersion, found: Examination) -> bool:
    """Store the files by digest and the facts in the row; false when the adapter has this digest already.

    The quarantine goes last: whatever breaks this off, the next attempt finds the files again.
    """
    token = version.quarantine
    with store.alone():
        if token:
            store.keep(token, found.digest, found.facts["config"])
        try:
            with transaction.atomic():
                _save(version, found)
            is_kept = True
        except IntegrityError:
            AdapterVersion.objects.filter(pk=version.pk).delete()
            is_kept = False
    store.drop(token)
    return is_kept


def _save(version: AdapterVersion, found: Examination) -> None:
    values = {**found.facts, "digest": found.digest, "reasons": [], "quarantine": "", "examinations": 0}
    for name, value in values.items():
        setattr(version, name, value)
    version.save(update_fields=list(values))
    if found.fits and not version.adapter.is_served:
        version.adapter.base = settings.BASE_NAME
        Adapter.objects.filter(pk=version.adapter_id).update(base=settings.BASE_NAME)
