"""The examination of an upload without torch: every reason to refuse it, or what the catalogue tells about it.

What passes here still has to be proven by a worker, which loads the weights and compares its answers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from django.db import IntegrityError, transaction

from inference.adapters.examination import Examination
from inference.adapters.identity import adapter_digest
from inference.adapters.methods.known import kind_of
from loraland import bases
from loraland.bases import Base
from loraland.catalogue import store
from loraland.catalogue.alone import alone
from loraland.catalogue.blends import BlendPart
from loraland.catalogue.invocation import fault_of, remark_of
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.upload.bases import doubt_about_base, named_base, remark_on_base
from loraland.catalogue.upload.blending import GONE, examine_blend
from loraland.catalogue.upload.examined import Examined
from loraland.catalogue.upload.finding import find_base

CONFIRM: Final = (
    "If it is to be served so, confirm it: --confirm-base of import_adapter (of a blend import_blend), or the tick “Its"
    " base is right” in the admin's upload form. If not, serve the base that it names."
)


def examine(version: AdapterVersion) -> None:
    """Take `version` from its files to the store and on to a proof, or reject it with every reason.

    A disk or a store that fails is not the files' fault: the examination is put off.
    """
    try:
        found = examine_blend(version) if version.gate else _examine_adapter(version)
        if (
            reasons := found.reasons
            or _conflicts(version, found)
            or _strangers(version)
            or _unconfirmed(version, found)
            or _uninvoked(version, found)
        ):
            return version.reject(reasons)
        if not _adopt(version, found):
            return None
    except OSError as error:
        return version.put_off(
            f"The examination was put off, for the disk or the store fails ({error}). It is tried again."
        )
    return version.probe() if found.base else version.list_unserved()


def _examine_adapter(version: AdapterVersion) -> Examined:
    if version.quarantine:
        return _examine_folder(store.quarantined(version.quarantine), version)
    with store.opened(version.digest) as directory:
        return _examine_folder(directory, version)


def _examine_folder(directory: Path, version: AdapterVersion) -> Examined:
    return examine_upload(directory, version.adapter.base) if directory.is_dir() else Examined([GONE])


def examine_upload(directory: Path, base: str) -> Examined:
    """Examine the adapter in `directory`, made for the base named `base`; empty if nobody knows. Raises OSError."""
    answer = find_base(directory, base)
    found, reasons = answer.examination, [*answer.examination.reasons, *filter(None, [answer.question])]
    if not found.fits and bases.of_name(base) and base.lower() != named_base(found.config).lower():
        reasons.append(f"adapter_config.json names the base {named_base(found.config) or '(none)'}, not {base}.")
    if reasons:
        return Examined(reasons)
    weights = directory / store.WEIGHTS
    return Examined([], answer.base, adapter_digest(found.config, weights), _facts(found, weights, answer.base))


def _facts(found: Examination, weights: Path, base: Base | None) -> dict[str, Any]:
    trained = [tensor for parts in found.modules.values() for part, tensor in parts.items() if part != "base"]
    kind = kind_of(found.config)
    trained += found.shared.values() if kind and kind.trains_shared else ()
    assert found.meaning is not None, "what is not refused has a meaning"
    return {
        "config": found.config,
        "remarks": [*found.remarks, *filter(None, [remark_on_base(found.config, base) if base else ""])],
        "rank": found.meaning.r,
        "lora_alpha": found.meaning.alpha,
        "target_modules": sorted({module.rpartition(".")[2] for module in found.modules}),
        "num_parameters": sum(math.prod(tensor.shape) for tensor in trained),
        "size_bytes": weights.stat().st_size,
    }


def _conflicts(version: AdapterVersion, found: Examined) -> list[str]:
    """An adapter belongs to one base; its versions cannot be for two."""
    adapter = version.adapter
    if found.base is None or bases.of_name(adapter.base) == found.base:
        return []
    usable = adapter.versions.exclude(pk=version.pk).exclude(status=AdapterVersion.Status.REJECTED)
    if not usable.exclude(digest="").exists():
        return []
    return [
        f"{adapter.slug} is an adapter for {adapter.base}, and these weights are for {found.base.name}; "
        "upload them under another slug."
    ]


def _strangers(version: AdapterVersion) -> list[str]:
    """An adapter is a blend or is none; its versions cannot be some this and some that."""
    usable = version.adapter.versions.exclude(pk=version.pk).exclude(status=AdapterVersion.Status.REJECTED)
    others = usable.filter(gate={}) if version.gate else usable.exclude(gate={})
    if not others.exists():
        return []
    are, is_one = ("adapters", "a blend") if version.gate else ("blends", "an adapter")
    return [f"The versions of {version.adapter.slug} are {are}, and this is {is_one}; upload it under another slug."]


def _unconfirmed(version: AdapterVersion, found: Examined) -> list[str]:
    """An upload whose config names another model of the same shape is served when its owner says so, not before."""
    if not version.quarantine or version.base_confirmed or not found.base:
        return []
    doubt = doubt_about_base(found.facts["config"], found.base, store.GATE if version.gate else store.CONFIG)
    return [f"{doubt} {CONFIRM}"] if doubt else []


def _uninvoked(version: AdapterVersion, found: Examined) -> list[str]:
    """An aLoRA with a prompt of its own that would never make it active."""
    if not version.quarantine or not found.base:
        return []
    fault = fault_of(found.facts["config"], version.template, version.field_names, found.base)
    return [fault] if fault else []


def _adopt(version: AdapterVersion, found: Examined) -> bool:
    """Store the files by digest and the facts in the row; false when the adapter has this digest already.

    The quarantine goes last: whatever breaks this off, the next attempt finds the files again.
    """
    token = version.quarantine
    if token:
        store.send(token, found.stored_as)
    with alone():
        if token:
            store.keep(token, found.stored_as)
        try:
            with transaction.atomic():
                _supersede(version, found.digest)
                _save(version, found)
            is_kept = True
        except IntegrityError:
            AdapterVersion.objects.filter(pk=version.pk).delete()
            is_kept = False
    store.drop(token)
    return is_kept


def _supersede(version: AdapterVersion, digest: str) -> None:
    """A rejected version of the same digest gives way: it has none any more, and blends are of `version` in its
    place."""
    usual = version.adapter.versions.exclude(pk=version.pk).exclude(digest="")
    rejected = [*usual.filter(status=AdapterVersion.Status.REJECTED, digest=digest).values_list("pk", flat=True)]
    BlendPart.objects.filter(part__in=rejected).update(part=version)
    AdapterVersion.objects.filter(pk__in=rejected).update(digest="")


def _save(version: AdapterVersion, found: Examined) -> None:
    of_invocation = remark_of(found.facts["config"], version.template, found.base) if found.base else ""
    told = [*version.remarks, *found.facts["remarks"], *filter(None, [of_invocation])]
    remarks = [*dict.fromkeys(told)]
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
    if found.base and version.adapter.base != found.base.name:
        version.adapter.base = found.base.name
        Adapter.objects.filter(pk=version.adapter_id).update(base=found.base.name)
