"""Imports from the shell, as tests run them."""

from __future__ import annotations

import io

from django.core.management import CommandError, call_command


def imported(*arguments: object) -> str:
    """What the import says to whoever looks at its errors."""
    err = io.StringIO()
    try:
        call_command("import_adapter", *map(str, arguments), "--no-wait", stdout=io.StringIO(), stderr=err)
    except CommandError as error:
        err.write(str(error))
    return err.getvalue()
