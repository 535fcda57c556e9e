"""Keys that sign and verify: PEM public keys, PKCS #8 and SEC 1 private keys, and cosign's own encrypted private keys.

Formats: RFC 7468 (PEM), RFC 5958 (PKCS #8), RFC 5915 (SEC 1); cosign's private keys are what go-securesystemslib's `encrypted`
package writes: JSON that names scrypt's parameters (RFC 7914) and holds a NaCl secretbox over the PKCS #8 bytes, in a PEM block.
Signatures are those that cosign takes: ECDSA over SHA-256 as ASN.1, RSA PKCS #1 v1.5 over SHA-256, or Ed25519.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from msgspec import Meta, Struct
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from modelbake.errors import IntegrityError, RefusedError, SourceUnreachableError, UsageError
from modelbake.files import disk_errors

# cosign 2 writes the first; cosign 1 wrote the second, and cosign 2 reads both.
SIGSTORE = "ENCRYPTED SIGSTORE PRIVATE KEY"
COSIGN = "ENCRYPTED COSIGN PRIVATE KEY"

# What cosign writes. Other versions of it take other N, half and twice as large; more could only be meant to exhaust the machine.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 16, 8, 1
_SCRYPT_NS = (1 << 15, 1 << 16, 1 << 17)
# Bytes that hashlib may take for it: 128 N r, and a little.
_SCRYPT_MEMORY = 256 << 20
_LARGEST_FILE = 1 << 16
_FEWEST_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----", re.DOTALL)

_Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
_Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
_SHA256 = hashes.SHA256()


@dataclass(frozen=True)
class PublicKey:
    """A public key and what messages call it. Two of the same `fingerprint` are one key, whatever their names."""

    name: str
    key: _Public

    @property
    def fingerprint(self) -> str:
        """`sha256:` and the SHA-256 of the key's SubjectPublicKeyInfo (DER) in hexadecimal."""
        return f"sha256:{hashlib.sha256(self._encoded(serialization.Encoding.DER)).hexdigest()}"

    def pem(self) -> bytes:
        """The key as a PEM document."""
        return self._encoded(serialization.Encoding.PEM)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the signature is this key's over these bytes."""
        try:
            match self.key:
                case ec.EllipticCurvePublicKey():
                    self.key.verify(signature, data, ec.ECDSA(_SHA256))
                case rsa.RSAPublicKey():
                    self.key.verify(signature, data, padding.PKCS1v15(), _SHA256)
                case ed25519.Ed25519PublicKey():
                    self.key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def _encoded(self, encoding: serialization.Encoding) -> bytes:
        return self.key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class PrivateKey:
    """A private key and what messages call it; `repr` and messages hold nothing of its secret."""

    name: str
    key: _Private

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.name, self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        """The key's signature over the bytes; the same each time, where the machine's library can do that (RFC 6979)."""
        match self.key:
            case ec.EllipticCurvePrivateKey():
                with suppress(UnsupportedAlgorithm):
                    return self.key.sign(data, ec.ECDSA(_SHA256, deterministic_signing=True))
                return self.key.sign(data, ec.ECDSA(_SHA256))
            case rsa.RSAPrivateKey():
                return self.key.sign(data, padding.PKCS1v15(), _SHA256)
            case ed25519.Ed25519PrivateKey():
                return self.key.sign(data)


class _ScryptParams(Struct, frozen=True):
    n: int = msgspec.field(name="N")
    r: int
    p: int


class _Kdf(Struct, frozen=True):
    name: Literal["scrypt"]
    params: _ScryptParams
    salt: Annotated[bytes, Meta(min_length=8, max_length=1024)]


class _Cipher(Struct, frozen=True):
    name: Literal["nacl/secretbox"]
    nonce: Annotated[bytes, Meta(min_length=24, max_length=24)]


class _Encrypted(Struct, frozen=True):
    kdf: _Kdf
    cipher: _Cipher
    ciphertext: bytes


def read_public(path: Path) -> PublicKey:
    """The public key in the file; SourceUnreachableError where it cannot be read, else as `public_key`."""
    return public_key(_read(path), str(path))


def public_key(pem: bytes, name: str) -> PublicKey:
    """The public key of a PEM document. IntegrityError where it holds none, RefusedError for a kind or size that is not safe."""
    label, _ = _block(pem, name)
    if "PRIVATE KEY" in label:
        raise UsageError(
            f"{name} is a private key, and verifying takes the public one: give the .pub file of the pair, and keep this one secret."
        )
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IntegrityError(
            f"{name} holds no public key that can be read ({error}); give a PEM public key."
        ) from error
    return PublicKey(name, _known(key, name))


def read_private(path: Path, password: Callable[[], str]) -> PrivateKey:
    """The private key in the file; SourceUnreachableError where it cannot be read, else as `private_key`."""
    return private_key(_read(path), str(path), password)


def private_key(pem: bytes, name: str, password: Callable[[], str]) -> PrivateKey:
    """The private key of a PEM document; `password` is asked where it is encrypted.

    IntegrityError where the document is damaged, RefusedError for a wrong password and for a kind or size that is not safe.
    """
    label, body = _block(pem, name)
    wrong = RefusedError(f"{name} does not open with this password; set COSIGN_PASSWORD to the right one.")
    try:
        if label in (SIGSTORE, COSIGN):
            key = serialization.load_der_private_key(_decrypted(body, name, password, wrong), None)
        elif label in ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"):
            key = serialization.load_pem_private_key(pem, None)
        elif label == "ENCRYPTED PRIVATE KEY":
            # A wrong password and a damaged document look the same.
            try:
                key = serialization.load_pem_private_key(pem, password().encode() or None)
            except (ValueError, TypeError) as error:
                raise wrong from error
        else:
            raise UsageError(
                f"{name} holds a {label}, and signing takes a private key: give the .key file of the pair."
            )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IntegrityError(
            f"{name} holds no private key that can be read ({error}); take it from a backup."
        ) from error
    found = PrivateKey(name, _known_private(key, name))
    _known(found.public.key, name)
    return found


def generate() -> ec.EllipticCurvePrivateKey:
    """A new key of the kind that cosign makes: ECDSA on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def encrypted(key: _Private, password: str) -> bytes:
    """The private key as cosign writes it, under the password."""
    salt, nonce = os.urandom(32), os.urandom(SecretBox.NONCE_SIZE)
    params = _ScryptParams(_SCRYPT_N, _SCRYPT_R, _SCRYPT_P)
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    box = SecretBox(_derived(password, salt, params))
    document = _Encrypted(
        _Kdf("scrypt", params, salt), _Cipher("nacl/secretbox", nonce), box.encrypt(plain, nonce).ciphertext
    )
    text = base64.b64encode(msgspec.json.encode(document))
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([f"-----BEGIN {SIGSTORE}-----".encode(), *lines, f"-----END {SIGSTORE}-----".encode(), b""])


def write_pair(prefix: Path, password: str) -> tuple[Path, Path]:
    """A new pair as PREFIX.key, which only its owner may read, and PREFIX.pub.

    RefusedError where one of them exists: a key that is lost takes what it signed with it.
    """
    key = generate()
    files = {
        prefix.with_name(f"{prefix.name}.key"): (encrypted(key, password), 0o600),
        prefix.with_name(f"{prefix.name}.pub"): (PublicKey("", key.public_key()).pem(), 0o644),
    }
    written: list[Path] = []
    try:
        for path, (data, mode) in files.items():
            if path.is_symlink() or path.exists():
                raise RefusedError(f"{path} exists and is not written over; choose another prefix, or move it away.")
            with disk_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                written.append(path)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    private, public = files
    return private, public


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise SourceUnreachableError(
            f"The key {path} cannot be read ({error.strerror}); give the path of a key file."
        ) from error
    if len(data) > _LARGEST_FILE:
        raise IntegrityError(
            f"{path} has more than {_LARGEST_FILE:,} bytes and is no key; give the path of a key file."
        )
    return data


def _block(pem: bytes, name: str) -> tuple[str, bytes]:
    """The label and the bytes of the document's only PEM block; of several, nobody could say which one counts."""
    blocks = _PEM.findall(pem)
    # openssl writes the curve's parameters in front of a SEC 1 key.
    blocks = [block for block in blocks if block[0] != b"EC PARAMETERS"]
    if len(blocks) != 1:
        raise IntegrityError(
            f"{name} holds {len(blocks) or 'no'} PEM blocks in place of one key; give a whole PEM file."
        )
    label, body = blocks[0]
    return label.decode(), body


def _decrypted(body: bytes, name: str, password: Callable[[], str], wrong: RefusedError) -> bytes:
    try:
        found = msgspec.json.decode(base64.b64decode(b"".join(body.split()), validate=True), type=_Encrypted)
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error) as error:
        raise IntegrityError(f"{name} is no key as cosign writes it ({error}); take it from a backup.") from error
    params = found.kdf.params
    if (params.r, params.p) != (_SCRYPT_R, _SCRYPT_P) or params.n not in _SCRYPT_NS:
        raise RefusedError(
            f"{name} asks for scrypt with N={params.n}, r={params.r}, p={params.p}, which no cosign writes; it is not tried."
        )
    try:
        return SecretBox(_derived(password(), found.kdf.salt, params)).decrypt(found.ciphertext, found.cipher.nonce)
    except (CryptoError, ValueError) as error:
        raise wrong from error


def _derived(password: str, salt: bytes, params: _ScryptParams) -> bytes:
    return hashlib.scrypt(
        password.encode(),
        salt=salt,
        n=params.n,
        r=params.r,
        p=params.p,
        maxmem=_SCRYPT_MEMORY,
        dklen=SecretBox.KEY_SIZE,
    )


def _known(key: object, name: str) -> _Public:
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _FEWEST_RSA_BITS:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise _unsafe(key, name)


def _known_private(key: object, name: str) -> _Private:
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        return key
    raise _unsafe(key, name)


def _unsafe(key: object, name: str) -> RefusedError:
    bits = f" of {key.key_size} bits" if isinstance(key, rsa.RSAPublicKey) else ""
    kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.strip("_")
    return RefusedError(
        f"{name} is a key of a kind that is not taken ({kind}{bits}); use ECDSA on P-256 (modelbake sign --generate-key), P-384 or "
        "P-521, Ed25519, or RSA of 2048 bits or more."
    )
