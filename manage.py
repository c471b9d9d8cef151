#!/usr/bin/env python
"""Django's command line for the site."""

from __future__ import annotations

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except Exception as error:
        from loraland.outage import is_outage

        if not is_outage(error) or "--traceback" in sys.argv:
            raise
        sys.exit(f"The database or the disk cannot be used: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
