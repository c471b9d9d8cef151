"""The OpenAI-compatible API under /v1."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from loraland.api import entries, errors
from loraland.api.addresses import shape_for
from loraland.api.answering import Response, answer
from loraland.api.authentication import KeyHolder, visitor_of
from loraland.api.model_list import listing
from loraland.api.openai.bodies import Chat
from loraland.api.openai.chat import ChatCompletion
from loraland.api.openai.completion import Completion
from loraland.api.openai.embeddings import Embedding, Embeddings, told_of_input
from loraland.api.openai.plain import Plain
from loraland.api.parsing import JsonParser
from loraland.api.responses.asked import ResponseRequest
from loraland.api.responses.bodies import Responses
from loraland.api.resuming import answer_again, chat_again, plain_again

api = errors.Api(
    title="LoRA Land", version="1", docs_url=None, auth=KeyHolder(), urls_namespace="v1", parser=JsonParser()
)
errors.install(api)


@api.api_operation(["GET", "HEAD"], "/models", url_name="models", response=None)
async def models(request: HttpRequest, base: str = "", limit: int | None = None, after: str = "") -> HttpResponseBase:
    return await listing(request, visitor_of(request), base, limit, after)


@api.api_operation(["GET", "HEAD"], "/models/{path:name}", url_name="model")
async def model(request: HttpRequest, name: str) -> dict[str, Any]:
    return await entries.entry(name, visitor_of(request))


@api.post("/chat/completions", url_name="chat_completions", response=None)
async def chat_completions(request: HttpRequest, asked: ChatCompletion) -> Response:
    return await answer(request, asked, Chat(asked.logprobs, asked.prompt_logprobs, asked.calls()))


@api.post("/completions", url_name="completions", response=None)
async def completions(request: HttpRequest, asked: Completion) -> Response:
    echoed = asked.echoed() if asked.echo else None
    return await answer(request, asked, Plain(asked.logprobs is not None, echoed, asked.prompt_logprobs))


@api.post("/responses", url_name="responses", response=None)
async def responses(request: HttpRequest, asked: ResponseRequest) -> Response:
    return await answer(request, asked, Responses(asked))


@api.post("/embeddings", url_name="embeddings", response=None)
async def embeddings(request: HttpRequest, asked: Embedding) -> Response:
    with told_of_input():
        return await answer(request, asked, Embeddings(asked), is_embedding=True)


@api.get("/chat/completions/{id}", url_name="chat_completion", response=None)
async def chat_completion(request: HttpRequest, id: str, stream: bool = False, include_usage: bool = False) -> Response:
    return await answer_again(request, id.removeprefix("chatcmpl-"), chat_again, stream, include_usage)


@api.get("/completions/{id}", url_name="completion", response=None)
async def completion(request: HttpRequest, id: str, stream: bool = False, include_usage: bool = False) -> Response:
    return await answer_again(request, id.removeprefix("cmpl-"), plain_again, stream, include_usage)


def nothing_here(request: HttpRequest, rest: str = "") -> HttpResponse:
    """Any other address under /v1."""
    sentence = f"There is nothing at {request.path[:200]}; /v1/openapi.json lists what there is."
    told = shape_for(request.method or "", request.path) or errors.told
    return told(errors.ApiError(404, "not_found", sentence), request.path)
