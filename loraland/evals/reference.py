"""Asking another model, at any server that speaks the OpenAI dialect: something to compare with, as GPT-4 is."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any, Final

from django.conf import settings

from loraland.evals.asking import Answered, CannotMeasure
from loraland.evals.questions import Question, RunPlan

TIMEOUT_SECONDS: Final = 120
TRIES: Final = 5


async def ask_reference(plan: RunPlan, question: Question) -> Answered:
    """The other model's answer at temperature 0. Raises `CannotMeasure` when the server keeps refusing."""
    trouble = ""
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(2**attempt)
        try:
            return await asyncio.to_thread(_ask_once, plan, question)
        except urllib.error.HTTPError as error:
            trouble = f"{settings.REFERENCE_URL} answers {error.code}: {error.read()[:300].decode(errors='replace')}"
            if error.code != 429 and error.code < 500:
                break
        except (OSError, ValueError, LookupError) as error:
            trouble = f"{settings.REFERENCE_URL} gives no answer: {error!r}"
    raise CannotMeasure(trouble)


def _ask_once(plan: RunPlan, question: Question) -> Answered:
    body: dict[str, Any] = {
        "model": settings.REFERENCE_MODEL,
        "messages": [{"role": turn.role, "content": turn.content} for turn in question.asked["messages"]],
        "temperature": 0,
        "max_tokens": plan.max_tokens,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {settings.REFERENCE_KEY}"}
    address = f"{settings.REFERENCE_URL.rstrip('/')}/chat/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        data = json.load(response)
    return Answered(str(data["choices"][0]["message"]["content"] or ""), fingerprint=str(data.get("model", "")))
