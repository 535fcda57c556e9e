"""A token server as the Docker registry's token authentication has it (distribution, docs/spec/auth/token.md and jwt.md).

A client that the registry sends here asks with a scope, and with a name and password or without, and gets a signed token that the
registry checks by the certificate of its key.
"""

from __future__ import annotations

import base64
import binascii
import http.server
import json
import time
import urllib.parse
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.registry.keys import make_pair
from tests.registry.server import PASSWORD, USER
from tests.registry.wire import Listener, body


@dataclass(frozen=True)
class Asked:
    """A request for a token: what for, by whom (None: nobody said), and whether it was given."""

    scopes: tuple[str, ...]
    user: str | None
    granted: bool
    method: str = "GET"


class TokenServer:
    """On loopback, as a context manager. Everybody may pull, USER with PASSWORD may pull and push; other names are refused.

    lifetime: seconds that a token is good for. expires_in: whether the answer says so (a client must take 60 s where it does not).
    name: the field that holds the token, `token` or OAuth's `access_token`.
    """

    def __init__(self, folder: Path, lifetime: int = 300, expires_in: bool = True, name: str = "token") -> None:
        self.lifetime, self.expires_in, self.name = lifetime, expires_in, name
        self.pair = make_pair(folder, "tokens")
        self.asked: list[Asked] = []
        self._listener = Listener(lambda *words: _Handler(self, *words))

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self._listener.port}/token"

    def __enter__(self) -> TokenServer:
        self._listener.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.__exit__(kind, error, traceback)

    def answer(self, scopes: list[str], user: str | None, password: str | None, method: str) -> dict[str, Any] | None:
        """The answer's JSON, or None where name and password do not fit."""
        granted = user is None or (user, password) == (USER, PASSWORD)
        self.asked.append(Asked(tuple(scopes), user, granted, method))
        if not granted:
            return None
        allowed = ("pull", "push", "delete") if user else ("pull",)
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append(
                {"type": kind, "name": name, "actions": [one for one in actions.split(",") if one in allowed]}
            )
        now = int(time.time())
        claims = {
            "iss": "tests", "aud": "tests", "sub": user or "", "jti": uuid.uuid4().hex, "access": access,
            "iat": now, "nbf": now - 10, "exp": now + self.lifetime,
        }  # fmt: skip
        answer: dict[str, Any] = {self.name: self._signed(claims)}
        if self.expires_in:
            answer |= {"expires_in": self.lifetime, "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))}
        return answer

    def _signed(self, claims: dict[str, Any]) -> str:
        header = {"typ": "JWT", "alg": "RS256", "x5c": self.pair.chain()}
        text = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        return b".".join([text, _base64(self.pair.sign(text))]).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: TokenServer, *words: Any) -> None:
        self._tokens = server
        super().__init__(*words)

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        user, password = self._basic()
        self._give(self._tokens.answer(_scopes(query), user, password, "GET"))

    def do_POST(self) -> None:
        """OAuth2's password grant (docs/spec/auth/oauth.md)."""
        form = urllib.parse.parse_qs(b"".join(body(self.rfile, self.headers)).decode())
        one = {name: values[0] for name, values in form.items()}
        self._give(self._tokens.answer(_scopes(form), one.get("username"), one.get("password"), "POST"))

    def _basic(self) -> tuple[str | None, str | None]:
        kind, _, text = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None, None
        try:
            user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password

    def _give(self, answer: dict[str, Any] | None) -> None:
        refused = {"errors": [{"code": "UNAUTHORIZED", "message": "another name or password"}]}
        data = json.dumps(refused if answer is None else answer).encode()
        self.send_response(401 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _scopes(query: dict[str, list[str]]) -> list[str]:
    return [scope for text in query.get("scope", []) for scope in text.split()]
