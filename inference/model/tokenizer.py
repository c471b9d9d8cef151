"""Text to token ids and back, for the base model's own tokenizer.

Only what the template's author wrote may hold control tokens: in what a user sends, ``<|im_end|>`` and its
kin are ordinary characters (see `Tokenizer.encode_guarded`). On the way back, text comes out in whole
characters, however the bytes of one are spread over tokens.
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inference.model.added_tokens import AddedToken
from inference.model.byte_letters import BYTES
from inference.model.chat_template import ChatTemplate
from inference.model.conversation import written
from inference.model.generation_config import GenerationRefused, content, end_ids, end_strings, table_rows
from inference.model.template_runner import TemplateExceeded, TemplateRefused
from inference.model.tokenizer_files import TokenizerError as TokenizerError
from inference.model.tokenizer_files import read_tokenizer
from inference.model.tool_turns import in_words
from inference.reading import reading, shown
from inference.wire.protocol import Message

if TYPE_CHECKING:
    import tokenizers

log = logging.getLogger(__name__)

_GUARD: Final = "\ue0ff"
"""A private-use character that is put behind the first character of a control token in text of users."""
CALL_TOKENS: Final = ("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call|>", "<tool_call>", "</tool_call>")
"""The control tokens, of whatever base, between which a model writes its calls of tools."""
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Span:
    """A token of a text: its characters are ``text[start:stop]``, none for one that stands before the text."""

    token_id: int
    start: int
    stop: int


class Tokenizer:
    """The tokenizer of the model in `directory`, and its chat template where it has one."""

    def __init__(self, directory: Path) -> None:
        """Raises `TokenizerError`, or `GenerationRefused` for ends that are none."""
        with reading(f"the tokenizer in {directory}", TokenizerError, GenerationRefused):
            self._load(directory)

    def _load(self, directory: Path) -> None:
        own, settings = read_tokenizer(directory)
        own = _within_table(own, directory)
        added = own.get("added_tokens", [])
        self.eos_ids = end_ids(directory, settings, _ids(own).get)
        """Every token that ends an answer."""
        self.end_strings = end_strings(directory)
        """Every string that does."""
        for token in added:
            token["special"] = token["special"] or token["id"] in self.eos_ids
        self._tokenizer = _built(own)
        later = _without_prefix(own.get("pre_tokenizer"))
        # For what does not begin a text, where a space is put before what does.
        is_same = later == own.get("pre_tokenizer")
        self._later = self._tokenizer if is_same else _built(own | {"pre_tokenizer": later})
        self._controls = {token["content"]: token["id"] for token in added if token["special"]}
        self._own: dict[str, AddedToken] = {}
        """Tokens of an adapter's own by their text, and those of them that users' words may hold."""
        self._words = ""
        self.call_tokens = {self._controls[name]: name.encode() for name in CALL_TOKENS if name in self._controls}
        self._is_byte_level = "ByteLevel" in json.dumps(own["decoder"])
        self._starts = _starts_of(self._controls)
        flags = {token["content"]: token for token in added}
        self._pattern = "|".join(_found(flags[name]) for name in sorted(self._controls, key=len, reverse=True))
        self._names = {key: content(settings.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        self._template = ChatTemplate(directory, settings, self._names)
        self.template_source = self._template.source
        """The base's chat template in Jinja; None where it has none."""
        # What the tokenizer itself puts before a text.
        bare, whole = (self._tokenizer.encode("a", add_special_tokens=is_special).ids for is_special in (False, True))
        places = [n for n in range(len(whole)) if bare and whole[n : n + len(bare)] == bare]
        self._opening = whole[: places[0]] if places else whole
        bos = self._controls.get(self._names["bos_token"])
        self._start = [bos] if bos in self._tokenizer.encode("").ids[:1] else []

    def extended(self, tokens: Sequence[AddedToken]) -> Tokenizer:
        """The same with an adapter's own `tokens`, special ones as control tokens, others in any text."""
        other = copy(self)
        other._own = {token.content: token for token in tokens}
        other._controls = self._controls | {token.content: token.id for token in tokens if token.is_special}
        other._starts = _starts_of(other._controls)
        words = [token.content for token in tokens if not token.is_special]
        spelt = ["|".join(map(re.escape, sorted(texts, key=len, reverse=True))) for texts in (other._controls, words)]
        # Where a control token begins there is no word, be it as long as that.
        other._words = f"(?!{spelt[0]})(?:{spelt[1]})" if words and other._controls else spelt[1]
        # The longest first, whosever it is, as one pass of the tokenizer's own would have it.
        texts = sorted(other._own, key=len, reverse=True)
        other._pattern = "|".join(filter(None, [*map(re.escape, texts), self._pattern]))
        other.eos_ids = self.eos_ids | {token.id for token in tokens if token.ends}
        return other

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, control tokens among them; their ids are below it."""
        own = (token.id + 1 for token in self._own.values())
        return max(int(self._tokenizer.get_vocab_size()), *own, 0)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt as it stands: control tokens in it count as such.

        It begins with the token that the base saw at the start of every text, if it saw one (Mistral did).
        Raises UnicodeEncodeError for a lone surrogate, which is no text.
        """
        return self._started(self._encode(text, lambda plain: plain))

    def spans(self, text: str) -> list[Span]:
        """The tokens of `text` as `encode` finds them, without what begins a text.

        Raises UnicodeEncodeError for a lone surrogate.
        """
        text.encode()
        spans, at = list[Span](), 0
        for control, plain in self._pieces(text):
            if control:
                spans.append(Span(self._control(control), at, at + len(control)))
            found = self._at(at + len(control)).encode(plain, add_special_tokens=False)
            at += len(control)
            spans += [
                Span(id, at + start, at + stop) for id, (start, stop) in zip(found.ids, found.offsets, strict=True)
            ]
            at += len(plain)
        return spans

    def encode_text(self, text: str) -> list[int]:
        """Token ids of `text` that holds no control tokens, with nothing before them."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def begin(self, ids: list[int]) -> list[int]:
        """`ids` behind the token that the base was trained to see before a text (``<s>``), if there is one and they
        lack it. Chat templates write it themselves.
        """
        is_begun = not ids or ids[: len(self._opening)] == self._opening
        return ids if is_begun else self._opening + ids

    def guard(self, text: str) -> str:
        """Mark `text` of a user so that `encode_guarded` finds no control token in it."""
        text = text.replace(_GUARD, "")
        if not self._starts:
            return text
        words = f"{self._words}|" if self._words else ""
        return re.sub(f"({words}[{self._starts}])", lambda found: self._guarded(found[0]), text)

    def _guarded(self, found: str) -> str:
        """A word of an adapter's own as it is, and what begins a control token marked."""
        own = self._own.get(found)
        return found if own and not own.is_special else f"{found}{_GUARD}"

    def encode_guarded(self, text: str) -> list[int]:
        """Token ids of a filled template whose values went through `guard`.

        The same ids as `encode` of the unmarked text, unless a value spells a control token.
        """
        return self._started(self._encode(text, self._unguard))

    def encode_chat(self, messages: tuple[Message, ...], tools: str = "") -> list[int]:
        """Token ids of a conversation in the base's chat template, up to where the answer starts or goes on.

        `tools`, a JSON list, and earlier calls go in as the template writes them, and where it has no words for them
        as text. A base without a template gets the bare contents with a blank line between them, and goes on writing.
        Raises `TokenizerError` when the template refuses the conversation.
        """
        if not self._template.exists:
            contents = (self.guard(message.content) for message in in_words(messages, tools))
            return self.begin(self.encode_guarded("\n\n".join(contents)))
        try:
            return self._encode(written(self._template, messages, tools, self.guard), self._unguard)
        except TemplateExceeded as error:
            raise TokenizerError(f"the chat template cannot be filled: {error}") from error
        except TemplateRefused as error:
            raise TokenizerError(f"the chat template refuses this conversation: {error}") from error

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """The text of `token_ids` without control tokens; broken bytes become U+FFFD."""
        return b"".join(self.token_bytes(token_id) for token_id in token_ids).decode("utf-8", errors="replace")

    def write(self, token_ids: list[int]) -> str:
        """The text that `encode` reads as `token_ids`: control tokens stand in it by their names."""
        if not self._own:
            return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))
        own = {token.id: token.content for token in self._own.values()}
        runs = ((is_own, list(run)) for is_own, run in groupby(token_ids, own.__contains__))
        plain = partial(self._tokenizer.decode, skip_special_tokens=False)
        return "".join("".join(map(own.__getitem__, run)) if is_own else plain(run) for is_own, run in runs)

    def symbol(self, token_id: int) -> str | None:
        """What the vocabulary calls a token, such as ``Ġthe``; None for an id that is none of its own."""
        if own := self._own_of(token_id):
            return own.content
        symbol: str | None = self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return symbol

    def _own_of(self, token_id: int) -> AddedToken | None:
        return next((token for token in self._own.values() if token.id == token_id), None)

    @property
    def names(self) -> Mapping[str, str]:
        """What the tokens are called that begin, end and fill up a text; empty for one that the base has not."""
        return self._names

    def text(self, token_id: int) -> str:
        """The text of one token, control tokens by their name."""
        plain = self.token_bytes(token_id).decode("utf-8", errors="replace")
        return plain or self.symbol(token_id) or ""

    @lru_cache(maxsize=1 << 16)  # noqa: B019 - all of a worker share what is large
    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes, perhaps a part of a character, that a token stands for; none for control tokens."""
        if own := self._own_of(token_id):
            return b"" if own.is_special else own.content.encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token in self._controls:
            return b""
        if self._is_byte_level:
            is_spelt = all(character in BYTES for character in token)
            return bytes(BYTES[character] for character in token) if is_spelt else token.encode()
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes.fromhex(byte.group(1)) if byte else token.replace("▁", " ").encode()

    def _encode(self, text: str, clean: Callable[[str], str]) -> list[int]:
        """Control tokens as they are found in `text`, and what lies between them `clean`ed, as ordinary text."""
        ids: list[int] = []
        for control, plain in self._pieces(text):
            if control:
                ids.append(self._control(control))
            plain = clean(plain)
            plain.encode()  # the tokenizer would call a lone surrogate a TypeError
            ids += self._at(len(ids)).encode(plain, add_special_tokens=False).ids
        return ids

    def _at(self, place: int) -> tokenizers.Tokenizer:
        """What computes the tokens of a plain piece that has `place` before it."""
        return self._later if place else self._tokenizer

    def _control(self, found: str) -> int:
        """The token in `found`, of the base's control tokens or an adapter's own; some take the space around them."""
        if found in self._own:
            return self._own[found].id
        return self._controls[found if found in self._controls else found.strip()]

    def _unguard(self, text: str) -> str:
        """`text` without the marks of `guard`, be they escaped as templates do it that write objects for Python."""
        return re.sub(rf"([{self._starts}])\\ue0ff", r"\1", text).replace(_GUARD, "") if self._starts else text

    def _started(self, ids: list[int]) -> list[int]:
        return ids if ids[: len(self._start)] == self._start else [*self._start, *ids]

    def _pieces(self, text: str) -> Iterator[tuple[str, str]]:
        """Cut `text` into control tokens and what follows each; the first piece has no control token."""
        if not self._pattern:
            return iter([("", text)])
        parts = re.split(f"({self._pattern})", text)
        return zip(["", *parts[1::2]], parts[::2], strict=True)


class Detokenizer:
    """Turns a growing answer into text, holding back the bytes of an unfinished character.

    With `shows_calls` the control tokens by which a base opens and closes a call of a tool are in the text.
    """

    def __init__(self, tokenizer: Tokenizer, shows_calls: bool = False) -> None:
        self._tokenizer = tokenizer
        self._shown = tokenizer.call_tokens if shows_calls else {}
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes."""
        return self._decoder.decode(self._shown.get(token_id) or self._tokenizer.token_bytes(token_id))


def _within_table(own: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The content of a tokenizer.json without added tokens for which the base's table has no row: in a text they are
    its characters. Many a Llama has such a token to fill texts up. Raises `TokenizerError` where others are beyond."""
    rows = table_rows(directory)
    beyond = {name: number for name, number in _ids(own).items() if rows is not None and number >= rows}
    if not beyond:
        return own
    added = {token["content"] for token in own.get("added_tokens", [])}
    first = shown(min(beyond, key=beyond.__getitem__))
    if strange := beyond.keys() - added:
        sentence = f"{len(strange)} tokens of {directory} from {first} on are beyond the {rows} that config.json says"
        raise TokenizerError(f"{sentence}; take the tokenizer and the config.json of one model")
    log.warning("%d tokens of %s from %s on have no row in its table and are left out", len(beyond), directory, first)
    kept = [token for token in own["added_tokens"] if token["content"] not in beyond]
    vocab = own["model"]["vocab"]
    within = {name: id for name, id in vocab.items() if name not in beyond} if isinstance(vocab, dict) else vocab[:rows]
    return own | {"added_tokens": kept, "model": own["model"] | {"vocab": within}}


def _built(content: dict[str, Any]) -> tokenizers.Tokenizer:
    """What computes the tokenizer of a tokenizer.json; control tokens in plain text are text."""
    import tokenizers  # the site names this module, and most of its processes never make one

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _ids(content: Mapping[str, Any]) -> dict[str, int]:
    """The ids of all tokens of a tokenizer.json."""
    vocab = content["model"]["vocab"]
    known = vocab if isinstance(vocab, dict) else {piece: number for number, (piece, _) in enumerate(vocab)}
    return known | {token["content"]: token["id"] for token in content.get("added_tokens", [])}


def _starts_of(controls: Iterable[str]) -> str:
    """The characters that begin `controls`, as a class of an expression has them."""
    return re.escape("".join(sorted({control[0] for control in controls})))


def _found(token: Mapping[str, Any]) -> str:
    """The expression that finds a control token, with the space around it that it takes."""
    sides = [r"\s*" if token.get(side) else "" for side in ("lstrip", "rstrip")]
    return re.escape(token["content"]).join(sides)


def _without_prefix(value: Any) -> Any:
    """A pre-tokenizer that puts no space before the beginning of a text."""
    if isinstance(value, list):
        return [_without_prefix(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_prefix(item) for key, item in value.items()} | (
        {"prepend_scheme": "never"} if value.get("prepend_scheme") == "first" else {}
    )
