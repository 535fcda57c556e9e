"""What the command line calls a bundle or image: store:NAME in the local store, else HOST/REPOSITORY:TAG."""

from __future__ import annotations

from dataclasses import dataclass

from modelbake.errors import UsageError
from modelbake.oci.place import Place
from modelbake.oci.reference import Reference, parse
from modelbake.oci.store import Store
from modelbake.settings import Settings

PREFIX = "store:"


@dataclass(frozen=True)
class Named:
    """A name in a place: what `place.resolve` takes, and the reference, which is None for the store."""

    place: Place
    name: str
    reference: Reference | None

    @property
    def identity(self) -> str:
        """What a signature calls it: HOST/REPOSITORY as cosign does, or the store's name without what follows its colon."""
        if self.reference is None:
            return self.name.partition(":")[0]
        return f"{self.reference.host}/{self.reference.repository}"


def named(text: str, settings: Settings) -> Named:
    """The place and the name in it; UsageError where it is neither form."""
    if text.startswith(PREFIX):
        name = text.removeprefix(PREFIX)
        if not name:
            raise UsageError(f"{text!r} names nothing in the store; write store:NAME.")
        return Named(Store(settings.store_dir), name, None)
    reference = parse(text)
    return Named(_repository(reference), reference.target, reference)


def _repository(reference: Reference) -> Place:
    raise UsageError(f"{reference} is in a registry, and this modelbake reads the store alone; write store:NAME.")
