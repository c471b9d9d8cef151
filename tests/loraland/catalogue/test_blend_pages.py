"""What visitors see of blends: in the catalogue, on pages of their own, and on those of their parts."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.test import Client

from inference.wire.protocol import GateRef
from loraland.catalogue.blends import BlendPart, as_values
from loraland.catalogue.composition import Composition
from loraland.catalogue.models import Adapter, AdapterVersion

Publish = Callable[..., AdapterVersion]
Blend = Callable[..., AdapterVersion]


def read(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


@pytest.fixture
def blend(publish: Publish) -> Blend:
    """`blend("both", gate)` publishes a blend of a topic and an emotion, which are published before."""
    parts = [publish(slug, digest, rank=8, template="Say {text}:", fields=[{"name": "text"}]) for slug, digest in PARTS]

    def make(slug: str = "both", gate: GateRef = ARROW, **fields: object) -> AdapterVersion:
        made = Composition(tuple((part, 1.0) for part in parts), gate)
        about = {"gate": as_values(gate), "components": made.components, "rank": made.rank, "template": made.template}
        version = publish(slug, made.digest, **about | {"fields": parts[0].fields} | fields)
        for position, part in enumerate(parts):
            BlendPart.objects.create(blend=version, part=part, position=position)
        return version

    return make


PARTS = (("topic", "a"), ("emotion", "b"))
ARROW = GateRef("arrow", 1, 0.5)


def test_its_page_tells_its_parts_what_weighs_them_and_how_it_is_called(client: Client, blend: Blend) -> None:
    version = blend()
    page = read(client, "/adapters/both/")
    assert '<a href="/adapters/topic/">Topic</a>' in page
    assert "What weighs them: Arrow" in page
    assert 'href="https://arxiv.org/abs/2405.11157"' in page
    assert "<dt>parts count at a token</dt><dd>1 of 2</dd>" in page
    assert "<dt>temperature</dt><dd>0.5</dd>" in page
    assert "<dt>the gate’s file</dt><dd>none</dd>" in page
    assert "arrow:1:0.5(topic@aaaaaaaaaaaa+emotion@bbbbbbbbbbbb)" in page
    assert f"<code>both</code>, or <code>{version}</code>" in page
    assert "<dt>Alpha</dt>" not in page
    assert "never: it has no examples of its input" in page


@pytest.mark.parametrize(
    ("kind", "name", "paper"), [("flow", "LoRA-Flow", "2402.11455"), ("ramole", "RAMoLE", "2406.16989")]
)
def test_a_trained_gate_is_told_with_its_settings_and_its_size(
    kind: str, name: str, paper: str, client: Client, blend: Blend
) -> None:
    config = {"top_k": 0 if kind == "flow" else 9, "temperature": 1.1}
    blend(gate=GateRef(kind, digest="c" * 64), config=config, size_bytes=138_000, num_parameters=34_620)
    page = read(client, "/adapters/both/")
    assert f"What weighs them: {name}" in page
    assert f"arXiv {paper}" in page
    assert "<dd>all 2</dd>" in page
    assert "<dd>1.1</dd>" in page
    assert "<dd>0.1 MB</dd>" in page
    assert "Without a name of its own" not in page


def test_its_parts_name_it_and_a_part_that_is_gone_goes_on(client: Client, blend: Blend) -> None:
    blend()
    assert '<a href="/adapters/both/">Both</a>' in read(client, "/adapters/topic/")
    assert "In blends" not in read(client, "/adapters/both/")
    Adapter.objects.get(slug="topic").published.retire()
    page = read(client, "/adapters/both/")
    assert "withdrawn by itself" in page
    assert 'href="/adapters/topic/"' not in page
    assert "Without a name of its own" not in page
    Adapter.objects.get(slug="both").published.retire()
    assert "In blends" not in read(client, "/adapters/emotion/")


def test_the_catalogue_shows_blends_by_themselves_or_among_adapters(client: Client, blend: Blend) -> None:
    assert "Show</legend>" not in read(client, "/")
    blend()
    every = read(client, "/")
    assert "2 adapters, each trained for one task" in every
    assert "and 1 blend in which several answer together" in every
    assert "3 in all" in every
    assert "Blend of 2" in every
    for kind, names in (
        ("blends", ["Both"]),
        ("adapters", ["Emotion", "Topic"]),
        ("nonsense", ["Both", "Emotion", "Topic"]),
    ):
        page = read(client, f"/?kind={kind}")
        assert sorted(re.findall(r'<h3><a href="/adapters/[\w-]+/">([^<]+)</a>', page)) == names
    assert re.findall(r"<h3><a[^>]+>([^<]+)</a>", read(client, "/?q=blend+arrow")) == ["Both"]
    assert 'value="blends" checked' in read(client, "/?kind=blends")


def test_where_no_blend_is_the_catalogue_says_so_in_whole_words(client: Client, publish: Publish) -> None:
    publish("topic", "a")
    assert "Nothing is there among the blends." in read(client, "/?kind=blends")
    assert "Nothing matches “tar” among the blends." in read(client, "/?kind=blends&q=tar")
