"""One long word and one long line of code wherever the site shows what others wrote, as rows that it has stored.

Run inside the site's own commands: ``plant()`` prints the addresses of the pages that show it and a session to see
them with; ``uproot()`` takes it all away again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.urls import reverse
from django.utils import timezone

from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.evals.models import DataSet, Run, Sample
from loraland.generations.models import Generation
from loraland.playground.models import Answer, Column, Comparison, Conversation
from loraland.training.models import Training

SLUG = "long-winded"
WORD = "Donaudampfschifffahrtsgesellschaftskapitaen" * 8
CODE = "result = " + " + ".join(f"call_number_{number}(argument_{number})" for number in range(60))
ANSWER = (
    f"Here is the code:\n\n```python\n{CODE}\n```\n\nand `{WORD}` stands in **{WORD}**.\n\n"
    f"| a | b |\n|---|---|\n| {WORD} | {CODE} |"
)
EXAMPLE = {"inputs": {"text": CODE, "other": WORD}, "expected": WORD}
PROMPT = {
    "template": f"{CODE}\n{{text}}\n{WORD}\n{{other}}\nAnswer:",
    "fields": [{"name": "text", "label": "Text", "rows": 2}, {"name": "other", "label": WORD[:60], "rows": 1}],
    "examples": [EXAMPLE],
}


def plant() -> None:
    """Write it all down as the staff member `wordy`, and print the session's key and the addresses in JSON."""
    user = get_user_model().objects.create_superuser("wordy", "wordy@example.org", "never-typed-anywhere")
    version = _adapter()
    data = _data_set()
    pages = [
        version.adapter.get_absolute_url(),
        f"/chat/?adapter={SLUG}",
        _conversation(user, None, {"text": f"{WORD} {CODE}"}).get_absolute_url(),
        _conversation(user, version.adapter, {"inputs": EXAMPLE["inputs"]}).get_absolute_url(),
        f"/compare/?columns={SLUG},base&example=0",
        _comparison(user, version).get_absolute_url(),
        _run(version).get_absolute_url(),
        reverse("admin:training_training_add", query={"data": data.pk}),
        _training(user, data, version).get_absolute_url(),
        reverse("admin:catalogue_adapterversion_change", args=[version.pk]),
        reverse("admin:evals_dataset_change", args=[data.pk]),
    ]
    print(json.dumps({"session": _session(user), "pages": pages}))


def uproot() -> None:
    """Take everything away that `plant` wrote."""
    generations = Generation.objects.filter(user__username="wordy")
    Training.objects.filter(slug=SLUG).delete()
    DataSet.objects.filter(name=WORD[:120]).delete()
    Conversation.objects.filter(user__username="wordy").delete()
    Comparison.objects.filter(user__username="wordy").delete()
    generations.delete()
    Run.objects.filter(task=SLUG).delete()
    Adapter.objects.filter(slug=SLUG).delete()
    get_user_model().objects.filter(username="wordy").delete()


def _adapter() -> AdapterVersion:
    adapter = Adapter.objects.create(
        slug=SLUG,
        name=WORD[:120],
        category=WORD[:60],
        summary=WORD[:240],
        description=f"{WORD} {CODE}",
        base=settings.BASE_NAME,
        license=WORD[:120],
        author=WORD[:120],
        dataset={"name": WORD, "source": f"https://example.org/{WORD}", "license": WORD, "train_rows": 10},
    )
    version = AdapterVersion.objects.create(
        adapter=adapter,
        digest=hashlib.sha256(WORD.encode()).hexdigest(),
        status=AdapterVersion.Status.PUBLISHED,
        target_modules=[WORD],
        rank=8,
        score={"metric": "rouge_l", "base": 0.1, "tuned": 0.9, "gain": "gain", "n": 10, "split": "test"},
        reasons=[WORD, CODE],
        published_at=timezone.now(),
        **PROMPT,
    )
    Adapter.objects.filter(pk=adapter.pk).update(published=version)
    return version


def _generation(user: Any, version: AdapterVersion | None, source: str) -> Generation:
    return Generation.objects.create(
        user=user,
        tenant=f"user:{user.pk}",
        source=source,
        adapter_version=version,
        base=settings.BASE_NAME,
        request={"inputs": EXAMPLE["inputs"]} if version else {"messages": []},
        status=Generation.Status.DONE,
        text=ANSWER,
        stats={"completion_tokens": 20, "prompt_tokens": 20, "tokens_per_second": 30.0, "first_token_ms": 300.0},
        finished=timezone.now(),
    )


def _conversation(user: Any, adapter: Adapter | None, said: dict[str, Any]) -> Conversation:
    conversation = Conversation.objects.create(user=user, adapter=adapter, title=WORD[:120])
    version = adapter.versions.get() if adapter else None
    for _ in range(2):
        turn = conversation.turns.create(**said)
        Answer.objects.create(turn=turn, generation=_generation(user, version, Generation.Source.CHAT))
    return conversation


def _comparison(user: Any, version: AdapterVersion) -> Comparison:
    comparison = Comparison.objects.create(user=user, inputs=EXAMPLE["inputs"], expected=WORD)
    for position, asked in enumerate((version, None, version, None)):
        generation = _generation(user, asked, Generation.Source.COMPARE)
        Column.objects.create(comparison=comparison, position=position, version=asked, generation=generation)
    return comparison


def _run(version: AdapterVersion) -> Run:
    facts = {"task": SLUG, "metric": "rouge_l", "subject": Run.Subject.ADAPTER, "adapter": SLUG, "n": 1}
    run = Run.objects.create(digest=version.digest, base=settings.BASE_NAME, score=0.5, low=0.4, high=0.6, **facts)
    row = {"prompt": f"{CODE}\n{WORD}", "answer": ANSWER, "read": CODE, "target": WORD, "earned": 0.5}
    Sample.objects.create(run=run, index=0, **row)
    Run.objects.filter(pk=run.pk).update(finished=timezone.now(), verdict="gain")
    return run


def _data_set() -> DataSet:
    rows = [{"inputs": EXAMPLE["inputs"] | {"text": f"{number} {CODE}"}, "target": WORD} for number in range(12)]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    data = DataSet(name=WORD[:120], digest=hashlib.sha256(lines).hexdigest(), fields=["text", "other"], rows=12)
    data.path.parent.mkdir(parents=True, exist_ok=True)
    data.path.write_bytes(lines)
    data.save()
    return data


def _training(user: Any, data: DataSet, version: AdapterVersion) -> Training:
    return Training.objects.create(
        data=data,
        slug=SLUG,
        name=WORD[:120],
        category=WORD[:60],
        instruction=WORD,
        metric="rouge_l",
        max_answer=64,
        base=settings.BASE_NAME,
        steps=10,
        batch=4,
        learning_rate=0.001,
        rank=8,
        max_length=128,
        state=Training.State.FAILED,
        reason=f"{WORD} {CODE}",
        ended=timezone.now(),
        created_by=user,
        template=PROMPT["template"],
        examples=PROMPT["examples"],
    )


def _session(user: Any) -> str:
    session = importlib.import_module(settings.SESSION_ENGINE).SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return str(session.session_key)
