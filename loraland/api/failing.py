"""An error as OpenAI's clients read it: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any, Final

from django.http import HttpResponse, JsonResponse

TYPES: Final = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is answered with an error. `param` names the field at fault, if one is."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.request_id = ""
        """The answer that it ended, if one had begun."""

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> HttpResponse:
        response = JsonResponse(self.body(), status=self.status)
        if self.status == 401:
            response["WWW-Authenticate"] = "Bearer"
        if self.retry_after is not None:
            response["Retry-After"] = str(self.retry_after)
        if self.request_id:
            response["X-Request-Id"] = self.request_id
        return response
