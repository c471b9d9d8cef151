"""The states of a version on its way from upload to retirement."""

from __future__ import annotations

from typing import Final

from django.db import models


class VersionStatus(models.TextChoices):
    UPLOADED = "uploaded"
    VALIDATING = "validating"
    REJECTED = "rejected"
    READY = "ready"
    PUBLISHED = "published"
    RETIRED = "retired"
    LISTED = "listed", "listed, its base is not served"
    REPLACED = "replaced", "replaced, its files are gone"


ANSWERING: Final = (VersionStatus.READY, VersionStatus.PUBLISHED, VersionStatus.RETIRED)
ON_THE_WAY: Final = (VersionStatus.UPLOADED, VersionStatus.VALIDATING, VersionStatus.REJECTED)
"""States before publication, to which a version that publishes itself goes back when it is looked at again."""
PENDING: Final = (VersionStatus.UPLOADED, VersionStatus.VALIDATING)
"""States in which examination and proof are still to end."""
WITHOUT_FILES: Final = (VersionStatus.REJECTED, VersionStatus.REPLACED)
