"""Another model at a server that speaks the OpenAI dialect, asked about the same rows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from inference.tasks.data import Row
from inference.tasks.recipe import load_recipe
from loraland.evals import questions
from loraland.evals.asking import CannotMeasure
from loraland.evals.reference import ask_reference

RECIPE = load_recipe("tweet_emotion")
ROWS = [Row({"tweet": "What a day!"}, "joy")]


class Server(HTTPServer):
    """Answers every chat with one word, and keeps what it was sent."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, Any]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        text = json.dumps({"model": "big-1", "choices": [{"message": {"content": "The answer is Joy."}}]})
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(text.encode() if self.server.status == 200 else b"wrong key")

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server(settings: Any) -> Iterator[Server]:
    server = Server()
    settings.REFERENCE_URL = f"http://127.0.0.1:{server.server_port}/v1"
    settings.REFERENCE_KEY, settings.REFERENCE_MODEL = "secret", "big"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_it_is_asked_with_a_plain_instruction_and_read_with_good_will(server: Server) -> None:
    plan = questions.of_reference(RECIPE, ROWS)
    answered = await ask_reference(plan, plan.questions[0])
    ((path, key, body),) = server.seen
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer secret", "big", 0)
    assert body["messages"][0]["content"].startswith(RECIPE.instruction)
    assert (plan.read(answered.text), answered.fingerprint) == ("joy", "big-1")
    assert (plan.facts["source"], plan.facts["base"]) == ("endpoint", "big")


async def test_a_server_that_refuses_the_key_ends_the_measuring_at_once(server: Server) -> None:
    server.status = 401
    plan = questions.of_reference(RECIPE, ROWS)
    with pytest.raises(CannotMeasure, match="answers 401: wrong key"):
        await ask_reference(plan, plan.questions[0])
    assert len(server.seen) == 1
