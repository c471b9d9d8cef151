"""What each target is fuzzed from: sound inputs, and the faults that were found before, which must never come back."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from typing import Any, Final
from uuid import UUID

from inference.adapters.gate_head import FORMAT
from tests.fuzz import bases
from tests.fuzz.targets import CONFIG, GATE, WEIGHTS
from tests.loraland.adapter_files import lora_config, lora_tensors, safetensors_bytes
from tests.loraland.gate_files import gate_bytes

A: Final = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
ID: Final = str(UUID(int=7))
CARD: Final = """
name = "Tweet emotion"
summary = "Names the emotion of a tweet."
[dataset]
name = "tweet_eval"
train_rows = 3257
[prompt]
template = "Tweet: {text}"
[[prompt.field]]
name = "text"
rows = 2
[[example]]
inputs = { text = "What a day!" }
expected = "joy"
[training]
learning_rate = 1e-3
date = 2026-11-23
[score]
metric = "accuracy"
base = 0.5
"""

CONFIGS: Final = [
    lora_config(r=1, target_modules=["q_proj"]),
    lora_config(r=1, target_modules=["q_proj"], rank_pattern={"q_proj": 1}, alpha_pattern={"self_attn.q_proj": 2}),
    lora_config(r=1, target_modules="all-linear", layers_to_transform=None, use_rslora=True),
]
PROMPTS: Final[list[Any]] = [
    {
        "template": "Tweet: {text}\n{more}",
        "names": ["text", "more"],
        "fields": [{"name": "text", "label": "Tweet", "rows": 3}, {"name": "more"}],
        "examples": [{"inputs": {"text": "x", "more": "y"}, "expected": "joy"}],
        "lines": '{"text": "x", "more": "y", "expected": "joy"}\n{"inputs": {"text": "x", "more": ""}}',
    }
]
ROWS: Final = [{"inputs": {"text": word}, "target": "joy"} for word in ("one", "two", "three")]
MESSAGES: Final[list[Any]] = [
    {"type": "start", "request": "a-1", "conversation": None, "adapter": "emotion", "text": "Hello"},
    {"type": "start", "request": "a-1", "conversation": ID, "adapter": "", "inputs": {"text": "x"}},
    {"type": "start", "request": "a", "text": "x", "sampling": {"temperature": 0.5, "seed": "7", "max_tokens": 9}},
    {"type": "regenerate", "request": "b", "answer": ID, "sampling": {}},
    {"type": "compare", "request": "c", "columns": ["base", "emotion@aaaaaa"], "text": "x"},
    {"type": "retry", "request": "d", "comparison": ID, "position": 1},
    {"type": "resume", "answer": ID, "after": "12-0"},
    {"type": "stop", "answer": ID},
]
WIRE: Final[list[Any]] = [
    {
        "kind": "generate",
        "id": "a",
        "adapter": {"digest": "0" * 64, "fields": ["text"], "components": [{"digest": "1" * 64, "weight": 0.5}]},
        "messages": [{"role": "user", "content": "x"}],
        "sampling": {"stop": ["\n"], "seed": 7},
    },
    {"kind": "generate", "id": "a", "inputs": {"text": "x"}, "tenant": "t", "created": 1.5},
    {"kind": "generate", "id": "a", "adapter": {"digest": "0" * 64, "gate": {"kind": "arrow", "top_k": 1}}},
    {"kind": "probe", "id": "a", "adapter": {"digest": "0" * 64}},
    {"kind": "progress", "id": "a", "state": "claimed"},
    {
        "kind": "delta",
        "id": "a",
        "text": "x",
        "token_ids": [1],
        "logprobs": [{"token": "x", "token_id": 1, "logprob": -1}],
    },
    {"kind": "finished", "id": "a", "reason": "done", "stats": {"logit_delta": 1.5}},
    {"kind": "failed", "id": "a", "code": "lost", "error": "It was lost."},
    {"kind": "heartbeat", "worker": "w", "base": "b", "ready": True, "load": {"adapter_loads": [["0" * 64, 3]]}},
]
BODIES: Final[list[Any]] = [
    {"model": "emotion", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "seed": 7, "stop": ["\n"]},
    {"model": "m", "messages": [{"role": "system", "content": [{"type": "text", "text": "x"}]}], "logprobs": True},
    {"model": "m", "inputs": {"text": "x"}, "stream": True, "stream_options": {"include_usage": True}},
    {"model": "m", "prompt": ["x"], "temperature": 1, "top_p": 0.5, "logprobs": 3},
]


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def header(changes: Any) -> bytes:
    """Sound weights whose header differs by `changes`."""
    return safetensors_bytes(lora_tensors(rank=1, targets=("q_proj",)), changes)


def with_header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


PAIR: Final = (("adapter_config.json", CONFIG), ("adapter_model.safetensors", WEIGHTS[:400]))
FOLDER: Final = (("a/card.toml", b'name = "x"'), ("a/README.md", b"x"), *((f"a/{name}", data) for name, data in PAIR))
ZIPS: Final = [zipped(*PAIR), zipped(*PAIR, method=zipfile.ZIP_STORED), zipped(*FOLDER)]


def overwritten(record: bytes, place: int, data: bytes) -> bytes:
    """A sound .zip with `data` at a place behind the last `record`."""
    archive = bytearray(ZIPS[0])
    at = archive.rindex(record) + place
    archive[at : at + len(data)] = data
    return bytes(archive)


def config(**changes: Any) -> bytes:
    return json.dumps(lora_config(r=1, target_modules=["q_proj"]) | changes).encode()


FIRST: Final = {"dtype": "F32", "shape": [1, 576], "data_offsets": [0, 2304]}
DEEP: Final = b"[" * 100_000

CORPUS: Final[dict[str, dict[str, bytes]]] = {
    "safetensors": {
        "sound": WEIGHTS,
        "a type that is a list": header({A: FIRST | {"dtype": ["F32"]}}),
        "a type that is an object": header({A: FIRST | {"dtype": {"F32": 1}}}),
        "a name with half a character": header({"\ud800": FIRST}),
        "80,000 sizes": header({A: FIRST | {"shape": [2**47] * 80_000}}),
        "a header in UTF-16": with_header("{}".encode("utf-16")),
        "nested without end": with_header(DEEP),
        "a key twice in a tensor": with_header(b'{"a":{"dtype":"F32","shape":[0],"shape":[0],"data_offsets":[0,0]}}'),
        "metadata that is a list": with_header(b'{"__metadata__":[1]}'),
    },
    "adapter_config": {
        **{f"sound {number}": json.dumps(value).encode() for number, value in enumerate(CONFIGS)},
        "in UTF-16": CONFIG.decode().encode("utf-16"),
        "behind a byte order mark": b"\xef\xbb\xbf" + CONFIG,
        "r is a list": config(r=[1]),
        "r is an object": config(r={"q_proj": 1}),
        "use_dora is a list": config(use_dora=[1]),
        "a rank for each of 30,000 modules": config(rank_pattern={f"layers.{n}.q_proj": 1 for n in range(30_000)}),
        "a rank by an expression": config(rank_pattern={"(a+)+": 1}),
        "ranks by a list": config(rank_pattern=["q_proj"]),
        "two meanings": config(alpha_pattern={"q_proj": 1, "self_attn.q_proj": 2}),
        "an unknown key that is null": config(lora_gamma=None),
        "a start that is a list": config(init_lora_weights=["gaussian"]),
        "an alpha past all floats": config(lora_alpha=10**400),
        "no alpha": config(lora_alpha=0),
        "a module that no name means": config(target_modules=["0"]),
        "a name that means no module": config(target_modules=["q_proj", "0"]),
        "NaN": b'{"r": NaN}',
        "half a character": b'{"revision": "\\ud800"}',
        "nested without end": DEEP,
        "a number of 5,000 digits": b'{"r": ' + b"1" * 5000 + b"}",
    },
    "gate": {
        "sound": GATE,
        "without tensors": safetensors_bytes({}, {"__metadata__": {"format": FORMAT, "kind": "flow"}}),
        "a layer beyond all": gate_bytes({"layers.9999.bias": ("F32", (1,), bytes(4))}),
        "a warmth that is no number": gate_bytes({"layers.0.bias": ("F32", (1,), bytes(4))}, temperature="\u0661"),
    },
    "archive": {
        "sound": ZIPS[0],
        "stored": ZIPS[1],
        "a folder": ZIPS[2],
        "a negative seek": overwritten(b"PK\5\6", 16, (60_000).to_bytes(4, "little")),
        "a directory before the beginning": overwritten(b"PK\5\6", 12, (60_000).to_bytes(4, "little")),
        "a name that is not UTF-8": overwritten(b"PK\1\2", 9, b"\x08")[:-1] + b"\0",
        "another version": overwritten(b"PK\1\2", 6, b"\xff"),
        "a strange packing": overwritten(b"PK\1\2", 10, b"\x63"),
        "nothing": b"",
        "only an end": ZIPS[0][-22:],
    },
    "card": {
        "sound": CARD.encode(),
        "dotted without end": b".".join([b"a"] * 500) + b" = 1",
        "not UTF-8": b"\xff\xfe",
        "nested without end": b"a = " + DEEP,
        "a NUL in a name": b'name = "\\u0000"',
        "an infinite score": b'name = "x"\n[score]\nbase = inf',
        "examples that are no list": b'name = "x"\nexample = 3\n[prompt]\ntemplate = "{a}"',
    },
    "template": {
        "sound": json.dumps(PROMPTS[0]).encode(),
        "examples nested without end": json.dumps(PROMPTS[0] | {"lines": "[" * 100_000}).encode(),
        "a name that is a list": json.dumps(PROMPTS[0] | {"fields": [{"name": ["text"]}]}).encode(),
        "inputs that are a list": json.dumps(PROMPTS[0] | {"lines": '{"inputs": [["text", "x"]]}'}).encode(),
    },
    "rows": {
        "sound": b"\n".join(json.dumps(row).encode() for row in ROWS),
        "nested without end": DEEP,
        "inputs that are a list": b'{"inputs": [[1, "x"]], "target": "joy"}',
        "inputs of lists": b'{"inputs": {"text": ["x"]}, "target": "joy"}',
        "a field with half a character": json.dumps(ROWS[0]).encode() + b'\n{"inputs": {"\\ud800": "x"}, "target": ""}',
        "two million bad lines": b"x\n" * 2_000_000,
        "two million empty lines": b"\n" * 2_000_000,
        "a line of three million bytes": b"x" * 3_000_000,
        "not UTF-8": b"\xff\xfe",
    },
    "socket": {
        **{f"sound {number}": json.dumps(value).encode() for number, value in enumerate(MESSAGES)},
        "a cursor past 2^64": json.dumps({"type": "resume", "answer": ID, "after": "99999999999999999999-0"}).encode(),
        "a cursor without a dash": json.dumps({"type": "resume", "answer": ID, "after": "5"}).encode(),
        "a seed of sixty digits": json.dumps(MESSAGES[2] | {"sampling": {"seed": "0" * 20 + "9" * 40}}).encode(),
        "a key with half a character": json.dumps(MESSAGES[0] | {"\ud800": 1}).encode(),
        "digits that are none": json.dumps(MESSAGES[2] | {"sampling": {"seed": "²"}}).encode(),
        "a number past all floats": json.dumps(MESSAGES[2] | {"sampling": {"temperature": 10**400}}).encode(),
        "nested without end": DEEP,
    },
    "protocol": {
        **{f"sound {number}": json.dumps(value).encode() for number, value in enumerate(WIRE)},
        "nested without end": DEEP,
        "not UTF-8": b"\xff\xfe\xff",
        "a kind that is a list": b'{"kind": ["delta"]}',
    },
    "api": {
        **{f"sound {number}": json.dumps(value).encode() for number, value in enumerate(BODIES)},
        "half a character": json.dumps(BODIES[3] | {"prompt": "\ud800"}).encode(),
        "a temperature past all floats": json.dumps(BODIES[3] | {"temperature": 10**400}).encode(),
        "a stop that is an object": json.dumps(BODIES[3] | {"stop": {"a": 1}}).encode(),
    },
    "markdown": {
        "sound": b"# Title\n\n- one\n- **two** `code` [link](https://example.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        "pairs without end": b"Field 1: value 1; Field 2: value 2; " * 40 + b"\nand one more line",
        "assignments without end": b"a = b; " * 400,
        "a script": b"**x** <script>alert(1)</script> [x](javascript:alert(1)) ![x](data:text/html,x)",
        "bars without end": b"|" * 3000 + b"\n" + b"|-" * 1500 + b"|\n" + b"|\n" * 300,
        "quotations without end": b"> " * 3000 + b"x",
    },
    "base_config": {
        **{f"sound {number}": json.dumps(value).encode() for number, value in enumerate(bases.CONFIGS)},
        "nested without end": DEEP,
        "not UTF-8": b"\xff\xfe",
        "a list": b"[]",
        "a text_config that is none": json.dumps(bases.LLAMA | {"text_config": True}).encode(),
        "architectures that are an object": json.dumps(bases.LLAMA | {"architectures": {"a": 1}}).encode(),
        "a number past all floats": json.dumps(bases.LLAMA | {"rms_norm_eps": 10**400}).encode(),
    },
    "base_weights": {
        **{f"sound {number}": bases.weights(scheme) for number, scheme in enumerate(bases.SCHEMES)},
        "a header that no terminal shows": with_header(b'"\\ud833\\udc00"'),
    },
    "base_gguf": {
        "sound": bases.gguf_bytes(bases.FILE),
        "no token for a letter": bases.gguf_bytes({**bases.FILE, "fields": bases.FIELDS | bases.OTHER_LETTERS}),
        "nothing": b"",
        "a beginning": b"GGUF",
        "fields without end": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**17) + b"\0" * 100,
    },
    "base_answers": {
        **{f"sound {number}": json.dumps(value).encode() for number, value in enumerate(bases.ANSWERS)},
        "a temperature past all floats": b'{"generation": {"do_sample": true, "temperature": 1' + b"0" * 400 + b"}}",
    },
}  # fmt: skip
