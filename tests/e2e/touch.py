"""A finger on the page, as the browser gets it from a touch screen."""

from __future__ import annotations

import time
from typing import Final

from playwright.sync_api import BrowserContext, CDPSession

STEP: Final = 8
SLOP: Final = 30
"""Pixels that the browser may keep of a drag before it takes it for one."""


def phone(width: int, height: int) -> dict[str, object]:
    """The options of a browser context that is a phone of this size."""
    return {"viewport": {"width": width, "height": height}, "has_touch": True, "is_mobile": True}


def finger(context: BrowserContext) -> CDPSession:
    return context.new_cdp_session(context.pages[-1])


def drag(cdp: CDPSession, x: int, y: int, distance: int) -> None:
    """One finger from (x, y), downwards for a positive `distance` in pixels, which scrolls up; in small steps."""
    cdp.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for moved in range(STEP, abs(distance) + STEP, STEP):
        at = y + moved if distance > 0 else y - moved
        cdp.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": at}]})
    # It rests before it lifts: what is thrown glides on, and a browser takes the tap that stops it for no click.
    time.sleep(0.2)
    cdp.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": at}]})
    cdp.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
