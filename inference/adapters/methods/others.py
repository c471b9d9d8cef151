"""Methods of PEFT that are not served, and what to do with an adapter of one."""

from __future__ import annotations

from typing import Final

_CONVERTED: Final = {
    "C3A": "C3A",
    "DELORA": "DeLoRA",
    "FOURIERFT": "FourierFT",
    "GRALORA": "GraLoRA",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "PSOFT": "PSOFT",
    "RANDLORA": "RandLoRA",
    "TINYLORA": "TinyLoRA",
    "UNILORA": "UniLoRA",
    "WAVEFT": "WaveFT",
}
"""Those that add something to the base's weights, which PEFT makes a LoRA of."""
_REASONS: Final = {
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"),
        "it learns what stands in front of a prompt and no weights",
    ),
    **dict.fromkeys(("OFT", "BOFT", "HRA", "ROAD"), "it turns what the base's weights give and adds nothing to it"),
    **dict.fromkeys(("IA3", "HIRA"), "it multiplies what the base's weights give and adds nothing to it"),
    **dict.fromkeys(("XLORA", "POLY"), "it chooses among adapters token by token; its parts can be served themselves"),
    "ADAPTION_PROMPT": "it learns prompts in the layers and no weights",
    "LN_TUNING": "it trains the base's own norms, which all adapters share",
    "SHIRA": "it changes single weights of the base, which no LoRA of low rank does",
    "TRAINABLE_TOKENS": "it has no LoRA; train one with the same trainable_token_indices",
    "BONE": "it is called MiSS since, with miss_block in place of bone_block; PEFT's own script writes it so",
}


def refusal(peft_type: str) -> str:
    """Why an adapter of this method is not served, and the way out: a clause behind its name."""
    if peft_type in _CONVERTED:
        return (
            f"{_CONVERTED[peft_type]} is not served, but PEFT makes a LoRA of it: peft.save_as_lora(folder, model, "
            "rank=32), or a share of its energy as rank=0.95. What the rank does not hold is lost, so measure it again."
        )
    told = _REASONS.get(peft_type, "nobody here knows what it computes")
    return f"such adapters are not served: {told}. Train a LoRA, or a method that docs/adapters.md names."
