"""Documents that several writers add to under one name: signatures of a digest, referrers of a digest."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from modelbake.errors import SourceUnreachableError, UnknownNameError
from modelbake.oci.blob import Blob
from modelbake.oci.model import Descriptor
from modelbake.oci.place import Place

_TRIES = 8
# Seconds. Longer than a registry takes between the two requests of a writer that asks what the name leads to and then sets it.
_SETTLE = 0.3

Change = Callable[[Descriptor | None], Sequence[Blob]]


@runtime_checkable
class OneAtATime(Protocol):
    """A place that can let one writer of a name wait for another, as the store can."""

    def updating(self, name: str) -> AbstractContextManager[None]:
        """For as long as the document under the name is read, changed and written."""


def current(place: Place, name: str) -> Descriptor | None:
    """What the name leads to, None where it leads nowhere."""
    try:
        return place.resolve(name)
    except UnknownNameError:
        return None


def update(place: Place, name: str, change: Change) -> Descriptor:
    """Let the name lead to what `change` makes of the document that it leads to now, and return that document's descriptor.

    `change` gets the document that is there (None: none) and gives the blobs to add, the new document last, or nothing where the
    document holds all that it should. It is asked again until it gives nothing, so whatever another writer wrote in between stays,
    and what another wrote over is written again.

    A place that is `OneAtATime` has no writer in between. A registry has no compare-and-swap (OCI distribution-spec 1.1 leaves
    that to those with ETag conditions), so after each write this waits for as long as another's write may take, and looks again.
    SourceUnreachableError where others never rest.
    """
    alone = place.updating(name) if isinstance(place, OneAtATime) else nullcontext()
    with alone, place.adding():
        for attempt in range(1, _TRIES + 1):
            before = current(place, name)
            blobs = change(before)
            if not blobs:
                if before is None:
                    raise AssertionError("a change of nothing gives a document")
                return before
            for blob in blobs:
                place.add(blob)
            if current(place, name) == before:
                place.tag(name, blobs[-1].descriptor.bare())
            if not isinstance(place, OneAtATime):
                _wait(_SETTLE * (1 + random.random() * attempt))
    raise SourceUnreachableError(
        f"{place}: others changed {name} each of {_TRIES} times that it was written; run this again when they rest."
    )


def _wait(seconds: float) -> None:
    time.sleep(seconds)
