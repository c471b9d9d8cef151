"""How to call an adapter from a program: the same example for the shell and for Python, ready to paste."""

from __future__ import annotations

import json
import shlex
from typing import Any

from loraland.catalogue.models import AdapterVersion

MAX_TOKENS = 64


def curl(version: AdapterVersion, origin: str) -> str:
    """A shell command that asks the site at `origin` (scheme and host) for the first example."""
    body = json.dumps(_body(version), ensure_ascii=False, indent=2)
    return (
        f"curl {origin}/v1/chat/completions \\\n"
        '  -H "Authorization: Bearer $LORALAND_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(body)}"
    )


def python(version: AdapterVersion, origin: str) -> str:
    """The same with the `openai` package; fields of a template travel in `extra_body`, in place of the messages."""
    body = _body(version)
    asked = _inputs(body) if "inputs" in body else f"    messages={_literal(body['messages'])},\n"
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{origin}/v1", api_key=os.environ["LORALAND_API_KEY"])\n'
        f'answer = client.chat.completions.create(\n    model="{body["model"]}",\n{asked}'
        f"    max_tokens={MAX_TOKENS},\n)\nprint(answer.choices[0].message.content)"
    )


def _body(version: AdapterVersion) -> dict[str, Any]:
    example = version.examples[0]["inputs"] if version.examples else dict.fromkeys(version.field_names, "…")
    if len(version.field_names) > 1:
        return {"model": version.adapter.slug, "inputs": example, "max_tokens": MAX_TOKENS}
    text = next(iter(example.values()), "Hello")
    messages = [{"role": "user", "content": text}]
    return {"model": version.adapter.slug, "messages": messages, "max_tokens": MAX_TOKENS}


def _inputs(body: dict[str, Any]) -> str:
    pairs = "".join(f"            {_literal(key)}: {_literal(value)},\n" for key, value in body["inputs"].items())
    return (
        "    messages=[],\n    extra_body={\n"
        '        "messages": None,\n        "inputs": {\n' + pairs + "        },\n    },\n"
    )


def _literal(value: Any) -> str:
    """Strings, lists and objects are written alike in JSON and in Python."""
    return json.dumps(value, ensure_ascii=False)
