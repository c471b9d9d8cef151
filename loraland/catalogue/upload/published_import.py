"""Fetching one of the published adapters from the hub: files, prompt and what is known of it, in one step."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from inference.reading import reading
from inference.tasks.card import Card
from loraland.catalogue import store
from loraland.catalogue.template import TemplateError, fields_of
from loraland.catalogue.upload import hub
from loraland.catalogue.upload.companions import companions_in, take
from loraland.catalogue.upload.model_card import template_of
from loraland.catalogue.upload.submission import Submission, submit
from loraland.paper import published

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from loraland.paper.published import Published


def fetch_published(entry: Published, template: str = "", user: User | None = None) -> Submission:
    """Fetch `entry` and submit it with `template`, or with the prompt that its README shows.

    Raises `loraland.catalogue.upload.hub.HubError` when it cannot be fetched or no prompt is known for it, and
    `loraland.catalogue.store.TooLarge`.
    """
    with reading(entry.repository, hub.HubError, store.TooLarge), tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        hub.fetch(hub.HuggingFaceHub(), entry.repository, directory)
        card = card_of(entry, template or shown_template(entry, directory))
        token = store.receive_directory(directory)
        return submit(token, entry.slug, card, user=user, remarks=take(companions_in(directory), token))


def card_of(entry: Published, template: str) -> Card:
    """What the catalogue tells of `entry`. Raises `hub.HubError` for a template without a field."""
    try:
        fields = fields_of(template)
    except TemplateError as error:
        raise hub.HubError(" ".join(error.reasons)) from error
    return Card(
        name=entry.name,
        category=entry.category,
        summary=f"{entry.name}, by the adapter that the paper’s authors published.",
        description=entry.account,
        base=published.BASE,
        author=entry.repository.partition("/")[0],
        dataset={"name": entry.task or entry.repository.partition("/")[2], "source": entry.source},
        template=template,
        fields=fields,
    )


def shown_template(entry: Published, directory: Path) -> str:
    """The prompt that the README of `entry` shows; it is fetched into `directory`. Raises `HubError`."""
    readme = hub.fetch_readme(hub.HuggingFaceHub(), entry.repository, directory)
    if template := template_of(readme):
        return template
    raise hub.HubError(
        f"The README of {entry.repository} shows no prompt that can be told apart, and the adapter works with no other "
        "than the one it was trained on; write that prompt, with {field} where an input goes."
    )
