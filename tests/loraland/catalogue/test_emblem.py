from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from loraland.catalogue.categories import CATEGORIES, category_of, position
from loraland.catalogue.emblem import PETALS, draw, draw_plain, emblem
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.templatetags import emblems


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_equal_weights_under_an_equal_name_always_look_the_same() -> None:
    assert draw(emblem("viggo", digest("a"))) == draw(emblem("viggo", digest("a")))


def test_versions_of_one_adapter_are_of_one_species_and_yet_differ() -> None:
    versions = [emblem("viggo", digest(str(number))) for number in range(4)]
    species = {replace(plan, turn=0, length=0, width=0, dots=0) for plan in versions}
    assert len(species) == 1
    assert len({draw(plan) for plan in versions}) == 4


def test_forty_strangers_with_the_same_digest_are_all_told_apart() -> None:
    strangers = [emblem(f"adapter-{number}", digest("same")) for number in range(40)]
    species = {(plan.petal, plan.count, plan.between, plan.ring, plan.heart) for plan in strangers}
    assert len(species) == 40


@pytest.mark.parametrize("petal", PETALS)
@pytest.mark.parametrize("kind", range(5))
def test_an_emblem_is_well_formed_and_stays_on_its_disc(petal: object, kind: int) -> None:
    plan = replace(emblem("x", digest("x")), petal=petal, between=kind % 4, ring=kind % 4, heart=kind)
    svg = ElementTree.fromstring(f"<svg>{draw(plan)}</svg>")
    for path in svg.iter("path"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
        assert max(map(abs, numbers)) <= 23


def test_an_emblem_has_no_inline_style_and_no_colour_of_its_own() -> None:
    for drawing in (draw(emblem("viggo", "")), draw_plain()):
        assert "style" not in drawing
        assert "#" not in drawing


def test_the_tag_draws_a_version_in_the_colours_of_its_category() -> None:
    version = AdapterVersion(adapter=Adapter(slug="viggo", category="Classic NLP"), digest=digest("a"))
    assert '<svg class="emblem category-classic-nlp" width="32"' in emblems.emblem(version, 32)


def test_the_tag_draws_the_base_when_there_is_no_version() -> None:
    assert 'class="emblem category-plain"' in emblems.emblem(None)


def test_an_unknown_category_keeps_its_name_and_comes_after_the_known() -> None:
    stranger = category_of("Cookery <b>")
    assert (stranger.key, stranger.name) == ("other", "Cookery <b>")
    assert all(position(stranger) > position(known) for known in CATEGORIES)


def test_a_category_is_known_in_any_case() -> None:
    assert category_of(" classic nlp ").key == "classic-nlp"


def test_every_category_has_a_glyph_of_its_own() -> None:
    assert len({category.glyph for category in CATEGORIES}) == len(CATEGORIES)
