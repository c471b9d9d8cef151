"""What users see of a failure follows from its meaning, at the API and under an answer alike."""

from __future__ import annotations

import pytest

from inference.wire.failures import FAILURES, meaning_of
from inference.wire.protocol import Failed
from loraland.api.errors import of_failure
from loraland.evals import asking
from loraland.evals.asking import Answered
from loraland.playground.answers import CHOOSE, EDIT, RELOAD, RETRY, remedy_of

SEEN = {
    "prompt_too_long": (400, EDIT),
    "input_too_long": (400, EDIT),
    "invalid_request": (400, EDIT),
    "inputs_required": (400, EDIT),
    "bad_message": (400, EDIT),
    "adapter_not_found": (404, CHOOSE),
    "adapter_not_served": (404, CHOOSE),
    "model_not_found": (404, CHOOSE),
    "invalid_model": (400, EDIT),
    "adapter_refused": (422, CHOOSE),
    "no_session": (404, RELOAD),
    "not_found": (404, RELOAD),
    "unread": (404, RELOAD),
    "too_many_running": (503, RETRY),
    "quota": (503, RETRY),
    "out_of_memory": (503, RETRY),
    "too_late": (429, RETRY),
    "queue_full": (503, RETRY),
    "worker_lost": (503, RETRY),
    "fingerprint_changed": (503, RETRY),
    "lost": (503, RETRY),
    "unavailable": (503, RETRY),
    "internal": (500, RETRY),
    "of another version": (503, RETRY),
}


@pytest.mark.parametrize("code", [*FAILURES, "of another version"])
def test_a_failure_has_its_status_and_its_button(code):
    error = of_failure(Failed("a", code, "So it is."))
    assert (error.status, remedy_of(code)) == SEEN[code]
    assert (error.retry_after is not None) == (error.status in (429, 503)), "what passes says when to come back"


@pytest.mark.parametrize("code", [*FAILURES, "of another version"])
def test_a_row_of_a_run_is_asked_for_again_or_earns_nothing_or_ends_the_run(code):
    meaning = meaning_of(code)
    if meaning.fault == "text":
        assert asking._failed(code, "Too long.") == Answered("", error="Too long.")
    else:
        with pytest.raises(asking._AskAgain if SEEN[code][0] in (429, 503) else asking.CannotMeasure):
            asking._failed(code, "So it is.")
