"""What a GGUF file says of its model, in the words of a config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from inference.model.gguf.file import GgufError, GgufFile
from inference.model.gguf.names import FACTORS

_REQUIRED: Final = (
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
    "context_length",
)


def config_of(file: GgufFile) -> dict[str, Any]:
    """The config.json of the model in `file`. Raises `GgufError` for one that is not served."""
    fields = file.fields
    if fields.get("general.architecture") != "llama":
        raise GgufError(f"{file.path} holds a {fields.get('general.architecture')} model; served of GGUF is llama")
    own = _Own(file.path, fields)
    heads = own["attention.head_count"]
    head_dim = own.get("attention.key_length", own["embedding_length"] // heads)
    _check(own, head_dim, len(file.tensors))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _vocab_size(file),
        "hidden_size": own["embedding_length"],
        "intermediate_size": own["feed_forward_length"],
        "num_hidden_layers": own["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": own.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": float(f"{own['attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_parameters": _rope(own, file, head_dim),
        "max_position_embeddings": own["context_length"],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
        "dtype": "bfloat16",
    }


class _Own:
    """The fields of the architecture itself."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self.path, self._fields = path, fields
        missing = [key for key in _REQUIRED if f"llama.{key}" not in fields]
        if missing:
            raise GgufError(f"{path} does not say {', '.join(missing)} of its model; it is not whole, fetch it again")

    def __getitem__(self, key: str) -> Any:
        return self._fields[f"llama.{key}"]

    def get(self, key: str, default: Any = None) -> Any:
        return self._fields.get(f"llama.{key}", default)


def _check(own: _Own, head_dim: int, num_tensors: int) -> None:
    if own.get("expert_count"):
        raise GgufError(f"{own.path} is a mixture of {own.get('expert_count')} experts; served are dense models only")
    turned = own.get("rope.dimension_count", head_dim)
    if turned != head_dim:
        raise GgufError(
            f"{own.path} turns {turned} of the {head_dim} numbers of a head; served are those that turn all"
        )
    parts = own.get("split.count", 0) or 0
    if parts > 1:
        raise GgufError(f"{own.path} is one of {parts} parts; join them with `llama-gguf-split --merge`")


def _vocab_size(file: GgufFile) -> int:
    table = file.tensors.get("token_embd.weight")
    if table is None:
        raise GgufError(f"{file.path} has no tensor 'token_embd.weight'; it holds no whole model")
    return table.shape[0]


def _rope(own: _Own, file: GgufFile, head_dim: int) -> dict[str, Any]:
    """The rotary embedding: factors by frequency, as Llama 3 has them, or a kind that fields name."""
    theta = float(own.get("rope.freq_base", 10000.0))
    factors = file.tensors.get(FACTORS)
    if factors is not None:
        if factors.shape != (head_dim // 2,):
            raise GgufError(
                f"{FACTORS} of {file.path} has shape {factors.shape} where {head_dim // 2} factors would be"
            )
        values = factors.block.dequantize(file.raw(factors, 0, 1))[0]
        return {"rope_theta": theta} | _by_factors([float(value) for value in values], own["context_length"])
    return {"rope_theta": theta} | _scaling(own)


def _by_factors(factors: list[float], context: int) -> dict[str, Any]:
    """The one kind of scaling that takes a factor for each frequency, of any length, sharpening nothing."""
    told = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}
    return told | {"factor": 1.0, "attention_factor": 1.0, "original_max_position_embeddings": context}


def _scaling(own: _Own) -> dict[str, Any]:
    kind = own.get("rope.scaling.type", "linear" if own.get("rope.scale_linear") else "none")
    factor = float(own.get("rope.scaling.factor") or own.get("rope.scale_linear") or 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(own, factor)
    raise GgufError(
        f"{own.path} scales its rotary embedding by {kind!r}; served are none, linear, yarn and rope_freqs.weight"
    )


def _yarn(own: _Own, factor: float) -> dict[str, Any]:
    scaling = {"rope_type": "yarn", "factor": factor}
    keys = {
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    found = {ours: own.get(f"rope.scaling.{theirs}") for ours, theirs in keys.items()}
    if own.get("rope.scaling.attn_factor", 1.0) != 1.0 or own.get("rope.scaling.yarn_log_multiplier"):
        raise GgufError(f"{own.path} sharpens its attention otherwise than YaRN does; use the model's safetensors")
    return scaling | {key: value for key, value in found.items() if value}
