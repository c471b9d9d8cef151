"""Whether the base that an adapter's config names is the one that is served: by name, for shapes cannot tell."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

KEY: Final = "base_model_name_or_path"
Verdict = Literal["same", "nobodys", "other"]

_ROOT: Final = re.compile(r"[/~.]|[A-Za-z]:[/\\]")
_STEP: Final = re.compile(r"(?:checkpoint|epoch|step|global_step)[-_]?\d*")
"""The name of a folder that a training writes."""
_GENERIC: Final = re.compile(
    r"(?:base[-_]?)?models?|base|merged(?:[-_]model)?|final(?:[-_]model)?|outputs?|out|checkpoints|tmp|none|null|unknown"
)
"""Names of folders, which no model has."""
_CACHED: Final = re.compile(r"models--([\w.-]++)")
"""A model in the hub's cache, whose folder is named after it."""
_COPY: Final = re.compile(
    r"[-._](?:unsloth|bnb|bitsandbytes|dynamic|sharded|hf|safetensors|gguf|ggml|mlx|gptq|awq|hqq|exl2|exl3|eetq|aqlm"
    r"|autoround|auto-round|quantized|quant|nf4|fp4|nvfp4|mxfp4|fp8|fp16|fp32|bf16|f16|f32|int4|int8|w\d+a\d+(?:kv\d+)?"
    r"|[2-8][-._]?bits?|i?q[1-8](?:[-._](?:0|1|k|xs|xxs|s|m|l|xl|nl))*|ud|imat|dwq|g(?:32|64|128))$",
    re.IGNORECASE,
)
"""An ending of the name of a copy: the same model in other numbers or in another kind of file."""
_FILE: Final = re.compile(r"\.(?:gguf|safetensors|bin|pth?)$", re.IGNORECASE)


def named_base(config: dict[str, Any]) -> str:
    """What `config` names as its base, as it stands there; empty where it names nothing."""
    name = config.get(KEY)
    return name.strip()[:200] if isinstance(name, str) else ""


def judge_base(named: str, served: str) -> Verdict:
    """Whether `named` is the model `served`, another one, or nobody's: no name, or a path on somebody's machine."""
    if model_name(named) == model_name(served) != "":
        return "same"
    if cached := _CACHED.search(named):
        owner, _, name = cached[1].partition("--")
        return "same" if model_name(name or owner) == model_name(served) else "other"
    is_nobodys = not model_name(named) or _is_place(named) or _GENERIC.fullmatch(model_name(named))
    return "nobodys" if is_nobodys else "other"


def _is_place(named: str) -> bool:
    """Whether `named` is on somebody's disk: it starts at a root, has more slashes than an owner's model, or is a
    folder of a training."""
    if _ROOT.match(named) or "\\" in named or named.count("/") > 1:
        return True
    return not _FILE.search(named) and (named.endswith("/") or bool(_STEP.fullmatch(named.rpartition("/")[2])))


def model_name(name: str) -> str:
    """The name of a model alone: no owner, no folder, no word of how a copy is quantised or filed, in lower case."""
    bare = _FILE.sub("", name.strip().replace("\\", "/").rstrip("/")).rsplit("/", 1)[-1].lower()
    while (shorter := _COPY.sub("", bare)) not in (bare, ""):
        bare = shorter
    return re.sub(r"[-_ ]+", "-", bare)


def doubt_of(named: str, served: str, file: str = "adapter_config.json") -> str:
    """What an owner must confirm when the config, or another `file`, names another model, in one sentence or two; empty
    otherwise."""
    if judge_base(named, served) != "other":
        return ""
    key = KEY if file.endswith(".json") else "base"
    return (
        f"{file} names the base {named} ({key}), and this site serves {served}. The shapes fit both, so "
        "it would be served, but trained on another model it may give wrong answers."
    )


def remark_of(named: str, served: str) -> str:
    """What is worth a mild word: a config that names no model, so that only the shapes speak for the base."""
    if judge_base(named, served) != "nobodys":
        return ""
    given = f"only a path ({named})" if named else "no base"
    return f"adapter_config.json names {given}; that it was made for {served} is told by its shapes alone."
