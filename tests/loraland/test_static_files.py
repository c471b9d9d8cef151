"""Which static files are served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.http import HttpResponse

from loraland.static_files import StaticFiles


def test_the_files_are_served_and_the_list_of_them_all_is_not(rf, settings: Any, tmp_path: Path):
    settings.STATIC_ROOT, settings.WHITENOISE_AUTOREFRESH, settings.WHITENOISE_USE_FINDERS = tmp_path, False, False
    (tmp_path / "mark.svg").write_text("<svg/>")
    (tmp_path / "staticfiles.json").write_text(json.dumps({"paths": {}}))
    served = StaticFiles(lambda request: HttpResponse(status=404))
    assert served(rf.get("/static/mark.svg")).status_code == 200
    assert served(rf.get("/static/staticfiles.json")).status_code == 404


def test_the_text_face_leaves_a_first_visit_more_than_half_of_its_150_kilobytes():
    face = Path(__file__).parents[2] / "static" / "vendor" / "fonts" / "commissioner-latin.woff2"
    assert face.stat().st_size < 75_000
