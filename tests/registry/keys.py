"""Keys and certificates of the tests, made by openssl where the machine has it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """A private key and a certificate of its own signature, for 127.0.0.1 and localhost, as PEM files."""

    key: Path
    certificate: Path

    def sign(self, data: bytes) -> bytes:
        """RSASSA-PKCS1-v1_5 with SHA-256 (RS256)."""
        return _openssl("dgst", "-sha256", "-sign", str(self.key), data=data)

    def chain(self) -> list[str]:
        """The certificate as JOSE's x5c has it: base64 of DER, without line feeds."""
        lines = self.certificate.read_text().splitlines()
        return ["".join(line for line in lines if not line.startswith("-"))]


def make_pair(folder: Path, name: str) -> Pair:
    """A new pair in `folder`; the test is skipped where there is no openssl."""
    pair = Pair(folder / f"{name}.key", folder / f"{name}.pem")
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "3650", "-subj", f"/CN={name}"),
        *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-keyout", str(pair.key), "-out", str(pair.certificate)),
    )
    return pair


def _openssl(*words: str, data: bytes = b"") -> bytes:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("there is no openssl, which makes the keys of this test")
    return subprocess.run([program, *words], input=data, capture_output=True, check=True).stdout
