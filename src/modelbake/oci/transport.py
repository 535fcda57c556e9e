"""Requests to one registry: connections, tokens, redirects, and failures turned into our errors.

urllib3 and not httpx2, which the sources use: a blob takes half the processor's time (docs/registry.md has the figures).
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlencode, urljoin, urlsplit

import urllib3
import urllib3.connection
from urllib3.exceptions import HTTPError

from modelbake import __version__
from modelbake.errors import RefusedError, SourceUnreachableError
from modelbake.oci.auth import Challenge, Credentials, credentials_for, parse_challenge
from modelbake.oci.blob import Slice
from modelbake.oci.reference import DOCKER_HUB, Reference, is_loopback
from modelbake.patience import TransientError, retry_after

Response = urllib3.BaseHTTPResponse
Body = bytes | Callable[[], Iterable[bytes | Slice]]

_HUB_API = "registry-1.docker.io"
_TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
_MOST_REDIRECTS = 5
_MOST_TOKEN_BYTES = 1 << 20
# Of a refusal's text, for the message.
_MOST_ERROR_BYTES = 1 << 16
CONNECTIONS = 8


class _Connection(urllib3.connection.HTTPConnection):
    """Sends slices of files by sendfile(2): their bytes do not pass through this process."""

    def send(self, data: Any) -> None:
        if not isinstance(data, Slice):
            super().send(data)
            return
        assert self.sock is not None
        with data.part.open() as file:
            if self.sock.sendfile(file, data.offset, data.size) != data.size:
                raise data.part.shorter()


class _SecureConnection(urllib3.connection.HTTPSConnection):
    """Sends slices of files as it sends bytes: they are encrypted here."""

    def send(self, data: Any) -> None:
        super().send(data.read() if isinstance(data, Slice) else data)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class NotFoundError(SourceUnreachableError):
    """The registry answers, and has no such thing."""


class Transport:
    """Requests to the registry of a host; safe for several threads.

    `plain_http` allows an unencrypted connection to another machine; to this machine's own addresses it is tried anyhow.
    `token` is sent as it is; without one, docker's configuration in `config_dir` is asked when the registry wants to know.
    """

    def __init__(
        self,
        reference: Reference,
        config_dir: Path,
        token: str | None = None,
        ca_bundle: Path | None = None,
        proxy: Callable[[str], str | None] = lambda url: None,
        plain_http: bool = False,
    ) -> None:
        self.host = reference.host
        self._config_dir = config_dir
        self._given_token = token
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._ca_bundle = ca_bundle
        self._proxy = proxy
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._plain = plain_http or reference.is_loopback
        self._forced_plain = plain_http
        self._base: str | None = None

    @cached_property
    def _context(self) -> ssl.SSLContext:
        # Reading all certificates takes longer than a pull that has nothing to do from a registry without TLS.
        return ssl.create_default_context(cafile=str(self._ca_bundle) if self._ca_bundle else None)

    def url(self, path: str) -> str:
        """The address of `path`, such as `/v2/`, at the registry."""
        return urljoin(self._origin(), path)

    def request(
        self,
        method: str,
        url: str,
        scope: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        accept: tuple[int, ...] = (200,),
        length: int | None = None,
    ) -> Response:
        """The answer to a request, its body not read yet; `accept` are the statuses that are none of an error.

        `body` as a function is called anew for each try, and `length` says how many bytes it gives. A token is asked for, or
        a new one where it is no more accepted. TransientError where trying again may help, NotFoundError for 404,
        SourceUnreachableError for other refusals.
        """
        if urlsplit(url).scheme != "https" and urlsplit(self._origin()).scheme == "https":
            # What the registry gave for an upload or the next page; proxies before registries get this wrong.
            raise _unencrypted(self._origin())
        sent = dict(headers or {})
        if length is not None:
            sent["content-length"] = str(length)
        refused: set[str | None] = set()
        for last in (False, False, True):
            authorization = self._authorization(scope)
            # Behind a redirect, which is mostly a signed address of a storage service, the registry's token has no business.
            own = self._is_own(url)
            if authorization and own:
                sent["authorization"] = authorization
            response = self._send(method, url, sent, body() if callable(body) else body)
            # Nor may who is behind it say where the registry's credentials are to be sent.
            asked = response.status == 401 and own and self._is_own(_addresses(url, response)[-1])
            if asked and not last and authorization not in refused:
                refused.add(authorization)
                if self._renew(scope, response.headers.get("www-authenticate", ""), authorization):
                    response.drain_conn()
                    continue
            if response.status in accept:
                return response
            raise self._error(method, url, response)
        raise AssertionError("unreachable")

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Iterable[bytes | Slice] | None
    ) -> Response:
        retries = urllib3.Retry(total=None, connect=0, read=0, redirect=_MOST_REDIRECTS, status=0, other=0)
        try:
            response = self._pool(url).request(
                method,
                url,
                headers={"user-agent": f"modelbake/{__version__}", "accept-encoding": "identity", **headers},
                # Slices too: `_Connection.send` takes them.
                body=cast(Any, body),
                preload_content=False,
                decode_content=False,
                redirect=method in ("GET", "HEAD"),
                retries=retries,
            )
        except (HTTPError, OSError) as error:
            raise TransientError(f"{bare(url)}: {_cause(error)}") from error
        schemes = [urlsplit(address).scheme for address in _addresses(url, response)]
        if schemes[0] == "https" and set(schemes) != {"https"}:
            response.close()
            raise _unencrypted(url)
        return response

    def _is_own(self, url: str) -> bool:
        """Whether the address is the registry's, reached as the registry is."""
        return _place(url) == _place(self._origin())

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = self._proxy(url)
        with self._lock:
            if proxy not in self._pools:
                pools: urllib3.PoolManager
                options = {
                    "num_pools": 4,
                    "maxsize": CONNECTIONS,
                    "block": False,
                    "timeout": _TIMEOUT,
                    "blocksize": 1 << 17,
                }
                if proxy:
                    # urllib3 does not look for a user and password in the proxy's address.
                    user, _, address = urlsplit(proxy).netloc.rpartition("@")
                    plain = urlsplit(proxy)._replace(netloc=address).geturl()
                    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
                    pools = urllib3.ProxyManager(plain, proxy_headers=headers, **options)  # type: ignore[arg-type]
                else:
                    pools = urllib3.PoolManager(**options)  # type: ignore[arg-type]
                pools.pool_classes_by_scheme = {"http": _Pool, "https": self._secure_pool}  # type: ignore[dict-item]
                self._pools[proxy] = pools
            return self._pools[proxy]

    def _secure_pool(self, host: str, port: int, **options: Any) -> _SecurePool:
        return _SecurePool(host, port, **options, ssl_context=self._context)

    def _origin(self) -> str:
        if self._base is None:
            host = _HUB_API if self.host == DOCKER_HUB else self.host
            self._base = f"http://{host}" if self._plain and not self._speaks_tls(host) else f"https://{host}"
        return self._base

    def _speaks_tls(self, host: str) -> bool:
        """Whether a server on this machine, which may speak either, wants TLS."""
        if self._forced_plain:
            return False
        with suppress(HTTPError, OSError):
            answer = self._pool(f"http://{host}/").request("GET", f"http://{host}/v2/", retries=False, redirect=False)
            # What Go's servers say to plain HTTP on a port with TLS; others close the connection.
            return answer.status == 400 and b"HTTPS" in answer.data
        with suppress(HTTPError, OSError):
            self._pool(f"https://{host}/").request("GET", f"https://{host}/v2/", retries=False, redirect=False)
            return True
        return False

    # ---- tokens -------------------------------------------------------------------------------------------------------

    def _authorization(self, scope: str) -> str | None:
        if self._given_token:
            return f"Bearer {self._given_token}"
        with self._lock:
            return self._tokens.get(scope)

    def _renew(self, scope: str, header: str, old: str | None) -> bool:
        """Get what the registry asks for by its WWW-Authenticate header; False where there is nothing to get."""
        if self._given_token:
            return False
        challenge = parse_challenge(header)
        # One asks, and the threads that were refused meanwhile take what it got.
        with self._renewing:
            with self._lock:
                if self._tokens.get(scope) != old:
                    return True
            credentials = credentials_for(self.host, self._config_dir)
            if challenge.scheme == "basic" and credentials and credentials.user:
                found = credentials.basic()
            elif challenge.scheme == "bearer":
                found = f"Bearer {self._token(challenge, scope, credentials)}"
            else:
                return False
            with self._lock:
                self._tokens[scope] = found
            return True

    def _token(self, challenge: Challenge, scope: str, credentials: Credentials | None) -> str:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        # That this machine's own registry is spoken to unencrypted is no leave to send its password to another machine so.
        plain = self._forced_plain or (self._plain and is_loopback(parts.hostname or ""))
        if parts.scheme != "https" and not (plain and parts.scheme == "http"):
            raise RefusedError(
                f"{self.host} wants its token asked for at {realm!r}, which is not encrypted; use another registry."
            )
        fields = {"service": challenge.parameters.get("service", ""), "scope": scope}
        headers: dict[str, str] = {}
        if credentials and credentials.refresh_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": credentials.refresh_token,
                "client_id": "modelbake",
            }
            headers["content-type"] = "application/x-www-form-urlencoded"
            response = self._send("POST", realm, headers, urlencode(fields).encode())
        else:
            if credentials:
                headers["authorization"] = credentials.basic()
            query = urlencode([("service", fields["service"]), *(("scope", one) for one in scope.split())])
            response = self._send("GET", f"{realm}{'&' if '?' in realm else '?'}{query}", headers, None)
        if response.status != 200:
            raise self._error("GET", realm, response)
        try:
            answer = json.loads(response.read(_MOST_TOKEN_BYTES))
            token = str(answer.get("token") or answer["access_token"])
            if not re.fullmatch(r"[!-~]+", token):
                raise ValueError("it is none that a header can hold")
            return token
        except (ValueError, KeyError, AttributeError, HTTPError) as error:
            raise SourceUnreachableError(
                f"{bare(realm)} gave no token for {self.host}; ask whoever runs it."
            ) from error

    # ---- failures -----------------------------------------------------------------------------------------------------

    def _error(self, method: str, url: str, response: Response) -> Exception:
        status = response.status
        with suppress(HTTPError, OSError):
            said = _said(response.read(_MOST_ERROR_BYTES))
            message = f"{bare(url)}: HTTP {status}{f' ({said})' if said else ''}"
            response.close()
            if status in (408, 429) or status >= 500:
                return TransientError(message, retry_after(response.headers.get("retry-after")))
            if status == 404:
                return NotFoundError(message)
            if status in (401, 403):
                return SourceUnreachableError(
                    f"{message}. `docker login {self.host}` as somebody who may do that, or set MODELBAKE_REGISTRY_TOKEN={self.host}=TOKEN."
                )
            return SourceUnreachableError(message)
        return TransientError(f"{bare(url)}: HTTP {status}, and the connection broke")


def _addresses(url: str, response: Response) -> list[str]:
    """The address that was asked, and those that its redirects led to."""
    found = [url]
    for step in response.retries.history if response.retries else ():
        if step.redirect_location:
            found.append(urljoin(found[-1], step.redirect_location))
    return found


def _unencrypted(url: str) -> RefusedError:
    return RefusedError(
        f"{bare(url)} leads to an unencrypted address; use another registry, or have this one put right."
    )


def _place(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def bare(url: str) -> str:
    """The address without query, user and password, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _said(data: bytes) -> str:
    """The messages of a registry's error body (distribution-spec, Error Codes)."""
    try:
        errors = json.loads(data)["errors"]
        return "; ".join(f"{one.get('code')}: {one.get('message')}" for one in errors)[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _cause(error: BaseException) -> str:
    """urllib3's errors wrap each other; the innermost tells what happened."""
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            return f"{type(error).__name__}: {error}"
        error = inner
