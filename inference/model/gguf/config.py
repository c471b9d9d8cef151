"""What a GGUF file says of its model, in the words of a config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from inference.model.gguf.file import GgufFile
from inference.model.gguf.header import GgufError
from inference.model.gguf.rope import rope_of
from inference.model.gguf.vocabulary import special_ids
from inference.reading import shown

_REQUIRED: Final = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count", "context_length")
_WHOLE: Final = frozenset(
    (*_REQUIRED, "attention.head_count_kv", "attention.key_length", "attention.sliding_window", "expert_count")
).union(("rope.dimension_count", "rope.scaling.original_context_length"))
"""Fields that are whole numbers; others are numbers, but for those of another kind."""
_Kind = tuple[type, ...]
_OTHERWISE: Final[dict[str, tuple[_Kind, str]]] = {
    "rope.scaling.type": ((str,), "a text"),
    "attention.sliding_window_pattern": ((int, list), "a list"),
}
_MOST: Final = 2**40
_TANH: Final = "gelu_pytorch_tanh"
Config = dict[str, Any]


class Own:
    """The fields of the file's own `family`, without its name, each of its kind. Raises `GgufError`."""

    def __init__(self, file: GgufFile, family: str) -> None:
        self.file, self.path, self.family = file, file.path, family
        missing = [key for key in _REQUIRED if not self.get(key)]
        if missing:
            raise GgufError(
                f"{file.path} does not say {', '.join(missing)} of its model; it is not whole, fetch it again"
            )

    def __getitem__(self, key: str) -> Any:
        return self.get(key)

    def get(self, key: str, default: Any = None) -> Any:
        name = f"{self.family}.{key}"
        return self._checked(name, key, self.file.fields[name]) if name in self.file.fields else default

    def _checked(self, name: str, key: str, value: Any) -> Any:
        number: tuple[_Kind, str] = ((int, float), "a number")
        kind, wanted = _OTHERWISE.get(key, ((int,), "a whole number for all layers") if key in _WHOLE else number)
        is_right = isinstance(value, kind) and not isinstance(value, bool)
        if not is_right or (key not in _OTHERWISE and not -_MOST < value < _MOST):
            raise GgufError(f"{self.path} says that {name} is {shown(value)}; read there is {wanted}")
        return value

    @property
    def head_dim(self) -> int:
        # Older files of llama have only the other key, and all of a head turns there.
        older = self.get("rope.dimension_count") if self.family == "llama" else None
        return int(
            self.get("attention.key_length") or older or self["embedding_length"] // self["attention.head_count"]
        )

    def has(self, tensor: str) -> bool:
        """Whether the first layer has such a tensor."""
        return f"blk.0.{tensor}" in self.file.tensors


def config_of(file: GgufFile) -> Config:
    """The config.json of the model in `file`. Raises `GgufError` for one that is not served."""
    family = file.fields.get("general.architecture")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise GgufError(f"{file.path} holds a model of {shown(family)}; served of GGUF are {', '.join(_FAMILIES)}")
    own, (name, describe) = Own(file, family), _FAMILIES[family]
    _check(own)
    return {"architectures": [name]} | _shared(own) | {"rope_parameters": rope_of(own)} | describe(own)


def _check(own: Own) -> None:
    if own.get("expert_count"):
        raise GgufError(f"{own.path} is a mixture of {own.get('expert_count')} experts; served are dense models only")
    if "token_embd.weight" not in own.file.tensors:
        raise GgufError(f"{own.path} has no tensor 'token_embd.weight'; it holds no whole model")


def _shared(own: Own) -> Config:
    heads, special = own["attention.head_count"], _special(own)
    return {
        "vocab_size": own.file.tensors["token_embd.weight"].shape[0],
        "hidden_size": own["embedding_length"],
        "intermediate_size": own["feed_forward_length"],
        "num_hidden_layers": own["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": own.get("attention.head_count_kv", heads),
        "head_dim": own.head_dim,
        **_eps(own),
        "max_position_embeddings": own["context_length"],
        "tie_word_embeddings": "output.weight" not in own.file.tensors,
        "bos_token_id": special.get("bos_token_id"),
        "eos_token_id": special.get("eos_token_id"),
        "pad_token_id": special.get("padding_token_id"),
        "dtype": "bfloat16",
    }


def _special(own: Own) -> dict[str, int]:
    try:
        return special_ids(own.file.fields, own.file.tensors["token_embd.weight"].shape[0])
    except GgufError as error:
        raise GgufError(f"{own.path} cannot be served: {error}") from error


def _eps(own: Own) -> Config:
    keys = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.layer_norm_epsilon": "layer_norm_eps"}
    found = {ours: float(f"{own.get(theirs):.6g}") for theirs, ours in keys.items() if own.get(theirs) is not None}
    if not found:
        raise GgufError(f"{own.path} does not say {' or '.join(keys)} of its model; it is not whole, fetch it again")
    return found


def _llama(own: Own) -> Config:
    return {
        "model_type": own.family,
        "hidden_act": "silu",
        "attention_bias": own.has("attn_q.bias"),
        "mlp_bias": own.has("ffn_up.bias"),
    }


def _qwen(own: Own) -> Config:
    return {"model_type": own.family, "use_sliding_window": False, "attention_bias": own.has("attn_q.bias")}


def _smollm3(own: Own) -> Config:
    """Which layers do not turn is told by no field."""
    return _llama(own) | {"no_rope_layer_interval": 4, "use_sliding_window": False}


def _granite(own: Own) -> Config:
    keys = {
        "embedding_scale": "embedding_multiplier",
        "attention.scale": "attention_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
    return _llama(own) | {ours: own.get(theirs) or 1.0 for theirs, ours in keys.items()}


def _olmo2(own: Own) -> Config:
    if own.get("attention.sliding_window"):
        raise GgufError(f"{own.path} is an OLMo 3 with windows in some layers; served of its kin is OLMo 2")
    return _llama(own)


def _gemma(own: Own) -> Config:
    return {"model_type": own.family, "hidden_act": _TANH}


def _gemma2(own: Own) -> Config:
    """The scale of scores is told by no field; it is another one in the model of 46 layers, the 27B."""
    by_width = own["block_count"] == 46
    return {
        "model_type": own.family,
        "hidden_activation": _TANH,
        "sliding_window": own.get("attention.sliding_window", 4096),
        "attn_logit_softcapping": own.get("attn_logit_softcapping"),
        "final_logit_softcapping": own.get("final_logit_softcapping"),
        "query_pre_attn_scalar": own["embedding_length"] / own["attention.head_count"] if by_width else own.head_dim,
    }


def _gemma3(own: Own) -> Config:
    """So is that of the third, whose 27B has 62 layers."""
    by_width = own["block_count"] == 62
    local = {"rope_type": "default", "rope_theta": float(own.get("rope.freq_base_swa", 10000.0))}
    return _gemma2(own) | {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": own["embedding_length"] / own["attention.head_count"] if by_width else own.head_dim,
        **_pattern(own),
        "rope_parameters": {"full_attention": rope_of(own), "sliding_attention": local},
    }


def _pattern(own: Own) -> Config:
    """Which layers have the window: all but every so many, or those that a list says."""
    told = own.get("attention.sliding_window_pattern", 6)
    if isinstance(told, int):
        return {"sliding_window_pattern": told}
    return {"layer_types": ["sliding_attention" if has_window else "full_attention" for has_window in told]}


def _phi(own: Own) -> Config:
    return {"model_type": "phi", "hidden_act": "gelu_new"}


def _phi3(own: Own) -> Config:
    context = own["context_length"]
    return {
        "model_type": own.family,
        "hidden_act": "silu",
        "sliding_window": own.get("attention.sliding_window") or None,
        "original_max_position_embeddings": own.get("rope.scaling.original_context_length", context),
    }


def _stablelm(own: Own) -> Config:
    if own.has("attn_q_norm.weight"):
        raise GgufError(f"{own.path} norms each head by weights of its own; use the model's safetensors instead")
    return {
        "model_type": own.family,
        "hidden_act": "silu",
        "use_qkv_bias": own.has("attn_q.bias"),
        "use_parallel_residual": not own.has("ffn_norm.weight"),
    }


def _glm4(own: Own) -> Config:
    return {"model_type": own.family, "hidden_act": "silu", "attention_bias": own.has("attn_q.bias")}


_FAMILIES: Final[dict[str, tuple[str, Callable[[Own], Config]]]] = {
    "llama": ("LlamaForCausalLM", _llama),
    "qwen2": ("Qwen2ForCausalLM", _qwen),
    "qwen3": ("Qwen3ForCausalLM", _qwen),
    "smollm3": ("SmolLM3ForCausalLM", _smollm3),
    "granite": ("GraniteForCausalLM", _granite),
    "olmo2": ("Olmo2ForCausalLM", _olmo2),
    "gemma": ("GemmaForCausalLM", _gemma),
    "gemma2": ("Gemma2ForCausalLM", _gemma2),
    "gemma3": ("Gemma3ForCausalLM", _gemma3),
    "phi2": ("PhiForCausalLM", _phi),
    "phi3": ("Phi3ForCausalLM", _phi3),
    "stablelm": ("StableLmForCausalLM", _stablelm),
    "glm4": ("Glm4ForCausalLM", _glm4),
}
"""By GGUF's name of the family: config.json's, and what it has beside what all share."""
