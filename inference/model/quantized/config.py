"""How a checkpoint of Hugging Face was quantised, by its own word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.model.checkpoint import WeightsError
from inference.model.json_file import read_object
from inference.model.linear import GROUP
from inference.reading import shown

_INSTEAD: Final = (
    "take the model in full, a copy in 4 bits by GPTQ or AWQ, one in 4 or 8 bits by bitsandbytes, or a GGUF file"
)


@dataclass(frozen=True)
class Scheme:
    """`method` is gptq, awq or bitsandbytes. Of the first two: `group` inputs share a scale, all where it is -1;
    `zero_offset` is what the stored zeros lack; `desc_act` is whether inputs may be in another order than their groups,
    if that is told."""

    method: str
    bits: int
    group: int = 0
    zero_offset: int = 0
    kind: str = ""
    desc_act: bool | None = None


def scheme_of(directory: Path) -> Scheme | None:
    """The scheme of the checkpoint in `directory`; None where it is in full. Raises `WeightsError` for one that is not
    read here."""
    told = _told(directory)
    if told is None:
        return None
    method = str(told.get("quant_method") or "").lower()
    if method == "gptq":
        return _gptq(directory, told)
    if method == "awq":
        return _awq(directory, told)
    if method == "bitsandbytes":
        return _bitsandbytes(directory, told)
    named = shown(method) if method else "a method without a name"
    raise WeightsError(f"{directory} is quantised by {named}: not read here; {_INSTEAD}")


def _gptq(directory: Path, told: dict[str, Any]) -> Scheme:
    form = str(told.get("checkpoint_format") or "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise WeightsError(f"{directory} is GPTQ in the form {shown(form)}: read are gptq and gptq_v2; {_INSTEAD}")
    order = told.get("desc_act")
    if order is not None and not isinstance(order, bool):
        raise WeightsError(f"{directory} has desc_act {shown(order)} in its quantization_config; it is true or false")
    return Scheme("gptq", _four(directory, told), _group(directory, told), int(form == "gptq"), desc_act=order)


def _awq(directory: Path, told: dict[str, Any]) -> Scheme:
    version = str(told.get("version") or "gemm").lower()
    if version != "gemm":
        raise WeightsError(f"{directory} is AWQ of version {shown(version)}: read is gemm; {_INSTEAD}")
    return Scheme("awq", _four(directory, told), _group(directory, told))


def _bitsandbytes(directory: Path, told: dict[str, Any]) -> Scheme:
    if told.get("load_in_4bit") or told.get("_load_in_4bit"):
        return Scheme("bitsandbytes", 4, kind=_kind(directory, told))
    if told.get("load_in_8bit") or told.get("_load_in_8bit"):
        return Scheme("bitsandbytes", 8)
    raise WeightsError(f"{directory} names bitsandbytes in config.json, but neither load_in_4bit nor load_in_8bit")


def _kind(directory: Path, told: dict[str, Any]) -> str:
    kind = told.get("bnb_4bit_quant_type") or "fp4"
    if kind not in ("nf4", "fp4"):
        raise WeightsError(f"{directory} has bnb_4bit_quant_type {shown(kind)}; it is nf4 or fp4")
    return str(kind)


def _four(directory: Path, told: dict[str, Any]) -> int:
    bits = told.get("bits", told.get("w_bit", 4))
    if bits != 4:
        raise WeightsError(f"{directory} is {told['quant_method']} of {shown(bits)} bits: read are 4; {_INSTEAD}")
    return 4


def _group(directory: Path, told: dict[str, Any]) -> int:
    group = told.get("group_size", told.get("q_group_size", 128))
    if type(group) is not int or (group != -1 and (group <= 0 or group % GROUP)):
        raise WeightsError(
            f"{directory} has groups of {shown(group)} inputs: read are multiples of {GROUP}; {_INSTEAD}"
        )
    return group


def _told(directory: Path) -> dict[str, Any] | None:
    """What config.json says, or the file beside it that GPTQ wrote before."""
    found = read_object(directory / "config.json", WeightsError).get("quantization_config")
    if isinstance(found, dict):
        return found
    if found is not None:
        raise WeightsError(f"{directory} has the quantization_config {shown(found)}; it is an object, or absent")
    older = read_object(directory / "quantize_config.json", WeightsError)
    return {"quant_method": "gptq"} | older if older else None
