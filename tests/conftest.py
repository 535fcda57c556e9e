"""What several rooms of the tests share."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

from modelbake.export._torchvision import declare_missing_ops
from tests.hub.fixture import hub as hub

# Before any test imports open_clip or sentence_transformers, which import torchvision.
declare_missing_ops()

# No test asserts on time: a machine that does other things meanwhile is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell that starts something in the background lets it ignore Ctrl-C, and so would the commands that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
