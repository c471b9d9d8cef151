"""Proofs that say nothing of the adapter: no file goes, and they are asked for again, ever more seldom."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from inference.wire.failures import FAILURES
from inference.wire.protocol import Probe
from loraland.catalogue import store
from loraland.catalogue.models import AdapterVersion, NotPossible
from loraland.catalogue.proofs import FIRST_PAUSE, LONGEST_PAUSE
from loraland.catalogue.tasks import resubmit, revalidate
from tests.loraland.adapter_files import write_adapter

Examined = Callable[..., AdapterVersion]
Prove = Callable[..., AdapterVersion]


@pytest.mark.parametrize("code", sorted(code for code, meaning in FAILURES.items() if meaning.fault != "adapter"))
def test_a_proof_that_says_nothing_of_the_adapter_is_asked_for_again_and_removes_no_file(
    code: str, examined: Examined, refused: Prove, proven: Prove, tmp_path: Path, probes: list[Probe],
    adapter_store: Path, django_capture_on_commit_callbacks: Any,
) -> None:  # fmt: skip
    version = examined(write_adapter(tmp_path))
    with django_capture_on_commit_callbacks(execute=True):
        refused(version, code=code, error="There is no room.")
    assert version.status == version.Status.VALIDATING
    assert (adapter_store / version.digest / store.WEIGHTS).exists()
    assert f"{code}: There is no room." in version.reasons[0]
    assert list(AdapterVersion.objects.awaiting_proof()) == [], "it is not asked at once"
    pass_time(version)
    (due,) = AdapterVersion.objects.awaiting_proof()
    resubmit(due)
    assert [probe.adapter.digest for probe in probes] == [version.digest] * 2
    proven(due)
    assert (due.status, due.reasons, due.num_proofs) == (due.Status.PUBLISHED, [], 0)


def pass_time(version: AdapterVersion) -> None:
    """Let the moment come at which the proof is asked for again."""
    AdapterVersion.objects.filter(pk=version.pk).update(proof_due=timezone.now())


def test_proofs_that_say_nothing_are_asked_for_ever_more_seldom(
    examined: Examined, refused: Prove, tmp_path: Path, probes: list[Probe]
) -> None:
    version, pauses = examined(write_adapter(tmp_path)), []
    for _ in range(12):
        before = timezone.now()
        refused(version, code="worker_lost")
        pauses.append((version.proof_due - before).total_seconds())
        pass_time(version)
        (version,) = AdapterVersion.objects.awaiting_proof()
        resubmit(version)
    assert pauses[0] == pytest.approx(FIRST_PAUSE.total_seconds(), abs=5)
    assert [round(later / earlier) for earlier, later in pairwise(pauses[:8])] == [2] * 7
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE.total_seconds(), abs=5)
    assert "12 times in a row" in version.reasons[0]
    assert len({probe.id for probe in probes}) == 13


def test_of_two_that_ask_for_the_same_proof_one_does(
    examined: Examined, refused: Prove, tmp_path: Path, probes: list[Probe]
) -> None:
    version = refused(examined(write_adapter(tmp_path)), code="lost")
    pass_time(version)
    (one,), (other,) = AdapterVersion.objects.awaiting_proof(), AdapterVersion.objects.awaiting_proof()
    resubmit(one)
    resubmit(other)
    assert len(probes) == 2
    assert AdapterVersion.objects.get().probe_id == probes[-1].id


def test_a_published_version_that_could_not_be_proven_again_stays_and_is_asked_again(
    examined: Examined, proven: Prove, refused: Prove, tmp_path: Path, probes: list[Probe]
) -> None:
    version = proven(examined(write_adapter(tmp_path)))
    revalidate(version)
    refused(version, code="out_of_memory")
    assert version.status == version.Status.PUBLISHED
    pass_time(version)
    (due,) = AdapterVersion.objects.awaiting_proof()
    resubmit(due)
    assert proven(due).status == version.Status.PUBLISHED
    assert len(probes) == 3


def test_a_person_need_not_wait_for_the_next_proof(
    examined: Examined, refused: Prove, tmp_path: Path, probes: list[Probe]
) -> None:
    version = refused(examined(write_adapter(tmp_path)), code="internal")
    revalidate(version)
    assert (version.proof_due, version.num_proofs, len(probes)) == (None, 0, 2)


def test_no_other_base_is_asked_for_the_proof_of_one_that_is_not_served(
    examined: Examined, proven: Prove, tmp_path: Path, probes: list[Probe]
) -> None:
    version = proven(examined(write_adapter(tmp_path)))
    version.adapter.base = "Elsewhere-7B"
    with pytest.raises(NotPossible, match=r"cannot be proven\. Made for Elsewhere-7B; this site serves"):
        revalidate(version)
    assert (version.status, len(probes)) == (version.Status.PUBLISHED, 1)


def test_files_that_only_the_worker_does_not_see_stay(
    examined: Examined, refused: Prove, tmp_path: Path, adapter_store: Path, django_capture_on_commit_callbacks: Any
) -> None:
    version = examined(write_adapter(tmp_path))
    with django_capture_on_commit_callbacks(execute=True):
        refused(version, code="adapter_not_found")
        assert version.status == version.Status.VALIDATING
        pass_time(version)
        shutil.rmtree(adapter_store / version.digest)
        (version,) = AdapterVersion.objects.awaiting_proof()
        resubmit(version)
        assert refused(version, code="adapter_not_found").status == version.Status.REJECTED


def test_staff_read_why_there_is_no_proof_and_when_it_is_asked_for_again(
    examined: Examined, refused: Prove, tmp_path: Path, admin_client: Any
) -> None:
    version = refused(examined(write_adapter(tmp_path)), code="out_of_memory", error="The device is full.")
    page = admin_client.get(f"/admin/catalogue/adapterversion/{version.pk}/change/").content.decode()
    assert "out_of_memory: The device is full." in page
    assert "Next proof" in page
