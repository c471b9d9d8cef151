"""What a worker of several on one GPU may take of its memory. The GPU's own figures are made up: none is at hand."""

from __future__ import annotations

import pytest
import torch

from inference.engine.machine import GPU_CACHE_SHARE, _cache_bytes

GB = 1024**3


@pytest.mark.parametrize(("share", "left"), [(1.0, 70), (0.5, 40), (0.2, 10)])
def test_the_cache_has_what_the_share_leaves_free(monkeypatch: pytest.MonkeyPatch, share: float, left: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * GB, 100 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * GB)
    assert _cache_bytes(torch.device("cuda"), 0, share) == int(left * GB * GPU_CACHE_SHARE)
