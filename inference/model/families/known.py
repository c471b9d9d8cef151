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
from inference.model.spec import ArchitectureError

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
_INSTEAD: Final = "of its kin a dense one works, such as"


def family_of(config: dict[str, Any]) -> Family:
    """The family that a config.json's `architectures` names. Raises `ArchitectureError`, which says what is missing."""
    told = config.get("architectures") or ["none named"]
    name = told if isinstance(told, str) else told[0]
    for family in FAMILIES:
        if name in family.architectures:
            return family
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
    raise ArchitectureError(f"the architecture {name} is not supported; supported are {', '.join(SUPPORTED)}")
