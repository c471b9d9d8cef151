"""An engine with random weights, told to call a tool, calls one: what it writes is read as the site reads it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from inference.engine.engine import Engine
from inference.wire.protocol import Generate, Sampling
from loraland.api.tools.asked import tools_of
from loraland.api.tools.pieces import read_whole
from loraland.api.tools.reading import constraint_of, parser_of
from tests.inference.conftest import make_model
from tests.inference.engines import VOCAB, drain, make_config, make_tokenizer

pytestmark = pytest.mark.slow

LEAF = {"enum": ["rot", "blau"]}
PAINT = {
    "type": "object",
    "properties": {"hue": {"$ref": "#/$defs/leaf"}},
    "required": ["hue"],
    "$defs": {"leaf": LEAF},
}
COUNT = {"type": "object", "properties": {"to": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["to"]}
SCHEMAS = {"paint": PAINT | {"additionalProperties": False}, "count": COUNT | {"additionalProperties": False}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "count"}}], ids=["any", "one"]
)
@pytest.mark.parametrize("is_parallel", [False, True])
def test_a_forced_answer_calls_a_tool_by_its_schema(tmp_path: Path, choice: object, is_parallel: bool) -> None:
    make_tokenizer(make_model(tmp_path / "tiny", vocab_size=VOCAB))
    engine = Engine(make_config(tmp_path / "tiny", tmp_path / "adapters"))
    tools = tools_of(TOOLS, choice, is_parallel)
    assert tools is not None
    for seed in range(4):
        sampling = Sampling(temperature=1.0, seed=seed, max_tokens=150, constraint=constraint_of(tools))
        engine.add(Generate(f"{seed}", prompt="hi", sampling=sampling))
    for record in drain(engine).values():
        assert record.ends == [record.finished], record.ends
        read = read_whole(parser_of(tools), record.text)
        assert (read.text, bool(read.calls)) == ("", True)
        if record.finished.reason == "done":
            for call in read.calls:
                jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    engine.close()
