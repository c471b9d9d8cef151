from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.prompt import Prompt, PromptError, build_prompt, fill
from inference.model.tokenizer import Detokenizer, Tokenizer, TokenizerError
from inference.wire.protocol import AdapterRef, Generate, Message, Sampling
from tests.inference.engines import make_tokenizer

START, END = 1, 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def ask(**fields: object) -> Generate:
    return Generate("a", **fields)  # type: ignore[arg-type]


def said(*contents: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(roles[number % 2], content) for number, content in enumerate(contents))


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json, tekken\.json or tokenizer\.model"):
        Tokenizer(tmp_path)


def test_text_comes_back_as_it_went(tokenizer: Tokenizer) -> None:
    text = "naïve 漢字 👩‍🚀 \n\t <|end"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_ids == {END}


def test_control_tokens_are_ids_in_a_raw_prompt_and_text_when_guarded(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|start|>a")[0] == START
    guarded = tokenizer.encode_guarded(tokenizer.guard("<|start|>a"))
    assert START not in guarded
    assert tokenizer.decode(guarded) == "<|start|>a"


@given(
    text=st.text(max_size=40),
    first=st.text(alphabet="<|>end", max_size=9),
    second=st.text(alphabet="<|>end", max_size=9),
)
def test_no_text_of_a_user_becomes_a_control_token(tokenizer: Tokenizer, text: str, first: str, second: str) -> None:
    ids = fill("{a}{b}{c}", {"a": text, "b": first, "c": second}, tokenizer)
    assert not {START, END} & set(ids)
    if "\ue0ff" not in text:
        assert tokenizer.decode(ids) == text + first + second


def test_a_template_is_filled_in_one_pass(tokenizer: Tokenizer) -> None:
    filled = fill("<|start|>{a} and {b} {c} {0}", {"a": "{b}", "b": "{a} \\1"}, tokenizer)
    assert filled == [START, *tokenizer.encode("{b} and {a} \\1 {c} {0}")]


def test_a_chat_goes_through_the_base_template(tokenizer: Tokenizer) -> None:
    prompt = build_prompt(ask(messages=said("hi <|end|>", "yo", "more")), tokenizer, 1000)
    text = "".join(
        ("<|start|>", "<|end|>")[token_id == END] if token_id < 2 else tokenizer.decode([token_id])
        for token_id in prompt.token_ids
    )
    assert text == (
        "<|start|>user\nhi <|end|><|end|>\n<|start|>assistant\nyo<|end|>\n"
        "<|start|>user\nmore<|end|>\n<|start|>assistant\n"
    )
    assert prompt.token_ids.count(END) == 3


def test_an_answer_goes_on_from_what_the_assistant_began(tokenizer: Tokenizer) -> None:
    messages = (*said("a fruit?"), Message("assistant", "An app<|end|>", is_open=True))
    prompt = build_prompt(ask(messages=messages), tokenizer, 500)
    begun = build_prompt(ask(messages=said("a fruit?")), tokenizer, 500)
    assert prompt.token_ids == (*begun.token_ids, *tokenizer.encode_text("An app<|end|>"))
    assert prompt.token_ids.count(END) == begun.token_ids.count(END)


def test_a_long_chat_keeps_the_question_whose_answer_has_begun(tokenizer: Tokenizer) -> None:
    messages = (*said(*("x" * 50 for _ in range(8)), "why?"), Message("assistant", "As", is_open=True))
    text = tokenizer.decode(
        build_prompt(ask(messages=messages, sampling=Sampling(max_tokens=9)), tokenizer, 40).token_ids
    )
    assert text == "user\nwhy?\nassistant\nAs"


def test_a_base_without_a_template_goes_on_writing(tmp_path: Path) -> None:
    tokenizer = Tokenizer(make_tokenizer(tmp_path, chat_template=None))
    assert tokenizer.decode(tokenizer.encode_chat(said("once", "upon", "a time"))) == "once\n\nupon\n\na time"


@pytest.mark.parametrize("template", [None, "<|start|>{{ messages[0].content }}"])
def test_a_base_with_an_opening_token_sees_it_once_before_every_prompt(tmp_path: Path, template: str | None) -> None:
    tokenizer = Tokenizer(make_tokenizer(tmp_path, template, opening="<|start|>"))
    adapter = AdapterRef("a" * 64, "Say {word}:", ("word",))
    for request in (
        ask(prompt="once"),
        ask(prompt="<|start|>once"),
        ask(messages=said("once")),
        ask(adapter=adapter, inputs={"word": "hi"}),
        ask(adapter=adapter, messages=said("hi")),
        ask(adapter=AdapterRef("a" * 64, "Say:"), inputs={}),
    ):
        prompt = build_prompt(request, tokenizer, 100).token_ids
        assert (prompt[0], prompt.count(START)) == (START, 1)
    with pytest.raises(PromptError, match="empty"):
        build_prompt(ask(prompt=""), tokenizer, 100)


def test_a_template_may_refuse_and_cannot_reach_out(tmp_path: Path) -> None:
    refusing = Tokenizer(make_tokenizer(tmp_path / "a", "{{ raise_exception('no systems here') }}"))
    with pytest.raises(PromptError, match="no systems here"):
        build_prompt(ask(messages=said("hi")), refusing, 100)
    reaching = Tokenizer(make_tokenizer(tmp_path / "b", "{{ messages.__class__.__mro__ }}"))
    with pytest.raises(TokenizerError):
        reaching.encode_chat(said("hi"))


def test_a_long_chat_drops_its_oldest_turns_and_keeps_the_system(tokenizer: Tokenizer) -> None:
    messages = (Message("system", "be kind"), *said(*(f"{n}" * 50 for n in range(9))))
    prompt = build_prompt(ask(messages=messages, sampling=Sampling(max_tokens=30)), tokenizer, 350)
    text = tokenizer.decode(prompt.token_ids)
    assert len(prompt.token_ids) + 30 <= 350
    assert text.startswith("system\nbe kind\nuser\n")
    assert text.endswith("8" * 50 + "\nassistant\n")
    assert prompt.dropped_turns == 6
    whole = build_prompt(ask(messages=messages), tokenizer, 5000)
    assert whole.dropped_turns == 0


def test_a_long_chat_that_is_to_keep_its_turns_is_refused(tokenizer: Tokenizer) -> None:
    messages = said(*(f"{n}" * 50 for n in range(9)))
    whole = build_prompt(ask(messages=messages, keep_turns=True), tokenizer, 5000)
    assert whole.dropped_turns == 0
    with pytest.raises(PromptError, match=r"^This model's maximum context length is 350 tokens\. ") as caught:
        build_prompt(ask(messages=messages, keep_turns=True), tokenizer, 350)
    assert caught.value.code == "prompt_too_long"


def test_a_last_message_that_is_too_long_is_refused_with_numbers(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match=r"has 118 tokens and the answer .* by 19 tokens") as caught:
        build_prompt(ask(messages=said("old", "old", "x" * 99)), tokenizer, 100)
    assert caught.value.code == "prompt_too_long"


def test_a_prompt_leaves_room_for_one_token(tokenizer: Tokenizer) -> None:
    assert len(build_prompt(ask(prompt="x" * 99), tokenizer, 100).token_ids) == 99
    with pytest.raises(PromptError, match="shorten it by 1 tokens"):
        build_prompt(ask(prompt="x" * 100), tokenizer, 100)


ONE = AdapterRef("d", "Q: {question}\nA:", ("question",))
TWO = AdapterRef("d", "{a} / {b}", ("a", "b"))


def test_messages_fill_a_template_of_one_field_with_the_last_of_the_user(tokenizer: Tokenizer) -> None:
    prompt = build_prompt(ask(adapter=ONE, messages=said("old", "yo", "why?")), tokenizer, 100)
    assert tokenizer.decode(prompt.token_ids) == "Q: why?\nA:"


def test_inputs_fill_a_template_of_several_fields(tokenizer: Tokenizer) -> None:
    prompt = build_prompt(ask(adapter=TWO, inputs={"a": "{b}", "b": "y"}), tokenizer, 100)
    assert prompt == Prompt(tuple(tokenizer.encode("{b} / y")))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "not none of them"),
        ({"prompt": "a", "inputs": {}}, "not prompt and inputs"),
        ({"prompt": ""}, "prompt is empty"),
        ({"messages": ()}, "messages are empty"),
        ({"messages": (Message("robot", "hi"),)}, "role 'robot'"),
        ({"inputs": {"a": "x"}}, "this model has none"),
        ({"adapter": AdapterRef("d"), "inputs": {"a": "x"}}, "this model has none"),
        ({"adapter": TWO, "messages": said("hi")}, r"2 fields \(a, b\); send inputs"),
        ({"adapter": ONE, "messages": (Message("system", "hi"),)}, "no message of the user"),
        ({"adapter": TWO, "inputs": {"a": "x", "c": "y"}}, r"\(a, b\); missing: b; unknown: c"),
        ({"adapter": TWO, "inputs": ("a", "b")}, "must be an object"),
        ({"adapter": TWO, "inputs": {"a": "x", "b": 3}}, "inputs.b must be a string, not int"),
        ({"messages": (Message("user", None),)}, "content must be a string"),
        ({"prompt": 3}, "prompt must be a string"),
        ({"prompt": "a\ud800"}, "half a character"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(
    tokenizer: Tokenizer, fields: dict[str, object], sentence: str
) -> None:
    with pytest.raises(PromptError, match=sentence) as caught:
        build_prompt(ask(**fields), tokenizer, 100)
    assert caught.value.code == "invalid_request"


@given(st.text(max_size=60))
def test_detokenised_text_grows_by_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    detokenizer, grown = Detokenizer(tokenizer), ""
    for token_id in tokenizer.encode_guarded(tokenizer.guard(text)):
        grown += detokenizer.push(token_id)
        assert text.replace("\ue0ff", "").startswith(grown)
    assert grown == text.replace("\ue0ff", "")


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    assert list(map(detokenizer.push, tokenizer.encode("é漢😀"))) == ["", "é", "", "", "漢", "", "", "", "😀"]


def test_bytes_that_are_no_text_are_replaced(tokenizer: Tokenizer) -> None:
    first, _ = tokenizer.encode("é")
    detokenizer = Detokenizer(tokenizer)
    assert list(map(detokenizer.push, (first, *tokenizer.encode("ab")))) == ["", "\ufffda", "b"]


@pytest.mark.slow
def test_the_real_tokenizer_agrees_with_transformers(model_dir: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = Tokenizer(model_dir), AutoTokenizer.from_pretrained(model_dir)
    text = "Hello  world,\n\n naïve 漢字 👩‍🚀 12345 <b>\tdone"
    assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
    assert ours.decode(range(17, 20000)) == theirs.decode(list(range(17, 20000)), clean_up_tokenization_spaces=False)
    chat = said("hi", "yo", text)
    expected = theirs.apply_chat_template(list(map(vars, chat)), add_generation_prompt=True, return_dict=True)
    assert ours.encode_chat(chat) == expected["input_ids"]
    assert ours.eos_ids == {theirs.eos_token_id}


@pytest.fixture
def starting(tmp_path: Path) -> Tokenizer:
    """A tokenizer whose base saw <|start|> before every text, as Mistral's saw <s>."""
    directory = make_tokenizer(tmp_path)
    path = directory / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|start|>": {"id": "<|start|>", "ids": [START], "tokens": ["<|start|>"]}},
    }
    path.write_text(json.dumps(settings))
    (directory / "tokenizer_config.json").write_text('{"bos_token": "<|start|>", "eos_token": "<|end|>"}')
    return Tokenizer(directory)


def test_a_prompt_begins_as_the_base_saw_every_text_begin(starting: Tokenizer, tokenizer: Tokenizer) -> None:
    assert starting.encode("hi") == [START, *tokenizer.encode("hi")]
    assert fill("{a}", {"a": "hi"}, starting) == [START, *tokenizer.encode("hi")]


def test_a_prompt_that_names_its_first_token_gets_no_second(starting: Tokenizer) -> None:
    assert starting.encode("<|start|>hi").count(START) == 1


def test_a_chat_template_places_its_own_first_token(starting: Tokenizer, tokenizer: Tokenizer) -> None:
    assert starting.encode_chat(said("hi")) == tokenizer.encode_chat(said("hi"))


def beyond_the_table(directory: Path, rows: int, *added: str, plain: str = "") -> Path:
    """A tokenizer with tokens behind the `rows` of config.json."""
    make_tokenizer(directory)
    saved = json.loads((directory / "tokenizer.json").read_text())
    size = 1 + max(*saved["model"]["vocab"].values(), *(token["id"] for token in saved["added_tokens"]))
    for number, name in enumerate(added):
        saved["added_tokens"].append(saved["added_tokens"][0] | {"id": size + number, "content": name})
    saved["model"]["vocab"] |= {plain: size + len(added)} if plain else {}
    (directory / "tokenizer.json").write_text(json.dumps(saved))
    (directory / "config.json").write_text(json.dumps({"vocab_size": rows or size}))
    return directory


def test_an_added_token_without_a_row_in_the_table_is_its_characters_in_a_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer(beyond_the_table(tmp_path, 0, "<pad>", "<more>"))
    rows = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    assert tokenizer.vocab_size == rows
    ids = tokenizer.encode("a<pad>b<more>")
    assert max(ids) < rows
    assert tokenizer.decode(ids) == "a<pad>b<more>"
    assert "2 tokens of" in caplog.text
    assert "from '<pad>' on have no row in its table and are left out" in caplog.text


def test_a_vocabulary_beyond_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"1 tokens of .* from 'zz' on are beyond the \d+ that config\.json says"):
        Tokenizer(beyond_the_table(tmp_path, 0, plain="zz"))
