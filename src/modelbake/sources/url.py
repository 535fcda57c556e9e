"""A web address below which the files stand under their own paths."""

from __future__ import annotations

from contextlib import AbstractContextManager
from urllib.parse import quote

from modelbake.bundle import UrlSource
from modelbake.sources.base import RemoteFile, Stream
from modelbake.sources.http import content_length, open_url


class Url:
    """The files `paths` below `spec.url`; a web server has no listing, so each is asked for."""

    def __init__(self, spec: UrlSource, paths: tuple[str, ...]) -> None:
        self._base, self._paths = spec.url, paths

    @property
    def label(self) -> str:
        return f"url {self._base}"

    def inventory(self) -> dict[str, RemoteFile]:
        sizes = {path: content_length(self._url(path)) for path in self._paths}
        return {path: RemoteFile(size=size) for path, (found, size) in sizes.items() if found}

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Stream]:
        return open_url(self._url(path), offset)

    def _url(self, path: str) -> str:
        return self._base + quote(path)
