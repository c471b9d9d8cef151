"""`python -m inference.training`: train adapters here and now, or with `--serve` those that the site queues."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from inference.model.torch_environment import prepare_torch


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command line, see `inference.training.command`, or of the server."""
    prepare_torch()
    words = sys.argv[1:] if arguments is None else arguments
    # Each imports what the other does without: torch takes seconds and memory that a waiting server does not need.
    if list(words) == ["--serve"]:
        from inference.server import serve

        return serve.main()
    from inference.training import command

    return command.main(words)


if __name__ == "__main__":
    sys.exit(main())
