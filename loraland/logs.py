"""What logs say of requests that are refused: anybody writes these, and as many as they like."""

from __future__ import annotations

import logging


class Brief(logging.Filter):
    """Leaves the traceback out of what Django calls suspicious: it is the same each time, and a hundred times longer
    than the request.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
        return True
