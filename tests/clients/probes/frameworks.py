"""Frameworks that speak through openai's package: each by its name, in its own environment.

`python frameworks.py NAME [COLUMN…]` proves one; what a framework has no way to ask for has no function.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = sys.argv.pop(1)

from probing import KEY, PERSON, TOOL, URL, V1, check, column, is_person, main

os.environ |= {"OPENAI_BASE_URL": V1, "OPENAI_API_BASE": V1, "OPENAI_API_KEY": KEY}


def langchain() -> None:
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        """A person."""

        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=99)

    def chat(**more: object) -> ChatOpenAI:
        return ChatOpenAI(model="base", base_url=V1, api_key=KEY, max_retries=0, max_tokens=90, **more)

    @column("chat")
    def _() -> None:
        check(chat().invoke("Name a colour.").content, "no text")

    @column("stream")
    def _() -> None:
        parts = list(chat(stream_usage=True).stream("Name a colour."))
        check(any(part.usage_metadata for part in parts), "no usage")

    @column("schema")
    def _() -> str:
        for method in ("json_schema", "function_calling"):
            check(isinstance(chat().with_structured_output(Person, method=method).invoke("Who?"), Person), method)
        return "json_schema (its default), function_calling"

    @column("tools")
    def _() -> None:
        done = chat().bind_tools([TOOL], tool_choice="weather").invoke("Oslo?")
        check(done.tool_calls[0]["args"]["city"], done)

    @column("n")
    def _() -> None:
        check(len(chat(n=2, temperature=1).generate([[HumanMessage("Hi")]]).generations[0]) == 2, "not two")

    @column("logprobs")
    def _() -> None:
        done = chat(logprobs=True, top_logprobs=2).invoke("Hi")
        check(done.response_metadata["logprobs"]["content"], done)

    @column("completions")
    def _() -> str:
        model = OpenAI(model="base", base_url=V1, api_key=KEY, max_retries=0, max_tokens=4)
        check(len(model.batch(["Once", "Twice"])) == 2, "not two")
        return "`batch` sends a list"

    @column("embeddings")
    def _() -> str:
        of_ids = OpenAIEmbeddings(model="base", base_url=V1, api_key=KEY, check_embedding_ctx_length=False)
        check(len(of_ids.embed_documents(["a cat", "a dog"])) == 2, "not two")
        return "with `check_embedding_ctx_length=False`, else it sends another tokenizer's ids"

    @column("own")
    def _() -> str:
        check(chat(use_responses_api=True).invoke("Hi").content, "no text")
        return "use_responses_api"


def pydantic_ai() -> None:
    from pydantic import BaseModel, Field
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class Person(BaseModel):
        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=99)

    provider = OpenAIProvider(base_url=V1, api_key=KEY)
    chat_model, settings = OpenAIChatModel("base", provider=provider), {"max_tokens": 120}

    @column("chat")
    def _() -> None:
        check(Agent(chat_model, model_settings=settings).run_sync("Hi").output, "no text")

    @column("stream")
    def _() -> None:
        async def run() -> None:
            async with Agent(chat_model, model_settings=settings).run_stream("Hi") as done:
                check([part async for part in done.stream_text()], "no text")

        asyncio.run(run())

    @column("schema")
    def _() -> str:
        done = Agent(chat_model, output_type=NativeOutput(Person), model_settings=settings).run_sync("Who?")
        check(isinstance(done.output, Person), done)
        return "NativeOutput"

    @column("tools")
    def _() -> str:
        done = Agent(chat_model, output_type=Person, model_settings=settings).run_sync("Who?")
        check(isinstance(done.output, Person), done)
        return "output_type"

    @column("own")
    def _() -> str:
        model = OpenAIResponsesModel("base", provider=provider)
        check(Agent(model, model_settings=settings).run_sync("Hi").output, "no text")
        return "responses, the default of `openai:`"


def agents() -> None:
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=99)

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0)
    by_chat, by_responses = OpenAIChatCompletionsModel("base", client), OpenAIResponsesModel("base", client)

    def run(model: object, **more: object) -> object:
        settings = ModelSettings(max_tokens=120, metadata={"a": "b"}, store=False)
        agent = Agent(name="one", instructions="Be brief.", model=model, model_settings=settings, **more)
        return Runner.run_sync(agent, "Who?").final_output

    @column("chat")
    def _() -> None:
        check(run(by_chat), "no text")

    @column("schema")
    def _() -> None:
        check(isinstance(run(by_chat, output_type=Person), Person), "no person")

    @column("own")
    def _() -> str:
        check(run(by_responses), "no text")
        check(isinstance(run(by_responses, output_type=Person), Person), "no person")
        return "responses, with and without output_type"


def llamaindex() -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model="base",
        api_base=V1,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=60,
        context_window=4096,
        max_retries=0,
    )

    @column("chat")
    def _() -> None:
        check(model.chat([ChatMessage(role="user", content="Hi")]).message.content, "no text")

    @column("stream")
    def _() -> None:
        check(list(model.stream_chat([ChatMessage(role="user", content="Hi")])), "no text")

    @column("tools")
    def _() -> None:
        from llama_index.core.tools import FunctionTool

        def weather(city: str) -> str:
            """The weather of a city."""
            return city

        done = model.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg="Oslo?", tool_required=True)
        check(model.get_tool_calls_from_response(done), done)

    @column("completions")
    def _() -> None:
        plain = OpenAILike(model="base", api_base=V1, api_key=KEY, is_chat_model=False, max_tokens=4)
        check(plain.complete("Once").text, "no text")


def smolagents() -> None:
    from smolagents import OpenAIServerModel, tool

    model = OpenAIServerModel(model_id="base", api_base=V1, api_key=KEY, max_tokens=60)

    @tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: the city
        """
        return city

    @column("chat")
    def _() -> None:
        check(model.generate([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]).content, "no text")

    @column("tools")
    def _() -> None:
        turns = [{"role": "user", "content": [{"type": "text", "text": "Oslo?"}]}]
        check(model.generate(turns, tools_to_call_from=[weather]).tool_calls, "no call")


def dspy() -> None:
    import dspy

    model = dspy.LM("openai/base", api_base=V1, api_key=KEY, max_tokens=200, cache=False, num_retries=0)

    @column("chat")
    def _() -> None:
        check(model("Hi"), "no text")

    @column("schema")
    def _() -> str:
        dspy.configure(lm=model, adapter=dspy.JSONAdapter())
        try:
            check(dspy.Predict("question -> answer: int")(question="Two and two?").answer is not None, "no answer")
        except dspy.utils.exceptions.AdapterParseError:
            return "served; the small base's answer did not parse"
        return "JSONAdapter"

    @column("n")
    def _() -> None:
        check(len(model("Hi", n=2, temperature=1.0)) == 2, "not two")

    @column("completions")
    def _() -> None:
        plain = dspy.LM(
            "text-completion-openai/base", model_type="text", api_base=V1, api_key=KEY, max_tokens=8, cache=False
        )
        check(plain("Once"), "no text")

    @column("embeddings")
    def _() -> None:
        check(
            len(dspy.Embedder("openai/base", api_base=V1, api_key=KEY, caching=False)(["a cat", "a dog"])) == 2,
            "not two",
        )

    @column("own")
    def _() -> str:
        model = dspy.LM("openai/base", model_type="responses", api_base=V1, api_key=KEY, max_tokens=16, cache=False)
        check(model("Hi"), "no text")
        return "model_type=responses"


def llm() -> None:
    folder = tempfile.mkdtemp()
    os.environ["LLM_USER_PATH"] = folder
    entry = f"api_base: {V1}\n  api_key_name: land\n"
    Path(folder, "extra-openai-models.yaml").write_text(
        f"- model_id: land\n  model_name: base\n  supports_schema: true\n  supports_tools: true\n  {entry}"
        f"- model_id: land-completion\n  model_name: base\n  completion: true\n  {entry}"
    )
    Path(folder, "keys.json").write_text(f'{{"land": "{KEY}"}}')

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [os.path.join(os.path.dirname(sys.executable), "llm"), *arguments],
            capture_output=True,
            text=True,
            timeout=300,
        )
        check(done.returncode == 0, done.stderr)
        return done.stdout

    @column("chat")
    def _() -> None:
        check(run("-m", "land", "--no-stream", "-o", "max_tokens", "8", "Hi").strip(), "no text")

    @column("stream")
    def _() -> None:
        check(run("-m", "land", "-o", "max_tokens", "8", "Hi").strip(), "no text")

    @column("schema")
    def _() -> None:
        check('"name"' in run("-m", "land", "--schema", "name, age int", "-o", "max_tokens", "200", "Who?"), "no name")

    @column("tools")
    def _() -> str:
        run("-m", "land", "-T", "llm_version", "-o", "max_tokens", "20", "Hi")
        return "auto"

    @column("completions")
    def _() -> None:
        check(run("-m", "land-completion", "-o", "max_tokens", "8", "Once").strip(), "no text")

    @column("own")
    def _() -> str:
        check(run("-m", "land", "-o", "logit_bias", '{"504": -100}', "-o", "max_tokens", "8", "Hi").strip(), "no text")
        return "logit_bias"


def outlines() -> None:
    import openai
    import outlines
    from pydantic import BaseModel, ConfigDict, Field

    class Person(BaseModel):
        model_config = ConfigDict(extra="forbid")

        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=99)

    client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)

    @column("chat")
    def _() -> None:
        check(outlines.from_openai(client, "base")("Hi", max_tokens=8), "no text")

    @column("stream")
    def _() -> None:
        check(list(outlines.from_openai(client, "base").stream("Hi", max_tokens=8)), "no text")

    @column("schema")
    def _() -> str:
        check(outlines.from_openai(client, "base")("Who?", Person, max_tokens=90), "no person")
        by_vllm = outlines.from_vllm(client, "base")
        is_person(by_vllm("Who?", Person, max_tokens=90))
        check(by_vllm("Answer", outlines.types.Choice(["yes", "no"]), max_tokens=9) in ("yes", "no"), "no choice")
        return "openai; vllm with json and choice"


def guidance() -> None:
    import guidance
    from guidance import assistant, gen, user
    from guidance.models import OpenAI

    def fresh() -> OpenAI:
        return OpenAI("base", base_url=V1, api_key=KEY, echo=False)

    @column("chat")
    def _() -> None:
        model = fresh()
        with user():
            model += "Name a colour."
        with assistant():
            model += gen("colour", max_tokens=8)
        check(model["colour"], "no text")

    @column("schema")
    def _() -> None:
        model = fresh()
        with user():
            model += "Who?"
        with assistant():
            model += guidance.json("who", schema=PERSON, max_tokens=90)
        is_person(model["who"])


def inspect() -> None:
    from inspect_ai.model import GenerateConfig, ResponseSchema, get_model
    from inspect_ai.tool import ToolFunction, ToolInfo, ToolParams
    from inspect_ai.util import json_schema
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=99)

    os.chdir(tempfile.mkdtemp())
    os.environ |= {"LAND_API_KEY": KEY, "LAND_BASE_URL": V1, "VLLM_BASE_URL": V1, "VLLM_API_KEY": KEY}

    def ask(name: str, tools: object = (), choice: object = None, **config: object) -> object:
        async def run() -> object:
            async with get_model(name, memoize=False) as model:
                return await model.generate(
                    "Who?", tools, choice, config=GenerateConfig(max_tokens=90, max_retries=0, **config)
                )

        return asyncio.run(run())

    @column("chat")
    def _() -> None:
        check(ask("openai-api/land/base").completion, "no text")

    @column("schema")
    def _() -> None:
        schema = ResponseSchema(name="person", json_schema=json_schema(Person))
        is_person(ask("openai-api/land/base", response_schema=schema).completion)

    @column("tools")
    def _() -> None:
        info = ToolInfo(
            name="weather",
            description="Weather",
            parameters=ToolParams(properties={"city": {"type": "string"}}, required=["city"]),
        )
        done = ask("openai-api/land/base", [info], ToolFunction("weather"))
        check(done.message.tool_calls, done)

    @column("n")
    def _() -> None:
        check(len(ask("openai-api/land/base", num_choices=2, temperature=1.0).choices) == 2, "not two")

    @column("logprobs")
    def _() -> None:
        check(ask("openai-api/land/base", logprobs=True, top_logprobs=2).choices[0].logprobs, "none")

    @column("own")
    def _() -> str:
        check(ask("openai/base").completion, "no text")
        return "openai/"


def aider() -> None:
    def run(*arguments: str) -> str:
        command = [
            os.path.join(os.path.dirname(sys.executable), "aider"),
            "--model",
            "openai/base",
            "--no-git",
            "--yes",
        ]
        quiet = ["--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-pretty"]
        done = subprocess.run(
            [*command, *quiet, *arguments, "--message", "Say hello."],
            cwd=tempfile.mkdtemp(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        check("litellm." not in done.stdout + done.stderr, done.stdout + done.stderr)
        return done.stdout

    @column("chat")
    def _() -> None:
        check("Tokens:" in run("--no-stream"), "no answer")

    @column("stream")
    def _() -> None:
        check("Tokens:" in run("--stream"), "no answer")


def _prompts(form: str) -> str:
    path = os.path.join(tempfile.mkdtemp(), "prompts.jsonl")
    Path(path).write_text(f'{{"{form}": "Name a colour."}}\n{{"{form}": "Count to three."}}\n')
    return path


def _run(command: str, *arguments: str, says: str) -> None:
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), command), *arguments],
        cwd=tempfile.mkdtemp(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    check(done.returncode == 0 and says in done.stdout + done.stderr, (done.stdout + done.stderr)[-300:])


def guidellm() -> None:
    def run(form: str) -> None:
        backend = f"kind=openai_http,target={URL},model=base,api_key={KEY},request_format={form}"
        data, limit = f"kind=json_file,path={_prompts('prompt')}", "kind=max_requests,count=2"
        quiet = ["--disable-console-interactive", "--output", "kind=console"]
        _run(
            "guidellm",
            "run",
            "--backend",
            backend,
            "--profile",
            "kind=synchronous",
            "--constraint",
            limit,
            "--data",
            data,
            *quiet,
            says="Benchmark",
        )

    @column("chat")
    def _() -> None:
        run("/v1/chat/completions")

    @column("completions")
    def _() -> None:
        run("/v1/completions")


def aiperf() -> None:
    def run(form: str, *more: str) -> None:
        shape = ["--custom-dataset-type", "single_turn", "--request-count", "2", "--concurrency", "1", "--ui", "simple"]
        tokens = ["--tokenizer", os.environ["LORALAND_TOKENIZER"], "--input-file", _prompts("text"), "--api-key", KEY]
        _run(
            "aiperf",
            "profile",
            "--model",
            "base",
            "--url",
            URL,
            "--endpoint-type",
            form,
            *shape,
            *tokens,
            *more,
            says="Duration",
        )

    @column("chat")
    def _() -> None:
        run("chat")

    @column("stream")
    def _() -> None:
        run("chat", "--streaming")

    @column("completions")
    def _() -> None:
        run("completions")


if __name__ == "__main__":
    globals()[NAME]()
    main()
