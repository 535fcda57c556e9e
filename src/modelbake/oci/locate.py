"""What a name on the command line leads to: `store:NAME` to the local store, anything else to a registry."""

from __future__ import annotations

from dataclasses import dataclass

from modelbake.errors import UsageError
from modelbake.oci.known import Known
from modelbake.oci.model import Descriptor
from modelbake.oci.place import Place
from modelbake.oci.reference import Reference, parse
from modelbake.oci.repository import Repository
from modelbake.oci.store import Store
from modelbake.oci.transport import Transport
from modelbake.oci.upload import Sessions
from modelbake.settings import Settings, proxy_for

IN_STORE = "store:"


@dataclass(frozen=True)
class Located:
    """A place, and the name in it: a tag or digest; `reference` where it is a registry's."""

    place: Place
    name: str
    reference: Reference | None = None

    def resolve(self) -> Descriptor:
        """The document that the name leads to."""
        return self.place.resolve(self.name)

    def __str__(self) -> str:
        return str(self.reference) if self.reference else f"{IN_STORE}{self.name}"


def locate(text: str, settings: Settings, plain_http: bool = False) -> Located:
    """Where `text` leads; UsageError where it is no name. Nothing is asked yet."""
    if text.startswith(IN_STORE):
        return Located(Store(settings.store_dir), name_in_store(text))
    reference = parse(text)
    return Located(repository(reference, settings, plain_http), reference.target, reference)


def name_in_store(text: str) -> str:
    """The name where nothing but the store can be meant, with or without `store:`; UsageError where it is none."""
    name = text.removeprefix(IN_STORE)
    if not name or any(character.isspace() for character in name):
        raise UsageError(
            f"{text!r} names nothing in the store; write {IN_STORE}NAME, as `modelbake store list` shows them."
        )
    return name


def repository(reference: Reference, settings: Settings, plain_http: bool = False) -> Repository:
    """The repository of a reference, with the settings' credentials, proxies and caches."""
    transport = Transport(
        reference,
        settings.docker_config,
        settings.registry_tokens.get(reference.host),
        settings.ca_bundle,
        (lambda url: None) if reference.is_loopback else proxy_for,
        plain_http,
    )
    cache = settings.cache_dir
    return Repository(reference, transport, Sessions(cache / "uploads"), Known(cache))
