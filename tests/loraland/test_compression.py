"""What is compressed on its way: pages and tables, never a stream."""

from __future__ import annotations

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory

from loraland.middleware import Compress

LONG = "a page of many words " * 100


def passed(response: HttpResponse | StreamingHttpResponse, rf: RequestFactory) -> HttpResponse:
    request = rf.get("/", headers={"Accept-Encoding": "gzip, br"})
    return Compress(lambda _: response)(request)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", "text/csv"])
def test_texts_are_compressed(rf: RequestFactory, kind: str) -> None:
    response = passed(HttpResponse(LONG, content_type=kind), rf)
    assert response["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in response["Vary"]


def test_an_answer_that_streams_goes_on_piece_by_piece(rf: RequestFactory) -> None:
    response = passed(StreamingHttpResponse(iter([LONG]), content_type="text/event-stream"), rf)
    assert "Content-Encoding" not in response
    assert next(iter(response)) == LONG.encode()  # type: ignore[call-overload]


def test_a_picture_is_left_as_it_is(rf: RequestFactory) -> None:
    assert "Content-Encoding" not in passed(HttpResponse(LONG, content_type="image/png"), rf)


def test_two_pages_with_the_same_words_differ_in_length_so_that_a_guess_cannot_be_weighed(rf: RequestFactory) -> None:
    sizes = {len(passed(HttpResponse(LONG), rf).content) for _ in range(40)}
    assert len(sizes) > 1
