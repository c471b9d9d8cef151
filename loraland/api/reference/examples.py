"""Calls that are shown on the page of the API; the tests send each of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

COLOUR: Final = [{"role": "user", "content": "Name a colour."}]
PERSON: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Final = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Example:
    """One call. Without a `body` it is a GET."""

    title: str
    path: str
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    def curl(self, site: str) -> str:
        """The call as a command for a shell that has the key in KEY."""
        lines = [f"curl {site}{self.path}", '-H "Authorization: Bearer $KEY"']
        lines += [f'-H "{name}: {value}"' for name, value in self.headers.items()]
        if self.body is not None:
            text = json.dumps(self.body, ensure_ascii=False).replace("'", "'\\''")
            lines += ['-H "Content-Type: application/json"', f"-d '{text}'"]
        return " \\\n  ".join(lines)


def _chat(title: str, **more: Any) -> Example:
    return Example(title, "/v1/chat/completions", {"model": "base", "messages": COLOUR, "max_tokens": 64} | more)


def _tool(**more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "description": "The weather of a city"} | more}


EXAMPLES: Final = (
    Example("Every model", "/v1/models"),
    Example("One model", "/v1/models/base"),
    _chat("A chat"),
    _chat("A chat, streamed with its usage", stream=True, stream_options={"include_usage": True}),
    _chat("Three answers to one prompt", n=3, temperature=0.8, seed=7, max_tokens=16),
    _chat(
        "An answer that fits a schema",
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}},
    ),
    _chat("One of some answers", structured_outputs={"choice": ["red", "green", "blue"]}),
    _chat("A call of a tool", tools=[_tool(parameters=WEATHER)], tool_choice="required"),
    _chat("Log-probabilities", logprobs=True, top_logprobs=3, max_tokens=8),
    Example("A completion", "/v1/completions", {"model": "base", "prompt": "Once upon a time", "max_tokens": 16}),
    Example(
        "Several prompts at once",
        "/v1/completions",
        {"model": "base", "prompt": ["Once upon a time", "In the beginning"], "max_tokens": 8},
    ),
    Example(
        "Log-probabilities of a prompt",
        "/v1/completions",
        {"model": "base", "prompt": "The sky is blue", "echo": True, "logprobs": 1, "max_tokens": 0},
    ),
    Example("A response", "/v1/responses", {"model": "base", "input": "Name a colour.", "max_output_tokens": 16}),
    Example("A message", "/v1/messages", {"model": "base", "messages": COLOUR, "max_tokens": 16}),
    Example("The tokens of a message", "/v1/messages/count_tokens", {"model": "base", "messages": COLOUR}),
    Example("Embeddings", "/v1/embeddings", {"model": "base", "input": ["a cat", "a dog"]}),
    Example("Tokens of a text", "/tokenize", {"prompt": "Once upon a time"}),
    Example("The text of tokens", "/detokenize", {"tokens": [9290, 1980, 253, 655]}),
    Example("The tokenizer", "/tokenizer_info"),
    Example("What runs here", "/info"),
    Example("LoRAX's call", "/generate", {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 16}}),
    Example("LoRAX's stream", "/generate_stream", {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 16}}),
)
