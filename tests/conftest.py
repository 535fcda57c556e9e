"""What several rooms of the tests share."""

from __future__ import annotations

from modelbake.export._torchvision import declare_missing_ops
from tests.hub.fixture import hub as hub

# Before any test imports open_clip or sentence_transformers, which import torchvision.
declare_missing_ops()
