"""A site that clients can be let loose on: the adapters that the scripts ask for, and a key."""

from __future__ import annotations

import time

from tests.bench.site import Site
from tests.patience import PATIENCE

WANTED = {"base", "tweet_emotion", "snli"}


def open_land(site: Site) -> tuple[str, str]:
    """The address of `site` and a key, once the adapters answer."""
    deadline = time.monotonic() + PATIENCE
    while missing := WANTED - site.models():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not served after {PATIENCE} s: {', '.join(sorted(missing))}")
        time.sleep(0.5)
    return site.url, site.target.key
