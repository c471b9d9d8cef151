from __future__ import annotations

from dataclasses import replace

import pytest

from inference.wire.codec import ProtocolError
from inference.wire.protocol import (
    AdapterRef,
    Alternative,
    ClaimCounts,
    Component,
    Delta,
    Embedded,
    EngineLoad,
    Failed,
    Finished,
    Generate,
    Heartbeat,
    Message,
    Probe,
    Progress,
    Prompted,
    Sampling,
    StageLoad,
    Stats,
    TokenLogprob,
    TokenWeights,
    decode,
    encode,
    is_terminal,
)

ADAPTER = AdapterRef("ab" * 32, "Text: {text}\nLabel:", ("text",))
MESSAGES = [
    Generate("g1", ADAPTER, inputs={"text": "{ü} \u2028"}, sampling=Sampling(seed=7, stop=("\n", "END"), logprobs=2)),
    Generate("g2", messages=(Message("user", "hi"), Message("assistant", "ho")), tenant="t", created=1.5),
    Generate("g3", prompt=""),
    Generate("g4", token_ids=(1, 2), sampling=Sampling(max_tokens=0, prompt_logprobs=0), group="call"),
    Generate("g5", prompt="a text", is_embedding=True),
    Probe("p1", ADAPTER),
    Delta("a", "xy", (1, 2), weights=(TokenWeights("x", (0.25, 0.75)), TokenWeights("y", (1.0, -0.5)))),
    Probe("p2", AdapterRef("cd" * 32, components=(Component("ab" * 32, 0.5), Component("ef" * 32, -1.0)))),
    Progress("g1", "loading"),
    Prompted("g1", (TokenLogprob("a", 1, 0.0), TokenLogprob("<s>", 0, -2.0, is_special=True, rank=3))),
    Embedded("g1", (0.5, -1.25)),
    Delta(
        "g1",
        "🙂",
        (1, 2),
        (TokenLogprob("a", 1, -0.5, top=(Alternative("a", 1, -0.5), Alternative("\ufffd", 2, -1.0, "f0"))),),
    ),
    Finished("g1", "done", Stats(prompt_tokens=3, seed=7)),
    Failed("g1", "lost", "Send it again.", Stats(takeovers=1)),
    Heartbeat("w", "base", True, load=EngineLoad(on_device=("aa", "bb"), free_blocks=3, adapter_loads=(("aa", 2),))),
    Heartbeat("w", "base", True, claims=ClaimCounts(hits=3, stolen=1)),
    Heartbeat("w", "base", True, load=EngineLoad(stages=(StageLoad(0, 3, 2**30, 1.5, 17), StageLoad(3, 5, 2**29)))),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_went(message):
    assert decode(encode(message)) == message
    assert decode(encode(message).encode()) == message


def test_a_message_that_comes_back_is_hashable_where_it_was():
    assert hash(decode(encode(MESSAGES[1]))) == hash(MESSAGES[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"kind":"shutdown"}',
        '{"kind":"stats"}',
        '{"kind":"delta","id":"g1"}',
        '{"kind":"delta","id":"g1","text":"a","colour":"red"}',
        '{"kind":["delta"],"id":"g1","text":"a"}',
        '{"kind":"finished","id":"g1","reason":"done","stats":{"unknown":1}}',
        b"\xff",
    ],
)
def test_what_the_wire_does_not_know_is_refused(text):
    with pytest.raises(ProtocolError, match="unreadable message"):
        decode(text)


def test_a_terminal_event_without_stats_is_read():
    assert decode('{"kind":"finished","id":"g1","reason":"stopped"}') == Finished("g1", "stopped")


def test_only_the_two_ends_are_terminal():
    assert [is_terminal(message) for message in MESSAGES if getattr(message, "id", "") == "g1"] == [False] * 5 + [
        True,
        True,
    ]


def test_messages_cannot_be_changed():
    with pytest.raises(AttributeError):
        MESSAGES[2].id = "other"
    assert replace(MESSAGES[2], id="other").id == "other"
