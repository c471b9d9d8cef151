"""Planning and watching a training in the admin."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from inference.model.architecture import read_architecture
from inference.tasks.data import Row
from inference.tasks.proposal import max_length, metric_of, propose
from loraland.catalogue.models import AdapterVersion
from loraland.evals.models import DataSet
from loraland.training.chart import chart
from loraland.training.models import Training
from loraland.training.presets import duration
from loraland.training.rows import parts_of
from tests.inference.families import make_family

Upload = Callable[..., DataSet]
Plan = Callable[..., Training]


def line(text: str, target: str) -> bytes:
    return json.dumps({"inputs": {"text": text}, "target": target}, ensure_ascii=False).encode() + b"\n"


def rows(*targets: str) -> list[Row]:
    return [Row({"text": f"row {n}"}, target) for n, target in enumerate(targets)]


@pytest.mark.parametrize(
    ("targets", "metric"),
    [
        (["joy", "anger"] * 10, "accuracy"),
        (['{"city": "Oslo"}', "{}"] * 5, "f1_json"),
        ([f"A sentence about the number {n}." for n in range(20)], "rouge_l"),
        ([f"code{n}" for n in range(20)], "exact_match"),
    ],
)
def test_a_metric_is_proposed_from_the_targets(targets: list[str], metric: str) -> None:
    assert metric_of(rows(*targets)) == metric


def test_prompt_instruction_and_examples_are_proposed_from_the_rows(upload: Upload) -> None:
    parts = parts_of(upload())
    found = propose(parts.train, parts.test, len)
    assert found.template == "Text: {text}\nLabel:"
    assert found.instruction == "Answer with one of these: anger, joy, sadness."
    assert {example["expected"] for example in found.examples} == {"anger", "joy", "sadness"}


def test_the_proposed_length_holds_the_rows_of_a_script_that_takes_many_tokens(upload: Upload) -> None:
    texts = [f"今天的天气非常好，我们一起去公园散步吧，第{n}次。" * 3 for n in range(40)]
    parts = parts_of(upload([line(text, ("好", "坏")[n % 2]) for n, text in enumerate(texts)]))
    found = propose(parts.train, parts.test, lambda text: 2 * len(text))
    longest = max(2 * len(found.template.replace("{text}", text)) for text in texts)
    assert longest < found.max_length <= longest + 64
    assert propose(parts.train, parts.test, len).max_length < longest


def test_rows_that_were_too_long_are_counted_on_the_page_of_a_training(
    owner: Client, upload: Upload, plan: Callable[..., Training]
) -> None:
    texts = [f"{n} " + "word " * (200 if n % 4 == 0 else 3) for n in range(40)]
    training = plan(data=upload([line(text, "joy") for text in texts]), max_length=128)
    num_long = sum(length > 128 for length in parts_of(training.data).lengths(training.template, training.of_base))
    assert 0 < num_long < 40
    html = owner.get(training.get_absolute_url()).content.decode()
    assert f"128; {num_long} longer rows were left out" in html


def page_of(client: Client, data: DataSet, **query: str) -> str:
    return client.get("/admin/training/training/add/", {"data": data.pk, **query}).content.decode()


def test_the_data_set_leads_to_a_plan_with_its_forecast_and_the_time_it_takes(owner: Client, upload: Upload) -> None:
    data = upload()
    change = owner.get(f"/admin/evals/dataset/{data.pk}/change/").content.decode()
    assert f"/admin/training/training/add/?data={data.pk}" in change
    html = page_of(owner, data)
    assert "It learns from 39 rows of Moods. 9 others choose how the base is best asked. 12 more are held out" in html
    assert "<mark>day " in html
    assert re.search(r"About \d+ minutes", html)
    assert html.count('class="ticket"') == 3 + 3
    assert html.count('aria-current="true"') == 1 + 1


def test_a_preset_fills_the_numbers_and_changes_the_time(owner: Client, upload: Upload) -> None:
    data = upload()
    address = "/admin/training/training/add/"
    part = owner.get(
        address, {"data": data.pk, "preset": "quick"}, headers={"HX-Request": "true", "HX-Target": "recipe"}
    )
    html = part.content.decode()
    assert html.lstrip().startswith('<section id="recipe"')
    assert 'name="steps" value="60"' in html
    assert 'id="estimate" hx-swap-oob="true"' in html


def form(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Moods",
        "slug": "",
        "category": "Classic NLP",
        "summary": "Tells a mood.",
        "template": "Text: {text}\r\nMood: ",
        "instruction": "Name the mood.",
        "metric": "accuracy",
        "steps": "30",
        "batch": "4",
        "learning_rate": "0.002",
        "rank": "4",
        "target_modules": ["q_proj", "v_proj"],
        "max_length": "128",
        "example_lines": '{"text": "What a day!", "expected": "joy"}',
        **changes,
    }


def test_a_plan_that_is_right_becomes_a_training_that_waits(owner: Client, upload: Upload) -> None:
    data = upload()
    response = owner.post(f"/admin/training/training/add/?data={data.pk}", form())
    training = Training.objects.get()
    assert response["Location"] == f"/admin/training/training/{training.pk}/change/"
    assert (training.slug, training.template, training.state) == ("moods", "Text: {text}\nMood:", "waiting")
    assert (training.labels, training.max_answer) == (["anger", "joy", "sadness"], len("sadness") + 8)
    assert training.examples == [{"inputs": {"text": "What a day!"}, "expected": "joy"}]
    assert (training.created_by, training.base, training.seed) == (User.objects.get(), "SmolLM2-135M-Instruct", 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"template": "Text: {tweet}\nMood:"}, "The rows have no field tweet; they have {text}."),
        ({"template": "Mood:"}, "The template has no field"),
        ({"metric": "f1_json"}, "F1 of fields needs JSON objects, and a target is “joy”"),
        ({"metric": "mae"}, "Closeness needs numbers, and a target is “joy”"),
        ({"slug": "viggo"}, "viggo is a task of the bake-off"),
        ({"slug": "base"}, "base is the name of the base model itself"),
        ({"slug": "theirs"}, "There is an adapter theirs already that was not trained here"),
        ({"rank": "65"}, "less than or equal to 64"),
        ({"steps": "0"}, "greater than or equal to 1"),
        ({"learning_rate": "1"}, "less than or equal to 0.1"),
        ({"target_modules": []}, "This field is required."),
        ({"nola_basis": "4097"}, "less than or equal to 4096"),
        ({"nola_basis": "8", "invocation": "Mood:"}, "a NOLA is active from the start"),
        ({"invocation": "Judge:"}, "The prompt does not hold the invocation"),
        ({"invocation": " "}, "which invokes nothing"),
        ({"example_lines": "joy"}, "Line 1 of the examples is not JSON"),
        ({"name": "!", "slug": ""}, "No address can be made from the name"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_with_its_reason(
    owner: Client, upload: Upload, publish: Callable[..., AdapterVersion], changes: dict[str, Any], reason: str
) -> None:
    publish("theirs")
    data = upload()
    html = owner.post(f"/admin/training/training/add/?data={data.pk}", form(**changes)).content.decode()
    assert reason in html.replace("&#x27;", "'")
    assert not Training.objects.exists()


def test_a_nola_or_an_alora_is_planned_and_its_page_says_so(owner: Client, upload: Upload) -> None:
    data, told = upload(), []
    for changes in ({"nola_basis": "8"}, {"invocation": "\r\nMood:"}):
        answer = owner.post(f"/admin/training/training/add/?data={data.pk}", form(**changes, slug=f"m{len(told)}"))
        told.append(owner.get(answer["Location"]).content.decode())
    first, second = Training.objects.order_by("slug")
    assert (first.recipe.lora.nola_basis, first.recipe.lora.invocation) == (8, None)
    assert (second.recipe.lora.nola_basis, second.recipe.lora.invocation) == (0, "\nMood:")
    assert "Random bases" in told[0]
    assert "Invocation" in told[1]
    assert "Invocation" not in told[0]
    assert 'name="nola_basis" value="8"' in page_of(owner, data, like=str(first.pk))


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("phi3", "learns LoRAs alone here, for it has "),
        ("llama", "numbers would be drawn when the adapter is loaded, and at most 100,000 are"),
    ],
)
def test_what_a_base_could_not_learn_or_load_is_refused(
    owner: Client, upload: Upload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: str, reason: str
) -> None:
    architecture = read_architecture(make_family(tmp_path / variant, variant) / "config.json")
    monkeypatch.setattr("loraland.training.forms.architecture_of", lambda base: architecture)
    monkeypatch.setattr("inference.adapters.methods.nola.MOST_NUMBERS", 100_000)
    address = f"/admin/training/training/add/?data={upload().pk}"
    assert reason in owner.post(address, form(nola_basis="800", max_length="32")).content.decode()
    assert owner.post(address, form(max_length="32")).status_code == 302


def test_another_training_may_make_the_next_version_of_its_own_adapter(
    owner: Client, plan: Plan, publish: Callable[..., AdapterVersion]
) -> None:
    before = plan(state="done")
    publish("moods")
    html = page_of(owner, before.data, like=str(before.pk))
    assert 'name="slug" value="moods"' in html
    assert 'name="steps" value="40"' in html
    assert html.count('aria-current="true"') == 1  # what learns, and no preset
    owner.post(f"/admin/training/training/add/?data={before.data.pk}", form(slug="moods"))
    assert Training.objects.count() == 2


def test_what_is_written_is_shown_as_the_first_row_would_be_learnt(owner: Client, upload: Upload) -> None:
    address = f"/admin/training/training/add/preview/?data={upload().pk}"
    html = owner.post(address, form(template="A day: {text} <b>\nMood:", steps="300")).content.decode()
    assert "A day: <mark>day " in html
    assert "&lt;b&gt;" in html
    assert "300 steps" in html
    assert "The rows have no field tweet" in owner.post(address, form(template="{tweet}:")).content.decode()


@pytest.mark.parametrize("path", ["add/?data={data}", "{pk}/change/", "{pk}/progress/"])
def test_only_staff_with_the_permission_may_look(plan: Plan, path: str, grant: Callable[..., None]) -> None:
    training = plan()
    address = "/admin/training/training/" + path.format(pk=training.pk, data=training.data.pk)
    stranger, clerk = Client(), Client()
    assert stranger.get(address).status_code == 302
    user = User.objects.create_user("clerk", is_staff=True)
    clerk.force_login(user)
    assert clerk.get(address).status_code == 403
    grant(user, Training, "view", "add")
    assert clerk.get(address).status_code == 200
    assert clerk.post(f"/admin/training/training/{training.pk}/cancel/").status_code == 403


def test_cancelling_is_kept_for_the_job_and_shown_at_once(owner: Client, plan: Plan) -> None:
    training = plan()
    address = f"/admin/training/training/{training.pk}/"
    html = owner.post(f"{address}cancel/", follow=True).content.decode()
    assert "Ending…" in html
    training.refresh_from_db()
    assert training.is_unwanted
    assert owner.get(f"{address}cancel/").status_code == 404


def test_staff_raise_a_training_and_its_page_says_what_that_means(owner: Client, plan: Plan) -> None:
    training = plan(state="training", note="The processor is busy; it goes on when there is room.")
    address = f"/admin/training/training/{training.pk}/"
    html = owner.get(f"{address}progress/").content.decode()
    assert "The processor is busy; it goes on when there is room." in html
    assert "Give it a full share" in html
    html = owner.post(f"{address}hurry/", follow=True).content.decode()
    assert "shares the processor with visitors" in html
    assert "Give it a full share" not in html
    training.refresh_from_db()
    assert training.is_urgent
    assert owner.get(f"{address}hurry/").status_code == 404


LOSSES = [[n, 3.0 / n] for n in range(1, 21)]


@pytest.mark.parametrize(
    ("fields", "words", "is_live"),
    [
        ({"note": "No training server is running."}, "No training server is running.", True),
        ({"state": "training", "step": 20, "losses": LOSSES, "seconds_left": 200.0}, "Step 20 of 40", True),
        ({"state": "examining"}, "Trained, now being examined", True),
        ({"state": "measuring", "measured": 5, "to_measure": 78}, "5 of 78 answers", True),
        ({"state": "failed", "reason": "The loss is nan."}, "The loss is nan.", False),
        ({"state": "cancelled", "reason": "It was cancelled before it began."}, "before it began", False),
    ],
)
def test_the_page_tells_where_a_training_stands_and_asks_again_until_it_has_ended(
    owner: Client, plan: Plan, fields: dict[str, Any], words: str, is_live: bool
) -> None:
    training = plan(told=timezone.now(), started=timezone.now(), **fields)
    html = owner.get(f"/admin/training/training/{training.pk}/change/").content.decode()
    assert words in html
    assert ('hx-trigger="every 2s"' in html) == is_live
    assert ("Train again" in html) != is_live
    assert not re.search(r"<script(?![^>]*(src=|application/json))", html)
    assert not re.search(r"\s(style|onclick|onload)=", html)
    if training.losses:
        assert "About 3 minutes left." in html
        assert "The loss falls to" in html


def test_a_training_under_way_is_not_deleted(owner: Client, plan: Plan) -> None:
    training = plan()
    address = f"/admin/training/training/{training.pk}/delete/"
    assert owner.post(address, {"post": "yes"}).status_code == 403
    training.end(Training.State.CANCELLED)
    assert owner.post(address, {"post": "yes"}).status_code == 302
    assert not Training.objects.exists()


def test_the_list_leads_to_each_training(owner: Client, plan: Plan) -> None:
    training = plan(state="failed", reason="The loss is nan.")
    html = owner.get("/admin/training/training/").content.decode()
    assert f"/admin/training/training/{training.pk}/change/" in html
    assert "The loss is nan." in html


def test_a_test_row_that_is_a_training_row_is_refused(owner: Client) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    from tests.loraland.training.moods import lines

    files = {"file": SimpleUploadedFile("a", b"".join(lines())), "test_file": SimpleUploadedFile("b", lines(1)[0])}
    html = owner.post("/admin/evals/dataset/add/", {"name": "Moods", **files}).content.decode()
    assert "1 test rows ask what a training row asks, such as “day 0 of joy”" in html
    assert not DataSet.objects.exists()


def test_the_curve_falls_from_its_first_loss_to_its_last() -> None:
    drawn = chart(LOSSES, 40)
    assert drawn is not None
    first, *_, last = [tuple(map(float, point.split(","))) for point in drawn.raw.split()]
    assert (first, last) == ((25.0, 75.0), (500.0, pytest.approx(288.8, abs=0.1)))
    assert [label for label, _ in drawn.marks] == ["4", "2", "0"]
    assert (drawn.last_x, drawn.step) == (50.0, 20)
    assert chart([], 40) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(20, "less than a minute"), (60, "about 1 minute"), (250, "about 4 minutes"), (4900, "about 1 h 20 min")],
)
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_examples_with_a_field_called_like_the_answer_come_back(owner: Client, upload: Upload) -> None:
    odd = [
        json.dumps({"inputs": {"text": f"t{n}", "expected": "yes"}, "target": "joy"}).encode() + b"\n"
        for n in range(30)
    ]
    data = upload(odd)
    lines = re.search(r'name="example_lines"[^>]*>([^<]*)<', page_of(owner, data))
    assert lines is not None
    text = lines[1].strip().replace("&quot;", '"')
    template = "Text: {text}\nExpected: {expected}\nLabel:"
    owner.post(f"/admin/training/training/add/?data={data.pk}", form(template=template, example_lines=text))
    assert Training.objects.get().examples[0]["expected"] == "joy"


def test_rows_that_are_all_long_get_a_length_that_holds_them() -> None:
    def proposed(*sizes: int) -> int:
        return max_length([Row({"text": "x" * size}, "joy") for size in sizes], "{text}", len)

    assert proposed(100, 200, 300) == 320
    assert proposed(*[100] * 9, 3000) == 1024, "one long row is left out, and told"
    assert proposed(*[1500] * 9, 2000) == 2048
    assert proposed(*[9000] * 9) == 4096
