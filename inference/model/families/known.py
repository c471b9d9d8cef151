"""Which family a config.json is of, and what is said of those that no decoder here computes."""

from __future__ import annotations

import re
from typing import Any, Final

from inference.model.families.family import Family
from inference.model.families.gemma import GEMMA, GEMMA2, GEMMA3
from inference.model.families.glm import GLM, GLM4
from inference.model.families.granite import GRANITE
from inference.model.families.llama import LLAMA
from inference.model.families.mistral import MINISTRAL, MISTRAL
from inference.model.families.olmo2 import OLMO2
from inference.model.families.phi import PHI
from inference.model.families.phi3 import PHI3
from inference.model.families.qwen import QWEN2, QWEN3
from inference.model.families.smollm3 import SMOLLM3
from inference.model.families.stablelm import STABLELM
from inference.model.other_code import CHATGLM_INSTEAD, LLAMA_INSTEAD, PHI_INSTEAD
from inference.model.spec import ArchitectureError
from inference.reading import shown

FAMILIES: Final = (
    *(LLAMA, MISTRAL, MINISTRAL, QWEN2, QWEN3, SMOLLM3, GRANITE, OLMO2),
    *(PHI, PHI3, GEMMA, GEMMA2, GEMMA3, STABLELM, GLM, GLM4),
)
SUPPORTED: Final = tuple(name for family in FAMILIES for name in family.architectures)

_EXPERTS: Final = re.compile(
    r"moe|mixtral|jetmoe|dbrx|deepseekv[234]|gptoss|grok|arctic|llama4|glm4v?moe|ernie4_5_moe", re.I
)
_RECURRENT: Final = re.compile(
    r"mamba|jamba|zamba|bamba|falconh1|rwkv|recurrentgemma|griffin|qwen3next|qwen3_5|lfm2|nemotronh|granitemoehybrid|"
    r"minimax|kimilinear|xlstm|plamo2|hgrn|olmohybrid",
    re.I,
)
_OF_THEIR_OWN: Final = {
    "MixFormerSequentialForCausalLM": PHI_INSTEAD,
    "ChatGLMModel": CHATGLM_INSTEAD,
    "ChatGLMForConditionalGeneration": "take GLM-4-0414, or GLM-4-9B's copy whose name ends in -hf",
    "QWenLMHeadModel": "take Qwen2 or later",
    "YiForCausalLM": "take the copy that is a LlamaForCausalLM",
    "StableLMEpochForCausalLM": "take the copy that is a StableLmForCausalLM",
    "BaichuanForCausalLM": LLAMA_INSTEAD,
    "BaiChuanForCausalLM": LLAMA_INSTEAD,
    "InternLMForCausalLM": LLAMA_INSTEAD,
    "InternLM2ForCausalLM": LLAMA_INSTEAD,
    "Phi3SmallForCausalLM": "take Phi-3 mini or medium, or Phi-4",
}
"""Models that came with code of their own, and the same or their kin as transformers has them."""
_INSTEAD: Final = "of its kin a dense one works, such as"


def family_of(config: dict[str, Any]) -> Family:
    """The family that a config.json's `architectures` names. Raises `ArchitectureError`, which says what is missing."""
    told = config.get("architectures")
    name = told[0] if isinstance(told, list) and told else told
    if not isinstance(name, str):
        raise ArchitectureError(f"architectures is {shown(told)}; it lists the name of one, such as {SUPPORTED[0]}")
    for family in FAMILIES:
        if name in family.architectures:
            return family
    if name in _OF_THEIR_OWN:
        own = f"the architecture {name} came with a program of its own, which is not run"
        raise ArchitectureError(f"{own}; {_OF_THEIR_OWN[name]}")
    if _RECURRENT.search(name):
        raise ArchitectureError(
            f"the architecture {name} is not supported: it has layers of linear attention or a state space, whose "
            f"state no decoder here keeps; {_INSTEAD} Qwen3-4B, Granite-3.3-8B or Falcon3-7B"
        )
    if _EXPERTS.search(name):
        raise ArchitectureError(
            f"the architecture {name} is not supported: it is a Mixture-of-Experts, and no decoder here routes tokens "
            f"to experts; {_INSTEAD} Mistral-7B, Qwen3-8B or Phi-4"
        )
    raise ArchitectureError(f"the architecture {shown(name)} is not supported; supported are {', '.join(SUPPORTED)}")
