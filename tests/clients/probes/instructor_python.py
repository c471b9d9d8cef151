"""Instructor: objects of a class, in each of its ways."""

from __future__ import annotations

import instructor
import openai
from instructor import Mode
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException
from probing import ADAPTER, HELLO, KEY, V1, check, column, main
from pydantic import BaseModel, Field

client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0, timeout=300)


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


def ask(mode: Mode, model: str = "base") -> None:
    asking = instructor.from_openai(client, mode=mode)
    person = asking.chat.completions.create(
        model=model, messages=HELLO, response_model=Person, max_tokens=90, max_retries=0
    )
    check(isinstance(person, Person), person)


@column("chat")
def chat() -> None:
    ask(Mode.JSON_SCHEMA, ADAPTER)


@column("schema")
def schema() -> str:
    for mode in (Mode.JSON_SCHEMA, Mode.JSON):
        try:
            ask(mode)
        except (InstructorRetryException, IncompleteOutputException) as error:  # any JSON object is allowed there
            check(mode is Mode.JSON and ("validation error" in str(error) or "max_tokens" in str(error)), error)
    return "JSON_SCHEMA; JSON is served (a small base writes other fields)"


@column("tools")
def tools() -> str:
    for mode in (Mode.TOOLS, Mode.TOOLS_STRICT):
        ask(mode)
    return "TOOLS (its default), TOOLS_STRICT"


@column("own")
def own() -> str:
    ask(Mode.RESPONSES_TOOLS)
    return "RESPONSES_TOOLS"


if __name__ == "__main__":
    main()
