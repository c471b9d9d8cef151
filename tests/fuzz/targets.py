"""What is fuzzed: each target takes any bytes and ends in success or in the refusal of its contract, nothing else.

A target that meets another exception, or an assertion of its own that does not hold, has found a fault.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import torch
from django.test import override_settings
from pydantic import ValidationError

from inference.adapters import config_file
from inference.adapters.storable import is_storable
from inference.engine.defaults import read_defaults
from inference.model.architecture import read_architecture
from inference.model.generation_config import GENERATION, end_ids, end_strings
from inference.model.gguf.directory import write_directory
from inference.model.tokenizer import Tokenizer
from inference.model.tokenizer_files import read_settings
from inference.model.weights import load_weights
from inference.reading import Refused
from inference.wire.codec import ProtocolError
from inference.wire.protocol import Generate, decode, encode
from loraland.api.openai.chat import ChatCompletion
from loraland.api.openai.completion import Completion
from loraland.catalogue import store
from loraland.catalogue.card import CardError, read_card
from loraland.catalogue.template import TemplateError, check_examples, check_fields, fields_of, parse_examples
from loraland.catalogue.upload.archive import ArchiveRefused, read_archive
from loraland.catalogue.upload.blending import Gated
from loraland.catalogue.upload.validation import examine_upload
from loraland.evals.jsonl import examine, lines_of
from loraland.playground.markdown import render
from loraland.playground.messages import BadMessage, parse
from tests.fuzz import bases
from tests.loraland.adapter_files import SMOLLM2, lora_config, lora_tensors, safetensors_bytes
from tests.loraland.gate_files import flow_gate, gate_bytes

BASE: Final = "SmolLM2-135M-Instruct"
CONFIG: Final = json.dumps(lora_config(r=1, target_modules=["q_proj"])).encode()
WEIGHTS: Final = safetensors_bytes(lora_tensors(rank=1, targets=("q_proj",)))
GATE: Final = gate_bytes(flow_gate(["a" * 64, "b" * 64], hidden=4, layers=2), parts=["a" * 64, "b" * 64])
MOST_HTML: Final = 1_000_000
"""Characters, for inputs of a few thousand: what Markdown writes stays in bounds."""


@contextmanager
def shapes_of_the_base() -> Iterator[None]:
    """The site knows the shapes of its base while this is entered."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / BASE / "config.json"
        config.parent.mkdir()
        config.write_text(json.dumps(SMOLLM2))
        with override_settings(MODELS_DIR=Path(folder), MAX_UPLOAD_MB=1):
            yield


def safetensors(data: bytes) -> None:
    """The weights of an upload, whose config is sound."""
    _examine(CONFIG, data)


def adapter_config(data: bytes) -> None:
    """The config of an upload, whose weights are sound."""
    if not _examine(data, WEIGHTS):
        config = config_file.parse_config(data)
        assert config_file.parse_config(config_file.config_bytes(config)) == config


def gate(data: bytes) -> None:
    """The gate of a blend."""
    with _folder({store.GATE: data}) as folder:
        found = Gated(folder / store.GATE)
    assert bool(found.reasons) != bool(found.digest)
    assert found.reasons or list(found.head.misfits("q_proj", 3, (2, 576, 576)))
    _check_told(found.reasons)


def archive(data: bytes) -> None:
    """A .zip of an adapter."""
    try:
        for chunks in read_archive(io.BytesIO(data)).files.values():
            for _ in chunks:
                pass
    except ArchiveRefused as error:
        _check_shown(error.reasons)


def card(data: bytes) -> None:
    """A card.toml."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            assert is_storable(vars(read_card(Path(file.name))))
        except CardError as error:
            _check_shown(error.reasons)


def template(data: bytes) -> None:
    """A template with its fields and examples, in the words of a form and of a card."""
    tree = _json(data)
    if not isinstance(tree, dict) or not is_storable(tree):  # which a card is asked for before, and a form cannot be
        return
    text, names, fields, lines = (tree.get(key) for key in ("template", "names", "fields", "lines"))
    text, lines = str(text), str(lines)
    names = [str(name) for name in names] if isinstance(names, list) else []
    fields = [field for field in fields if isinstance(field, dict)] if isinstance(fields, list) else []
    examples = tree.get("examples")
    for attempt in (
        lambda: parse_examples(lines, fields_of(text, names)),
        lambda: check_examples(examples if isinstance(examples, list) else [], check_fields(text, fields)),
    ):
        try:
            assert is_storable(attempt())
        except TemplateError as error:
            _check_shown(error.reasons)


def rows(data: bytes) -> None:
    """The rows of a data set."""
    found = examine(lines_of(io.BytesIO(data)), fewest=1)
    assert found.rows or found.reasons
    assert all(is_storable([row.inputs, row.target]) for row in found.rows)
    assert all(isinstance(value, str) for row in found.rows for value in row.inputs.values())
    _check_told(found.reasons)


def socket(data: bytes) -> None:
    """A message of a page."""
    try:
        message = parse(_json(data))
    except BadMessage as error:
        _check_shown([str(error)])
    else:
        assert is_storable(json.loads(json.dumps(vars(message), default=repr)))


def protocol(data: bytes) -> None:
    """A message of the wire between the houses."""
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert encode(decode(encode(message))) == encode(message)


def api(data: bytes) -> None:
    """The body of a request, to the wire and back."""
    body = _json(data)
    for schema in (ChatCompletion, Completion):
        try:
            asked = schema.model_validate(body)
        except ValidationError as error:
            _check_shown([fault["msg"] for fault in error.errors(include_input=False, include_url=False)])
            continue
        for source in asked.sources():
            messages = source.pop("messages", None)
            request = Generate("0", messages=messages and tuple(messages), **source, sampling=asked.sampling())
            assert decode(encode(request)) == request


def markdown(data: bytes) -> None:
    """What a model wrote, as HTML for a page."""
    text = data.decode("utf-8", "replace")
    rendered = render(text)
    assert len(rendered.html) <= MOST_HTML
    if rendered.kind == "markdown":
        _Tags().feed(rendered.html)
    else:
        assert "<" not in rendered.html
        assert unescape(rendered.html) == unescape(text.replace("&", "&amp;"))


def base_config(data: bytes) -> None:
    """The config.json of a base."""
    with _folder({"config.json": data}) as folder:
        _refused_at_most(lambda: read_architecture(folder / "config.json"))


def base_weights(data: bytes) -> None:
    """The tensors of a base, under each method by which they may be quantised."""
    for scheme in bases.SCHEMES:
        told = bases.LLAMA | ({"quantization_config": scheme} if scheme else {})
        with _folder({"config.json": json.dumps(told).encode(), "model.safetensors": data}) as folder:
            architecture = read_architecture(folder / "config.json")
            _refused_at_most(partial(load_weights, folder, architecture, torch.float32, quantization="auto"))


def base_gguf(data: bytes) -> None:
    """A base in a GGUF file, up to its weights and its tokenizer."""
    with _folder({"odd.gguf": data}) as folder:
        if not _refused_at_most(lambda: write_directory(folder / "odd.gguf", folder)):
            _refused_at_most(lambda: Tokenizer(folder))
            architecture = read_architecture(folder / "config.json")
            _refused_at_most(lambda: load_weights(folder, architecture, torch.float32, quantization="auto"))


def base_answers(data: bytes) -> None:
    """What a base's files say of its answers."""
    tree = _json(data)
    files = tree if isinstance(tree, dict) else {}
    named = {"generation": GENERATION, "config": "config.json", "settings": "tokenizer_config.json"}
    with _folder({named[key]: json.dumps(files[key]).encode() for key in named if key in files}) as folder:
        known = {"</s>": 2}.get
        _refused_at_most(lambda: end_ids(folder, read_settings(folder), known))
        _refused_at_most(lambda: end_strings(folder))
        _refused_at_most(lambda: read_defaults(folder))


class _Tags(HTMLParser):
    """Every tag and attribute that a page may get from a model."""

    BLOCKS = frozenset(("p", "br", "hr", "pre", "blockquote", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6"))
    TAGS = BLOCKS | frozenset(("table", "thead", "tbody", "tr", "th", "td", "strong", "em", "s", "del", "code", "a"))
    ATTRIBUTES = frozenset({("a", "href"), ("a", "rel"), ("a", "target"), ("ol", "start")})

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in self.TAGS, tag
        for name, value in attributes:
            assert (tag, name) in self.ATTRIBUTES, (tag, name)
            scheme, colon, _ = (value or "").partition(":")
            is_safe = not colon or scheme.lower() in ("http", "https", "mailto") or not scheme.isalnum()
            assert name != "href" or is_safe, value

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        *(safetensors, adapter_config, gate, archive, card, template, rows, socket, protocol, api, markdown),
        *(base_config, base_weights, base_gguf, base_answers),
    )
}


def _examine(config: bytes, weights: bytes) -> list[str]:
    """The reasons of the site against an adapter of these two files; the worker's are the same by another test."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / store.CONFIG).write_bytes(config)
        (directory / store.WEIGHTS).write_bytes(weights)
        found = examine_upload(directory, BASE)
    assert bool(found.reasons) != bool(found.digest)
    _check_told(found.reasons)
    return found.reasons


@contextmanager
def _folder(files: Mapping[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for file, data in files.items():
            (Path(name) / file).write_bytes(data)
        yield Path(name)


def _refused_at_most(read: Callable[[], object]) -> bool:
    """Whether `read` refuses what it reads, in a sentence that somebody foresaw and a terminal can show."""
    try:
        read()
    except Refused as error:
        sentence = str(error)
        assert sentence.isprintable(), sentence
        assert len(sentence) < 1500, sentence
        assert "could not be read (" not in sentence, sentence
        return True
    return False


def _check_told(reasons: list[str]) -> None:
    """Reasons are sentences that a row can keep and a page can show, and of faults that somebody foresaw."""
    assert all(reason and reason[-1] in ".…" for reason in reasons), reasons
    assert all(len(reason) < 5000 and "could not be read" not in reason for reason in reasons), reasons
    "".join(reasons).encode()


def _check_shown(reasons: list[str]) -> None:
    """There are reasons, each of which a page can show."""
    assert all(reasons) and reasons  # noqa: PT018
    "".join(reasons).encode()


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
