"""The site's settings in a VAR_DIR of this run's own. They read their environment once, so it is set first."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("VAR_DIR", tempfile.mkdtemp(prefix="loraland-tests-"))

from loraland.settings import *  # noqa: F403
