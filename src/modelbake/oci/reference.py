"""Names of images and bundles in a registry: HOST/REPOSITORY[:TAG][@DIGEST]."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from modelbake.errors import UsageError

# The grammar of distribution/reference, which docker, containerd and oras share.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?P<host>localhost|{_LABEL}(?:\.{_LABEL})+|{_LABEL}(?=:[0-9])|\[[0-9A-Fa-f:]+\])(?P<port>:[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_REPOSITORY}(?::(?P<tag>{_TAG}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?", re.ASCII
)

DOCKER_HUB = "docker.io"
# `store:NAME` and `docker:NAME` are the local store's and the engine's for commands that know these: none may get to Docker Hub.
_ELSEWHERE = ("store", "docker")


@dataclass(frozen=True)
class Reference:
    """One name in a registry; a digest wins over a tag."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, to which plain HTTP is no risk."""
        return is_loopback(re.sub(r":[0-9]+$", "", self.host).strip("[]"))

    def at(self, target: str) -> Reference:
        """The same repository with that tag or digest alone."""
        if target.startswith("sha256:"):
            return replace(self, tag=None, digest=target)
        return replace(self, tag=target, digest=None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"


def is_loopback(name: str) -> bool:
    """Whether the name or address of a host is surely this machine's."""
    # Not the names below localhost: not every resolver keeps them on this machine.
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def parse(text: str) -> Reference:
    """`text` as a reference; as for docker, one without a host is Docker Hub's. UsageError where it is none."""
    found = _REFERENCE.fullmatch(text)
    if found is None or len(text) > 512 or int((found["port"] or ":0")[1:]) > 65535:
        raise UsageError(
            f"{text[:200]!r} is no name in a registry; write HOST/REPOSITORY:TAG, like localhost:5000/models/minilm:1.0.0 "
            "(the repository in small letters)."
        )
    host, repository = found["host"], found["repository"]
    if host is None:
        if repository in _ELSEWHERE and found["tag"]:
            raise UsageError(
                f"{text!r} is no name in a registry, which is what is wanted here; Docker Hub's repository of that name is "
                f"{DOCKER_HUB}/library/{repository}."
            )
        host = DOCKER_HUB
        if "/" not in repository:
            repository = f"library/{repository}"
    return Reference(f"{host}{found['port'] or ''}", repository, found["tag"], found["digest"])
