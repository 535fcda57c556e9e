"""The hub's log of requests, for tests that prove what a client asked for and what it was sent."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass
class Request:
    """One request and its answer. It is in the log before the client sees the answer's first byte."""

    method: str
    path: str
    """URL path, percent-decoded, without the query."""
    query: str
    endpoint: str
    """info, tree, paths-info, refs, auth-check, whoami, resolve, resolve-cache, cdn, or unknown."""
    headers: dict[str, str] = field(repr=False)
    """By lower-case name."""
    repo: str | None = None
    revision: str | None = None
    file: str | None = None
    status: int = 0
    """0: no answer was given (cut before it, or hanging)."""
    sent: int = 0
    """Bytes of body handed to the socket, as on the wire (compressed where Content-Encoding says so)."""
    fault: str | None = None
    """Kind of the fault that this request met."""

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


class Log(list[Request]):
    """All requests in order of arrival."""

    def select(
        self,
        file: str | None = None,
        *,
        method: str | None = None,
        endpoint: str | None = None,
        status: int | None = None,
    ) -> list[Request]:
        """Requests that fit every given criterion; `file` is a pattern over the path inside the repository."""
        return [
            request
            for request in list(self)
            if (file is None or (request.file is not None and fnmatchcase(request.file, file)))
            and method in (None, request.method)
            and endpoint in (None, request.endpoint)
            and status in (None, request.status)
        ]

    def sent(self, file: str | None = None) -> int:
        """Bytes of body sent in answer to GETs of files that fit the pattern; without a pattern, of every GET."""
        return sum(request.sent for request in self.select(file, method="GET"))

    @property
    def leaks(self) -> list[Request]:
        """Requests that carried an Authorization header to the CDN, which must never see one."""
        return [request for request in self.select(endpoint="cdn") if request.authorization is not None]
