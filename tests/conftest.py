"""What every test stands on. The settings read their environment once, so it is set before they load."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("VAR_DIR", tempfile.mkdtemp(prefix="loraland-tests-"))
