"""What a process that Ray has started for us takes on before it does anything: the settings, and where the code is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from inference.config import start_logging
from inference.model.torch_environment import prepare_torch


def take_on(settings: Mapping[str, str]) -> None:
    """Let `settings` hold here and in the processes that this one starts, which find this code too: Ray tells it to its
    own processes only."""
    os.environ.update(settings)
    os.environ.update({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    prepare_torch()
    start_logging()
