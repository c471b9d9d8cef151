"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`: who may, from where, a new version every few seconds, and what
goes when it was replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site_settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from inference.wire.capacity import Capacity
from inference.wire.contract import Claim
from inference.wire.protocol import Failed, Finished, Probe, Stats
from loraland import inference_client
from loraland.api.models import ApiKey
from loraland.catalogue import store
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.upload import replacement
from loraland.generations.models import Generation
from tests.loraland.adapter_files import lora_config, lora_tensors, number_bytes, write_adapter
from tests.patience import PATIENCE

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was replaced goes as soon as it may."""
    monkeypatch.setattr(replacement, "TOGETHER", 1)


@pytest.fixture
def root(settings: Any, tmp_path: Path, adapter_store: Path) -> Path:
    """The folder from which programs may load."""
    folder = tmp_path / "learning"
    folder.mkdir()
    settings.LOAD_ADAPTERS_FROM = str(folder)
    return folder


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A worker that proves at once; what stands here is why it refuses the next one instead."""
    refusals: list[str] = []

    def prove(probe: Probe, base: object) -> None:
        good = Finished(probe.id, "done", Stats(logit_delta=1.0))
        verdict = Failed(probe.id, "adapter_refused", refusals.pop()) if refusals else good
        AdapterVersion.objects.get(probe_id=probe.id).record_proof(verdict)

    monkeypatch.setattr(inference_client, "submit_probe", prove)
    return refusals


@pytest.fixture
def learner(http: httpx.AsyncClient, secret: str, django_user_model: Any) -> Any:
    """The owner of the client's key, who may load adapters."""
    user = django_user_model.objects.create_user("learner")
    ApiKey.objects.update(user=user, may_load=True)
    return user


def write(root: Path, name: str = "policy", seed: int = 0) -> str:
    return str(write_adapter(root / name, seed=seed))


async def load(http: httpx.AsyncClient, path: str, **more: object) -> httpx.Response:
    return await http.post(LOAD, json={"lora_name": "policy", "lora_path": path, **more})


@sync_to_async
def shown(slug: str = "policy") -> AdapterVersion | None:
    return AdapterVersion.objects.shown_as(slug).first()


@sync_to_async
def age(seconds: int = 120) -> None:
    """Let everything have happened a while ago."""
    for version in AdapterVersion.objects.all():
        AdapterVersion.objects.filter(pk=version.pk).update(changed=version.changed - timedelta(seconds=seconds))


async def test_an_adapter_is_loaded_by_a_program_and_answers(http, learner, root, proofs):
    answer = await load(http, write(root))
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'policy' added successfully.")
    version = await shown()
    assert (version.created_by_id, version.status, version.is_loaded) == (learner.pk, "published", True)
    assert "policy" in {model["id"] for model in (await http.get("/v1/models")).json()["data"]}


async def test_it_is_replaced_only_where_that_is_asked_and_keeps_its_prompt(http, learner, root, proofs):
    await load(http, write(root))
    await sync_to_async(AdapterVersion.objects.update)(template="Q: {q}\n", fields=[{"name": "q", "label": "Q"}])
    first, path = await shown(), write(root, seed=1)
    refused = await load(http, path)
    assert (refused.status_code, "load_inplace" in refused.json()["error"]["message"]) == (400, True)
    assert (await load(http, path, load_inplace=True)).status_code == 200
    second = await shown()
    assert (second.digest != first.digest, second.template) == (True, "Q: {q}\n")


async def test_the_weights_of_before_answer_again_when_they_are_loaded_again(http, learner, root, proofs):
    paths = [write(root, f"step-{seed}", seed) for seed in range(2)]
    await load(http, paths[0])
    first = await shown()
    await load(http, paths[1], load_inplace=True)
    await load(http, paths[0], load_inplace=True)
    assert (await shown()).pk == first.pk


async def test_files_of_what_was_replaced_go_and_rows_that_answers_refer_to_stay(http, learner, root, proofs):
    paths = [write(root, f"step-{seed}", seed) for seed in range(8)]
    digests = []
    for path in paths:
        assert (await load(http, path, load_inplace=True)).status_code == 200
        digests.append((await shown()).digest)
        await age()
    kept = [store.kept(digest).exists() for digest in digests]
    assert kept == [False] * 4 + [True] * 4
    assert await AdapterVersion.objects.acount() == 4


async def test_nothing_goes_of_what_an_answer_waits_for_nor_a_row_that_an_answer_has(http, learner, root, proofs):
    answers = []
    for seed in range(8):
        await load(http, write(root, f"step-{seed}", seed), load_inplace=True)
        if seed < 2:
            answers.append(await Generation.objects.acreate(adapter_version=await shown(), source="api", request={}))
        await age()
    await Generation.objects.filter(pk=answers[1].pk).aupdate(status="done")
    await load(http, write(root, "step-9", 9), load_inplace=True)
    waited_for, answered = [await AdapterVersion.objects.aget(pk=answer.adapter_version_id) for answer in answers]
    assert (waited_for.status, store.kept(waited_for.digest).exists()) == ("retired", True)
    assert (answered.status, store.kept(answered.digest).exists()) == ("replaced", False)
    assert not answered.is_answering


async def test_two_that_let_go_of_the_same_at_once_are_not_in_each_others_way(http, learner, root, proofs):
    for seed in range(6):
        await load(http, write(root, f"step-{seed}", seed), load_inplace=True)
    await age()
    adapter = await Adapter.objects.aget()

    def another() -> frozenset[str]:
        replacement.let_go_of_replaced(adapter, frozenset)
        return frozenset()

    await sync_to_async(replacement.let_go_of_replaced)(adapter, another)
    assert await AdapterVersion.objects.acount() == 1 + replacement.KEPT


async def test_a_version_that_was_ready_too_late_to_be_shown_goes_too(http, learner, root, proofs):
    for seed in range(6):
        await load(http, write(root, f"step-{seed}", seed), load_inplace=True)
    await age()
    await AdapterVersion.objects.filter(status="retired").aupdate(status="ready")
    await load(http, write(root, "step-7", 7), load_inplace=True)
    assert await AdapterVersion.objects.filter(status="ready").acount() == replacement.KEPT - 1


async def test_what_was_replaced_and_gone_can_be_loaded_once_more(http, learner, root, proofs):
    first = write(root, "step-0", 0)
    await load(http, first)
    version = await shown()
    await Generation.objects.acreate(adapter_version=version, source="api", request={}, status="done")
    for seed in range(1, 8):
        await load(http, write(root, f"step-{seed}", seed), load_inplace=True)
        await age()
    assert not store.kept(version.digest).exists()
    assert (await load(http, first, load_inplace=True)).status_code == 200
    assert ((await shown()).pk, store.kept(version.digest).exists()) == (version.pk, True)


async def test_a_new_version_that_is_refused_leaves_the_one_before(http, learner, root, proofs):
    await load(http, write(root))
    first = await shown()
    bad = write_adapter(root / "bad", config=lora_config(r="two"), seed=3)
    answer = await load(http, str(bad), load_inplace=True)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "lora_path")
    proofs.append("It is damaged.")
    answer = await load(http, write(root, seed=4), load_inplace=True)
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "It is damaged.")
    assert (await shown()).pk == first.pk


async def test_an_adapter_is_unloaded_and_then_unknown(http, learner, root, proofs):
    await load(http, write(root))
    answer = await http.post(UNLOAD, json={"lora_name": "policy", "lora_int_id": 3})
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'policy' removed successfully.")
    again = await http.post(UNLOAD, json={"lora_name": "policy"})
    assert (again.status_code, again.json()["error"]["code"]) == (404, "model_not_found")
    assert (await load(http, write(root))).status_code == 200  # and comes back


async def test_a_key_loads_only_where_it_may(http, root, proofs):
    for address in (LOAD, UNLOAD):
        answer = await http.post(address, json={"lora_name": "policy", "lora_path": write(root)})
        assert (answer.status_code, "--may-load" in answer.json()["error"]["message"]) == (403, True)
    assert not await AdapterVersion.objects.aexists()


async def test_nobody_without_a_key_loads(server, root):
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as stranger:
        assert (await stranger.post(LOAD, json={"lora_name": "policy", "lora_path": "x"})).status_code == 401


async def test_an_adapter_of_others_is_neither_replaced_nor_unloaded_but_by_staff(http, learner, root, proofs, publish):
    await sync_to_async(publish)("policy")
    path = write(root)
    for answer in (
        await load(http, path, load_inplace=True),
        await http.post(UNLOAD, json={"lora_name": "policy"}),
    ):
        assert (answer.status_code, "belongs to others" in answer.json()["error"]["message"]) == (403, True)
    learner.is_staff = True
    await learner.asave()
    assert (await load(http, path, load_inplace=True)).status_code == 200


@pytest.mark.parametrize("path", ["/etc", "../outside", "nowhere", "a\0b", "policy/../../outside"])
async def test_a_folder_elsewhere_is_refused_as_one_that_is_not_there(http, learner, root, path):
    write(root.parent, "outside")
    answer = await load(http, path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_path")
    assert "is no folder from which this site loads" in answer.json()["error"]["message"]


async def test_a_link_out_of_the_folder_is_refused(http, learner, root):
    outside = Path(write(root.parent, "outside"))
    (root / "policy").mkdir()
    for name in store.FILES:
        (root / "policy" / name).symlink_to(outside / name)
    answer = await load(http, "policy")
    assert (answer.status_code, "links that lead out" in answer.json()["error"]["message"]) == (400, True)


async def test_a_folder_without_an_adapter_says_what_it_lacks(http, learner, root):
    (root / "policy").mkdir()
    answer = await load(http, "policy")
    assert (answer.status_code, store.WEIGHTS in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("name", ["base", "no/slug", "ä", "a" * 81])
async def test_a_name_that_no_adapter_may_have_is_refused(http, learner, root, name):
    answer = await http.post(LOAD, json={"lora_name": name, "lora_path": write(root)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_name")


async def test_both_fields_are_needed(http, learner):
    answer = await http.post(LOAD, json={"lora_name": "policy"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_path")


def test_a_key_that_may_load_belongs_to_somebody(db: None, django_user_model: Any, capsys: Callable[..., Any]):
    with pytest.raises(CommandError, match="--user"):
        call_command("create_api_key", "rl", "--may-load")
    django_user_model.objects.create_user("learner")
    call_command("create_api_key", "rl", "--user", "learner", "--may-load")
    assert ApiKey.objects.get().may_load


async def test_a_version_of_before_that_was_retired_by_hand_keeps_its_files(http, learner, root, proofs, publish):
    """Only what programs load is let go of."""
    await sync_to_async(publish)("policy", "b", created_by=learner)
    before = timezone.now() - timedelta(days=1)
    await AdapterVersion.objects.aupdate(changed=before)
    for seed in range(6):
        await load(http, write(root, f"step-{seed}", seed), load_inplace=True)
        await age()
    assert await AdapterVersion.objects.filter(digest="b" * 64, status="retired").aexists()


async def claimed(wire: Any) -> Claim:
    """The next proof as a worker takes it."""
    claims: list[Claim] = []
    while not claims:
        claims = await wire.claim(site_settings.BASE_KEY, "worker", "bits", Capacity(0, chat=1), 30)
        await asyncio.sleep(0.01)
    return claims[0]


async def test_a_state_answers_once_a_worker_has_proven_it_and_nobody_need_record_that(http, learner, root, site_wire):
    """For a first state and for the next, which has less to be examined."""
    for seed in range(2):
        loading = asyncio.create_task(load(http, write(root, f"step-{seed}", seed), load_inplace=True))
        claim = await claimed(site_wire)
        await site_wire.finish(claim, Finished(claim.id, "done", Stats(logit_delta=1.0)))
        assert (await loading).status_code == 200
        assert (await shown()).digest == claim.request.adapter.digest


async def test_a_worker_that_refuses_a_state_is_heard(http, learner, root, site_wire):
    loading = asyncio.create_task(load(http, write(root)))
    claim = await claimed(site_wire)
    await site_wire.finish(claim, Failed(claim.id, "adapter_refused", "It makes no numbers."))
    answer = await loading
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "It makes no numbers.")


async def test_the_next_state_is_what_the_whole_way_makes_of_the_same_files(http, learner, root, proofs, monkeypatch):
    """But for what the short way does not look at twice."""
    whole = ("config", "remarks", "rank", "lora_alpha", "target_modules", "num_parameters", "size_bytes", "template")
    await load(http, write(root))
    await load(http, write(root, seed=1), load_inplace=True)
    short = await shown()
    monkeypatch.setattr(replacement, "succeed", lambda *_: None)
    await AdapterVersion.objects.filter(pk=short.pk).aupdate(digest="0" * 64)
    await load(http, write(root, seed=1), load_inplace=True)
    long = await shown()
    assert long.pk != short.pk
    assert [getattr(long, name) for name in whole] == [getattr(short, name) for name in whole]
    assert (long.digest, long.is_loaded, long.created_by_id) == (short.digest, True, short.created_by_id)


async def test_a_next_state_with_nan_is_refused_and_so_is_one_of_another_shape(http, learner, root, proofs):
    await load(http, write(root))
    first = await shown()
    name, (dtype, shape, data) = next(iter(lora_tensors().items()))
    spoiled = lora_tensors() | {name: (dtype, shape, number_bytes([float("nan")], dtype) + data[4:])}
    for tensors, told in ((spoiled, "NaN"), (lora_tensors(rank=4), "rank")):
        answer = await load(http, str(write_adapter(root / told, tensors=tensors)), load_inplace=True)
        assert (answer.status_code, told in answer.json()["error"]["message"]) == (422, True)
    assert (await shown()).pk == first.pk


async def test_a_proof_that_a_program_waits_for_has_turns_beside_the_chats(http, learner, root, site_wire):
    """Behind them it would never come while many read."""
    loading = asyncio.create_task(load(http, write(root)))
    assert (await claimed(site_wire)).request.is_awaited
    loading.cancel()
