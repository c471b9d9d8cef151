"""Why a request is not accepted."""

from __future__ import annotations


class Refused(Exception):
    """A request that never becomes an answer.

    `code` is for programs, `sentence` for people, `status` the HTTP status that fits, `retry_after` the seconds
    after which trying again may help, and `param` the part of the request at fault.
    """

    def __init__(
        self, code: str, sentence: str, status: int, retry_after: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.status = status
        self.retry_after = retry_after
        self.param = param
