"""Who reads the shared prompt how: its own template, the lead's words, or the text as it stands."""

from __future__ import annotations

import pytest

from inference.wire.protocol import Message
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.playground.comparisons import expected_of, filled, lead_of, reading, shared
from loraland.playground.messages import Prompt
from loraland.refusal import Refused


def version(slug: str, template: str, *fields: str) -> AdapterVersion:
    adapter = Adapter(slug=slug, name=slug.title())
    return AdapterVersion(adapter=adapter, template=template, fields=[{"name": name} for name in fields])


TOPIC = version("topic", "Title: {title}\nText: {text}\nTopic:", "title", "text")
TITLE = version("title", "Is {title} a title?", "title")
TWEET = version("tweet", "Tweet: {tweet}", "tweet")
PAIR = version("pair", "{question} {sentence}", "question", "sentence")
CHATTY = version("chatty", "")
PROMPT = Prompt(inputs={"title": "Dawn", "text": "A film."})
WORDS = "Title: Dawn\nText: A film.\nTopic:"


def test_the_first_column_with_fields_leads():
    assert lead_of([None, CHATTY, TOPIC, TWEET]) is TOPIC
    assert lead_of([None, CHATTY]) is None


def test_the_lead_reads_its_own_template():
    assert reading(TOPIC, TOPIC, PROMPT).content == {"inputs": PROMPT.inputs}


def test_fields_of_the_same_name_are_shared():
    assert reading(TITLE, TOPIC, PROMPT).content == {"inputs": {"title": "Dawn"}}


def test_the_base_reads_the_same_words_as_the_lead():
    read = reading(None, TOPIC, PROMPT)
    assert read.content == {"messages": [Message("user", WORDS)]}
    assert "Topic’s filled-in template" in read.note


def test_a_template_of_one_other_field_takes_the_whole_prompt():
    assert reading(TWEET, TOPIC, PROMPT).content == {"inputs": {"tweet": WORDS}}
    assert reading(TWEET, TITLE, Prompt(inputs={"title": "Dawn"})).content == {"inputs": {"tweet": "Dawn"}}


def test_a_template_of_other_fields_gets_the_words_as_they_are():
    assert reading(PAIR, TOPIC, PROMPT).content == {"prompt": WORDS}


def test_without_a_lead_all_read_the_text():
    assert reading(None, None, Prompt(text="Hello")).content == {"messages": [Message("user", "Hello")]}
    assert reading(CHATTY, None, Prompt(text="Hello")).content == {"messages": [Message("user", "Hello")]}


def test_a_value_that_looks_like_a_field_is_left_alone():
    assert filled(TOPIC, {"title": "{text}", "text": "{title}"}) == "Title: {text}\nText: {title}\nTopic:"


def test_an_example_brings_the_answer_it_expects():
    TOPIC.examples = [{"inputs": PROMPT.inputs, "expected": "Film"}]
    assert expected_of(TOPIC, PROMPT.inputs) == "Film"
    assert expected_of(TOPIC, {**PROMPT.inputs, "text": "A book."}) == ""
    assert expected_of(None, PROMPT.inputs) == ""


def test_text_for_columns_with_fields_is_refused_by_their_names():
    with pytest.raises(Refused, match="title, text"):
        shared(TOPIC, Prompt(text="Dawn"))
    with pytest.raises(Refused, match="as text"):
        shared(None, PROMPT)
