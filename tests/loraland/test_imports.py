"""What the site must not load."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = {"torch", "triton", "transformers", "tokenizers", "safetensors", "peft", "numpy"}


def test_the_site_starts_without_the_torch_side():
    code = "import sys, loraland.asgi, loraland.urls; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "loraland" in loaded
    assert loaded & FORBIDDEN == set()
