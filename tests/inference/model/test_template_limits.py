"""Templates that would never end or fill the memory: each ends with a sentence, and the next one is filled."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Thread

import pytest

from inference.engine.prompt import PromptError, build_prompt
from inference.model.template_runner import RUNNER, TemplateExceeded, TemplateRefused, TemplateRunner
from inference.model.tokenizer import Tokenizer
from inference.wire.protocol import Generate, Message
from tests.inference.engines import make_tokenizer

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
END = "{% endfor %}{% endfor %}{% endfor %}"
SLOW = {
    "nested loops": f"{LOOP}{END}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "two lists of lists of lists": "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
}
LARGE = {
    "a string many times": "{{ 'x' * 10 ** 9 }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "centred": "{{ 'x'.center(10 ** 9) }}",
    "doubled": "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "an indent": "{{ [1] | tojson(indent=10 ** 9) }}",
    "a list many times": "{{ ['x'] * 10 ** 9 }}",
    "lists of lists": "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}"
    "{{ n.a | tojson }}",
}
WRONG = {
    "{% for m in messages %}": "unexpected|end",
    "{{ messages + 1 }}": "TypeError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ messages.__class__.__mro__ }}": "unsafe",
    "{{ range(10 ** 9) }}": "too big",
    "{% set n = namespace() %}{% set n.__init__ = 1 %}": "cannot have the name '__init__'",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "without end",
    "{% include 'other' %}": "no loader",
    "{{ raise_exception('no talk today') }}": "no talk today",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}": "more than 16000000 characters",
}
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


def fill(source: str) -> str:
    return RUNNER.render(source, {"messages": [{"role": "user", "content": "hi"}]})


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_template_that_never_ends_is_ended(name: str) -> None:
    with pytest.raises(TemplateExceeded, match="takes more than 2 seconds of the processor"):
        fill(SLOW[name])
    assert fill(PLAIN) == "hi"


@pytest.mark.parametrize("name", LARGE)
def test_a_template_that_takes_all_memory_gets_none(name: str) -> None:
    with pytest.raises(TemplateRefused, match=r"more than (512 MB of memory|16000000 characters|2 seconds)"):
        fill(LARGE[name])
    assert fill(PLAIN) == "hi"


@pytest.mark.parametrize("source", WRONG)
def test_a_template_that_is_wrong_or_reaches_out_is_refused(source: str) -> None:
    with pytest.raises(TemplateRefused, match=WRONG[source]):
        fill(source)
    assert fill(PLAIN) == "hi"


def test_what_an_assistant_said_may_be_marked() -> None:
    assert fill("{% generation %}{{ messages[0].content }}{% endgeneration %}!") == "hi!"


def test_loops_may_be_left_and_gone_on_with() -> None:
    assert (
        fill(
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 2 %}{% break %}{% endif %}"
            "{{ i }}{% endfor %}"
        )
        == "02"
    )


def test_a_process_that_was_ended_from_outside_is_replaced() -> None:
    runner = TemplateRunner()
    runner.start()
    assert runner._process is not None
    os.kill(runner._process.pid, signal.SIGKILL)
    runner._process.wait()
    assert runner.render("{{ a }}", {"a": "still here"}) == "still here"


def test_a_process_that_cannot_start_is_a_refusal_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = TemplateRunner()
    with monkeypatch.context() as broken:
        broken.setattr("sys.executable", "/no/python")
        runner.start()
        with pytest.raises(TemplateExceeded, match=r"cannot be started: .*/no/python"):
            runner.render("{{ a }}", {"a": 1})
    assert runner.render("{{ a }}", {"a": "again"}) == "again"


def test_several_threads_get_each_their_own() -> None:
    told: dict[int, str] = {}

    def ask(number: int) -> None:
        told[number] = RUNNER.render("{{ n }}", {"n": number})

    threads = [Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {number: str(number) for number in range(20)}


@pytest.mark.slow
def test_the_caller_is_told_that_the_template_cannot_be_filled(tmp_path: Path) -> None:
    tokenizer = Tokenizer(make_tokenizer(tmp_path, SLOW["nested loops"]))
    with pytest.raises(PromptError, match=r"^The chat template cannot be filled: it takes more than 2 seconds"):
        build_prompt(Generate("a", messages=(Message("user", "hi"),)), tokenizer, 100)
