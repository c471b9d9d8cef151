"""Forms in which people have rows: our own, and those of others that can be read as one question and one answer.

Ours is ``{"inputs": {field: text}, "target": text}``. Read as well are chats (``messages``, ShareGPT's
``conversations``, a ``prompt`` and a ``completion`` of turns) of one question and one answer, with or without a system
message, and flat objects with one key that names the answer (Alpaca's ``output``, ``completion``, ``answer``, ``label``
and the like), whose other keys are fields, but for those that say the answer again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

ROW: Final = 'a row is {"inputs": {"text": "…"}, "target": "…"}'
ANSWERS: Final = ("completion", "response", "output", "answer", "label", "target", "targets", "summary")
"""Keys of a flat object that hold its answer, the first one that is there, in capitals or not."""
LABEL_TEXTS: Final = ("label_text", "label_name")
"""The word for a label that is a number: the answer, where both are there."""
IDENTITIES: Final = frozenset({"id", "idx", "index", "uuid", "_id"})
"""Keys that tell rows apart and say nothing."""
ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "question",
    "human": "question",
    "assistant": "answer",
    "prompter": "question",
    "gpt": "answer",
    "chatgpt": "answer",
    "bot": "answer",
    "ai": "answer",
    "model": "answer",
}
"""Of turns, in capitals or not."""
_CALLS: Final = ("tool_calls", "function_call")
_KINDS: Final = (
    (str, "a text"),
    (bool, "true or false"),
    (int | float, "a number"),
    (list, "a list"),
    (dict, "an object"),
)


class FormError(ValueError):
    """A row that cannot be read; the text goes on from the name of its line."""


def fields_and_target(data: Any) -> tuple[dict[str, str], str]:
    """The inputs and the target of one row, whichever form it has. Raises `FormError`."""
    if not isinstance(data, dict):
        raise FormError(f"is {_kind(data)}; {ROW}")
    if "inputs" in data and not isinstance(data["inputs"], str):
        return _own(data)
    for key in ("messages", "conversations"):
        if isinstance(data.get(key), list):
            return _chat(data[key], data)
    prompt, completion = data.get("prompt"), data.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _chat([*prompt, *completion], data)
    return _flat(data)


def text_of(value: Any, name: str) -> str:
    """A text as it is, null as the empty one, and a number or a truth value as JSON writes it."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # pandas has NaN where a cell is empty
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise FormError(f"has {_kind(value)} as the value of {name[:80]!r}; a value is a text, a number or null")


def _own(data: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    inputs = data["inputs"]
    if not isinstance(inputs, dict):
        raise FormError(f"has {_kind(inputs)} as its inputs; {ROW}")
    if "target" not in data:
        raise FormError(f"has no target; {ROW}")
    return {name: text_of(value, name) for name, value in inputs.items()}, text_of(data["target"], "target")


def _flat(data: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    answer = answer_among(list(data))
    names = [key for key in data if key != answer and key not in IDENTITIES and not _says(data, key, answer)]
    if answer is None or not names:
        keys = ", ".join(map(repr, list(data)[:6])) or "none"
        raise FormError(f"has the keys {keys}; {ROW}, a chat under messages, or fields beside {', '.join(ANSWERS[:5])}")
    return {name: text_of(data[name], name) for name in names}, text_of(data[answer], answer)


def answer_among(names: Sequence[str]) -> str | None:
    """The one of `names`, of keys or columns, that holds the answer."""
    known = {name.lower(): name for name in reversed(names)}
    found = next((key for key in ANSWERS if key in known), None)
    text = next((key for key in LABEL_TEXTS if key in known), None) if found == "label" else None
    return known.get(text or found or "")


def _says(data: Mapping[str, Any], key: str, answer: str | None) -> bool:
    """Whether `key` says the answer again: the number of its label, or the whole row as one text, as Alpaca has it."""
    if answer is None or answer.lower() in LABEL_TEXTS:
        return answer is not None and key.lower() == "label"
    whole, said = data[key], data[answer]
    others = [str(data[name]) for name in data if name not in (key, answer) and name not in IDENTITIES and data[name]]
    is_whole = key == "text" and isinstance(whole, str) and isinstance(said, str) and bool(others)
    return is_whole and whole.rstrip().endswith(said.rstrip()) and all(other in whole for other in others)


def _chat(turns: list[Any], data: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The question and the answer in `turns`; ShareGPT has a system message beside them, in `data`."""
    if data.get("tools") or data.get("functions"):
        raise FormError("offers tools beside its chat, which no row holds here; leave such rows out")
    said = [("system", text_of(data["system"], "system"))] if data.get("system") else []
    said += [_turn(turn) for turn in turns]
    system = [text for part, text in said if part == "system"]
    rest = [(part, text) for part, text in said if part != "system"]
    if [part for part, _ in rest] != ["question", "answer"] or len(system) > 1:
        raise FormError(
            "is a chat that is not one question and one answer, with or without a system message before them; make a "
            "row of each answer"
        )
    inputs = {"system": system[0]} if system else {}
    return {**inputs, "question": rest[0][1]}, rest[1][1]


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise FormError(f"has {_kind(turn)} as a turn of its chat; a turn has a role and a content")
    role = turn.get("role", turn.get("from"))
    part = ROLES.get(role.lower()) if isinstance(role, str) else None
    if part is None:
        raise FormError(f"has a turn of the role {json.dumps(role)[:40]}; roles are system, user and assistant")
    if any(turn.get(key) for key in _CALLS):
        raise FormError("has a turn that calls tools, which no row holds here; leave such rows out")
    if part == "answer" and turn.get("weight") == 0:
        raise FormError("has an answer of the weight 0, which is not to be learnt; leave such rows out")
    return part, _content(turn.get("content", turn.get("value")))


def _content(content: Any) -> str:
    """The text of a turn, which may be in parts."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(text_of(part.get("text"), "text") for part in content)
    return text_of(content, "content")


def _kind(value: Any) -> str:
    return next(
        (name for kind, name in _KINDS if isinstance(value, kind)), "null" if value is None else "another thing"
    )
