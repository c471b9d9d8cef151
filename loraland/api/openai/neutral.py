"""Parameters that may be sent though nothing here is done by them: by which values, and which are told as ignored.

A value that asks for nothing passes unseen: what is empty, or the default of a choice. A label is for the caller's own
bookkeeping, or a hint that changes no answer: any value passes, and the answer names it as ignored. Every other value
of a parameter in these tables asks for something that is not offered, and is refused by name. What a body declares as
a field of its own is none of these tables' business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Rule:
    """Which values of a parameter pass, whether an answer tells that they were ignored, and one that passes as JSON."""

    passes: Callable[[Any], bool]
    is_told: bool = False
    example: str = ""


def only(*values: Any) -> Rule:
    """These values, which ask for what is done anyway."""
    return Rule(lambda given: any(_same(given, value) for value in values), example=json.dumps(values[0]))


LABEL: Final = Rule(lambda given: True, is_told=True)
ABSENT: Final = Rule(lambda given: False)
"""Known to other servers, and every value asks for something."""
FLAG: Final = Rule(lambda given: isinstance(given, bool), is_told=True, example="true")
EMPTY: Final = Rule(only([], {}, "").passes, example="null")
OFF: Final = only(False)
ON: Final = only(True)
ZERO: Final = only(0)
ONE: Final = only(1)
NO_THOUGHTS: Final = Rule(
    lambda given: isinstance(given, dict) and all(name in ("enable_thinking", "thinking") for name in given),
    is_told=True,
    example="{}",
)
"""A chat template's own switches, of which those for thinking mean nothing to a model that does not think aloud."""


def _rules(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


REQUEST: Final[Mapping[str, Rule]] = {
    # OpenAI's
    **_rules(LABEL, "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    **_rules(LABEL, "user", "reasoning_effort", "reasoning", "verbosity", "prediction"),
    **_rules(EMPTY, "audio", "functions", "tools", "logit_bias", "suffix", "response_format", "include"),
    **_rules(only("none", "auto"), "function_call", "tool_choice"),
    "response_format": only({"type": "text"}, {}),
    "modalities": only(["text"], []),
    "parallel_tool_calls": FLAG,
    "web_search_options": ABSENT,
    "top_logprobs": ZERO,
    "logprobs": OFF,
    "echo": OFF,
    "n": ONE,
    "best_of": ONE,
    # vLLM's and SGLang's
    **_rules(LABEL, "guided_decoding_backend", "request_id", "rid", "priority", "cache_salt", "include_reasoning"),
    **_rules(LABEL, "separate_reasoning", "stream_reasoning", "skip_reading_prefix_cache"),
    **_rules(EMPTY, "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    **_rules(EMPTY, "guided_whitespace_pattern", "structural_tag", "stop_token_ids", "bad_words", "allowed_token_ids"),
    **_rules(EMPTY, "logits_processors", "logprob_token_ids", "documents", "chat_template", "mm_processor_kwargs"),
    **_rules(EMPTY, "media_io_kwargs", "kv_transfer_params", "vllm_xargs", "extra_args", "extra_body", "stop_regex"),
    **_rules(EMPTY, "regex", "ebnf", "lora_path", "session_params", "custom_params", "custom_logit_processor"),
    **_rules(OFF, "use_beam_search", "include_stop_str_in_output", "continue_final_message", "prompt_logprobs"),
    **_rules(OFF, "return_tokens_as_token_ids", "return_token_ids", "flat_logprobs", "no_stop_trim"),
    **_rules(OFF, "return_hidden_states", "early_stopping", "return_full_text", "enable_thinking"),
    **_rules(ON, "skip_special_tokens", "spaces_between_special_tokens", "detokenize", "add_generation_prompt"),
    **_rules(ONE, "length_penalty", "diversity_penalty"),
    "chat_template_kwargs": NO_THOUGHTS,
    "add_special_tokens": ON,
    "truncate_prompt_tokens": ABSENT,
    # LoRAX's
    **_rules(LABEL, "adapter_source", "api_token", "return_k_alternatives", "tool_prompt"),
    **_rules(EMPTY, "adapter_id", "merged_adapters", "schema"),
    **_rules(OFF, "watermark", "decoder_input_details", "details"),
    # llama.cpp's, Ollama's and those of the routers between clients and servers
    **_rules(LABEL, "cache_prompt", "id_slot", "slot_id", "keep_alive", "provider", "route", "usage"),
    **_rules(LABEL, "timings_per_token", "return_progress"),
    **_rules(EMPTY, "grammar", "json_schema", "options", "transforms", "plugins", "models", "data_sources", "tags"),
    **_rules(ZERO, "mirostat", "dry_multiplier", "xtc_probability", "dynatemp_range", "top_a", "min_keep", "n_probs"),
    **_rules(ONE, "tfs_z", "tfs", "repeat_penalty", "smoothing_curve"),
    **_rules(OFF, "think", "raw", "safe_prompt"),
    # text-generation-webui's and koboldcpp's, whose clients send all of them always; labels belong to samplers that
    # are off
    **_rules(ONE, "typical", "typ_p", "encoder_repetition_penalty", "guidance_scale", "num_beams", "num_beam_groups"),
    **_rules(ZERO, "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "penalty_alpha", "nsigma"),
    **_rules(OFF, "temperature_last", "dynamic_temperature"),
    **_rules(EMPTY, "custom_token_bans", "banned_tokens", "banned_strings", "negative_prompt", "format"),
    **_rules(LABEL, "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "timeout"),
    **_rules(LABEL, "mirostat_tau", "mirostat_eta", "xtc_threshold", "dynatemp_exponent", "repeat_last_n"),
    "smoothing_factor": ZERO,
    "top_n_sigma": only(-1, 0),
    "thinking": only({"type": "disabled"}, {}, False),
}

MESSAGE: Final[Mapping[str, Rule]] = {
    **_rules(LABEL, "name", "refusal", "annotations", "audio", "reasoning_content", "reasoning", "reasoning_details"),
    **_rules(LABEL, "thinking", "thinking_blocks", "provider_specific_fields", "cache_control", "id", "created_at"),
    **_rules(LABEL, "timestamp", "metadata", "phase", "status"),
    **_rules(EMPTY, "tool_calls", "function_call", "tool_call_id", "images"),
    **_rules(OFF, "prefix", "partial"),
    "type": only("message"),
}

PART: Final[Mapping[str, Rule]] = _rules(
    LABEL, "cache_control", "annotations", "citations", "id", "logprobs", "metadata", "provider_options"
)


def sift(
    given: Mapping[str, Any], rules: Mapping[str, Rule], declared: Collection[str]
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """`given` without what passes and is not declared; the names to tell as ignored, and those that are refused."""
    found = {name: rules[name] for name in given if name in rules and name not in declared}
    passed = {name for name, rule in found.items() if given[name] is None or rule.passes(given[name])}
    ignored = tuple(name for name in found if name in passed and found[name].is_told and not _is_empty(given[name]))
    kept = {name: value for name, value in given.items() if name not in passed}
    return kept, ignored, tuple(name for name in found if name not in passed)


def way_out(rule: Rule) -> str:
    """What may be done about a value that does not pass."""
    return f"leave it out or send {rule.example}" if rule.example else "leave it out"


def _same(given: Any, value: Any) -> bool:
    """Equality of JSON, in which true is not 1, but 1.0 is."""
    return isinstance(given, bool) == isinstance(value, bool) and given == value


def _is_empty(given: Any) -> bool:
    return given is None or (isinstance(given, str | list | dict) and not given)
