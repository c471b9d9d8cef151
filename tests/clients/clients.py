"""The clients that we are held against: how each is installed, which script proves it, and what is not asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field

COLUMNS = {
    "chat": "chat",
    "stream": "stream + usage",
    "schema": "JSON / schema",
    "tools": "tools",
    "n": "n > 1",
    "logprobs": "logprobs",
    "completions": "completions",
    "embeddings": "embeddings",
    "own": "its default / other",
}


@dataclass(frozen=True)
class Client:
    """One client. `packages` are installed into an environment named `environment`, of which `version_of` is told.

    `script` is in `probes/`, with what comes before the columns on its command line. `left_out` says why a client is
    not run, `absent` why a column is not.
    """

    title: str
    script: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    environment: str = ""
    version_of: str = ""
    language: str = "python"
    absent: dict[str, str] = field(default_factory=dict)
    left_out: str = ""


_NO_WAY = "The client has no way to ask for it."
CORE = ("openai", "litellm", "mcp", "lm-eval[api]", "lorax-client", "instructor")
"""The five that the tests run; they live together in one environment. LiteLLM reads tools with the package mcp."""
NODE = ("openai", "ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod")


def _core(title: str, script: str, version_of: str, **absent: str) -> Client:
    return Client(title, (script,), CORE, "core", version_of, absent=absent)


def _framework(name: str, title: str, *packages: str, **absent: str) -> Client:
    return Client(title, ("frameworks.py", name), packages, name, packages[0].split("[")[0], absent=absent)


def _node(name: str, title: str, version_of: str) -> Client:
    return Client(title, ("node.mjs", name), NODE, "node", version_of, "node")


TESTED = {
    "openai": _core("openai (Python)", "openai_python.py", "openai"),
    "litellm": _core("litellm", "litellm_python.py", "litellm"),
    "lm-eval": _core("lm-eval", "lm_eval_python.py", "lm_eval", tools=_NO_WAY),
    "lorax-client": _core("lorax-client", "lorax_python.py", "lorax-client", tools="LoRAX has none in its own API."),
    "instructor": _core("instructor", "instructor_python.py", "instructor"),
}
CLIENTS = {
    **TESTED,
    "openai-3": Client("openai 3 (Python)", ("openai_python.py",), ("openai>=3",), "openai", "openai"),
    "openai-node": _node("openai", "openai (npm)", "openai"),
    "ai-compatible": _node("ai-compatible", "AI SDK openai-compatible", "@ai-sdk/openai-compatible"),
    "ai-openai": _node("ai-openai", "AI SDK @ai-sdk/openai", "@ai-sdk/openai"),
    "langchain": _framework("langchain", "langchain-openai", "langchain-openai"),
    "llamaindex": _framework("llamaindex", "llama-index openai-like", "llama-index-llms-openai-like"),
    "pydantic-ai": _framework("pydantic_ai", "pydantic-ai", "pydantic-ai-slim[openai]"),
    "agents": _framework("agents", "openai-agents", "openai-agents"),
    "dspy": _framework("dspy", "dspy", "dspy[numpy]"),
    "llm": _framework("llm", "llm (simonw)", "llm"),
    "outlines": _framework("outlines", "outlines (openai, vllm)", "outlines[openai]"),
    "guidance": _framework("guidance", "guidance", "guidance", "openai"),
    "inspect": _framework("inspect", "inspect-ai", "inspect-ai", "openai"),
    "smolagents": _framework("smolagents", "smolagents", "smolagents[openai]"),
    "aider": _framework("aider", "aider (litellm)", "aider-chat"),
    "guidellm": _framework("guidellm", "guidellm", "guidellm"),
    "aiperf": _framework("aiperf", "aiperf", "aiperf"),
    "hub": Client("huggingface_hub", ("hub_python.py",), ("huggingface_hub>=2",), "hub", "huggingface_hub"),
    "anthropic": Client("anthropic", ("anthropic_python.py",), ("anthropic",), "anthropic", "anthropic"),
    "tgi": Client("text-generation (TGI)", ("tgi_python.py",), ("text-generation",), "tgi", "text-generation"),
}

LEFT_OUT = {
    "vllm bench serve": "It comes with the whole of vLLM, a CUDA build of several GB.",
    "promptfoo": "Not run: it sends what openai (npm) sends.",
    "Open WebUI, LibreChat, Continue, Claude Code, Codex": "Whole programs; they send what the packages above send.",
}
