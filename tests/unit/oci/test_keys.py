"""Keys: what is written can be read, what is damaged, weak or of another kind is refused, secrets stay secret."""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from modelbake.errors import IntegrityError, ModelbakeError, RefusedError, SourceUnreachableError, UsageError
from modelbake.oci import keys
from modelbake.oci.keys import PrivateKey, PublicKey
from tests.unit.oci.trust import PASSWORD, key

DATA = b"what is signed"
PKCS8, SEC1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
KINDS: dict[str, Any] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65537, 2048),
}
PEM = keys.encrypted(KINDS["P-256"], PASSWORD)


def password() -> str:
    return PASSWORD


def never() -> str:
    raise AssertionError("no password is needed")


def pem_of(secret: Any, how: Any = PKCS8, encryption: Any = None) -> bytes:
    written: bytes = secret.private_bytes(serialization.Encoding.PEM, how, encryption or serialization.NoEncryption())
    return written


def public_pem_of(secret: Any) -> bytes:
    return secret.public_key().public_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_each_kind_signs_and_its_public_part_verifies(kind: str) -> None:
    secret = keys.private_key(pem_of(KINDS[kind]), kind, never)
    public = keys.public_key(public_pem_of(KINDS[kind]), kind)
    signature = secret.sign(DATA)
    assert public.verifies(signature, DATA)
    assert not public.verifies(signature, DATA + b".")
    assert not public.verifies(signature[:-1], DATA)
    assert not public.verifies(b"", DATA)
    assert not key("another").public.verifies(signature, DATA)
    assert public.fingerprint == secret.public.fingerprint


def test_the_same_key_signs_the_same_bytes_the_same_way() -> None:
    assert key("a").sign(DATA) == key("a").sign(DATA)


@given(st.binary(max_size=80))
def test_no_bytes_at_all_are_a_signature_of_a_key_that_did_not_make_them(signature: bytes) -> None:
    assert not key("a").public.verifies(signature, DATA)


def test_a_pair_that_was_written_can_be_read_again_and_is_one_pair(tmp_path: Path) -> None:
    private, public = keys.write_pair(tmp_path / "new" / "release", PASSWORD)
    assert (private.name, public.name) == ("release.key", "release.pub")
    signature = keys.read_private(private, password).sign(DATA)
    assert keys.read_public(public).verifies(signature, DATA)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["release.key", "release.pub"])
def test_a_key_that_exists_is_not_written_over_and_nothing_is_left_beside_it(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(RefusedError, match=there):
        keys.write_pair(tmp_path / "release", PASSWORD)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "release.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError):
        keys.write_pair(tmp_path / "release", PASSWORD)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_each_kind_survives_cosign_s_encryption(kind: str) -> None:
    found = keys.private_key(keys.encrypted(KINDS[kind], PASSWORD), kind, password)
    assert found.public.pem() == public_pem_of(KINDS[kind])


def test_an_empty_password_is_a_password() -> None:
    pem = keys.encrypted(KINDS["P-256"], "")
    assert keys.private_key(pem, "k", lambda: "").public.pem() == public_pem_of(KINDS["P-256"])
    with pytest.raises(RefusedError, match="COSIGN_PASSWORD"):
        keys.private_key(pem, "k", password)


def test_the_older_label_is_read_too() -> None:
    older = PEM.replace(keys.SIGSTORE.encode(), keys.COSIGN.encode())
    assert keys.private_key(older, "k", password).public.pem() == public_pem_of(KINDS["P-256"])


def test_a_wrong_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(RefusedError, match="COSIGN_PASSWORD") as caught:
        keys.private_key(PEM, "release.key", lambda: "marked-secret")
    assert "marked-secret" not in str(caught.value)
    assert "release.key" in str(caught.value)


def test_neither_repr_nor_str_shows_a_secret() -> None:
    number = KINDS["P-256"].private_numbers().private_value
    shown = repr(PrivateKey("k", KINDS["P-256"]))
    assert str(number) not in shown
    assert f"{number:x}" not in shown


def test_pkcs8_under_a_password_is_read_and_a_wrong_password_refused() -> None:
    pem = pem_of(KINDS["P-256"], PKCS8, serialization.BestAvailableEncryption(PASSWORD.encode()))
    assert keys.private_key(pem, "k", password).public.pem() == public_pem_of(KINDS["P-256"])
    for wrong in ("other", ""):
        with pytest.raises(RefusedError, match="COSIGN_PASSWORD"):
            keys.private_key(pem, "k", lambda wrong=wrong: wrong)  # type: ignore[misc]


@pytest.mark.parametrize(
    "front", [b"", b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"]
)
def test_sec1_as_openssl_writes_it_is_read(front: bytes) -> None:
    found = keys.private_key(front + pem_of(KINDS["P-256"], SEC1), "k", never)
    assert found.public.pem() == public_pem_of(KINDS["P-256"])


def changed(**fields: Any) -> bytes:
    """PEM's document with other fields."""
    body = base64.b64decode(b"".join(PEM.splitlines()[1:-1]))
    document = msgspec.json.decode(body)
    for path, value in fields.items():
        place = document
        *parents, last = path.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    text = base64.b64encode(msgspec.json.encode(document))
    return f"-----BEGIN {keys.SIGSTORE}-----\n{text.decode()}\n-----END {keys.SIGSTORE}-----\n".encode()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"kdf__params__N": 1 << 18}, RefusedError, "asks for scrypt"),
        ({"kdf__params__N": 1 << 30}, RefusedError, "asks for scrypt"),
        ({"kdf__params__N": 65537}, RefusedError, "asks for scrypt"),
        ({"kdf__params__N": 1}, RefusedError, "asks for scrypt"),
        ({"kdf__params__N": -65536}, RefusedError, "asks for scrypt"),
        ({"kdf__params__r": 1 << 20}, RefusedError, "asks for scrypt"),
        ({"kdf__params__r": 0}, RefusedError, "asks for scrypt"),
        ({"kdf__params__p": 1000}, RefusedError, "asks for scrypt"),
        ({"kdf__params__p": 2}, RefusedError, "asks for scrypt"),
        ({"kdf__name": "md5"}, IntegrityError, "as cosign writes it"),
        ({"cipher__name": "rot13"}, IntegrityError, "as cosign writes it"),
        ({"cipher__nonce": "AAAA"}, IntegrityError, "as cosign writes it"),
        ({"kdf__salt": ""}, IntegrityError, "as cosign writes it"),
        ({"kdf": None}, IntegrityError, "as cosign writes it"),
        ({"ciphertext": ""}, RefusedError, "does not open"),
        ({"ciphertext": "%%%"}, IntegrityError, "as cosign writes it"),
    ],
)
def test_an_encrypted_key_that_asks_for_something_else_is_not_tried(
    fields: Any, error: type[Exception], message: str
) -> None:
    assert keys.private_key(changed(), "k", password).public.pem() == public_pem_of(KINDS["P-256"])
    with pytest.raises(error, match=f"^k .*{message}"):
        keys.private_key(changed(**fields), "k", password)


@pytest.mark.parametrize("n", [1 << 15, 1 << 17])
def test_the_work_factors_of_other_versions_of_cosign_are_taken(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_SCRYPT_N", n)
    pem = keys.encrypted(KINDS["P-256"], PASSWORD)
    monkeypatch.undo()
    assert keys.private_key(pem, "k", password).public.pem() == public_pem_of(KINDS["P-256"])


@pytest.mark.parametrize("length", range(0, len(PEM) - 1, 29))
def test_a_truncated_private_key_is_an_error_of_ours(length: int) -> None:
    with pytest.raises(IntegrityError, match=r"^k "):
        keys.private_key(PEM[:length], "k", password)


@given(
    st.binary(max_size=300), st.sampled_from([keys.SIGSTORE, "PRIVATE KEY", "PUBLIC KEY", "EC PRIVATE KEY", "NONSENSE"])
)
def test_any_bytes_are_a_key_or_an_error_of_ours(body: bytes, label: str) -> None:
    for data in (body, b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label.encode(), body, label.encode())):
        for read in (lambda data: keys.private_key(data, "k", password), lambda data: keys.public_key(data, "k")):
            with pytest.raises(ModelbakeError, match=r"^k "):
                read(data)


WEAK: dict[str, Any] = {
    "RSA of 1024 bits": rsa.generate_private_key(65537, 1024),
    "P-192": ec.generate_private_key(ec.SECP192R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "DSA": dsa.generate_private_key(2048),
    "X25519": x25519.X25519PrivateKey.generate(),
}


@pytest.mark.parametrize("kind", WEAK)
def test_weak_keys_and_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(RefusedError, match="kind that is not taken"):
        keys.public_key(public_pem_of(WEAK[kind]), "k")
    with pytest.raises(RefusedError, match="kind that is not taken"):
        keys.private_key(pem_of(WEAK[kind]), "k", never)


def test_each_half_of_a_pair_says_where_it_does_not_belong() -> None:
    with pytest.raises(UsageError, match=r"\.pub"):
        keys.public_key(PEM, "k")
    with pytest.raises(UsageError, match=r"\.key"):
        keys.private_key(public_pem_of(KINDS["P-256"]), "k", never)


def test_of_two_keys_in_a_file_none_is_guessed() -> None:
    both = public_pem_of(KINDS["P-256"]) + public_pem_of(KINDS["P-384"])
    with pytest.raises(IntegrityError, match="2 PEM blocks"):
        keys.public_key(both, "k")


def test_a_file_that_is_not_there_or_far_too_large_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachableError, match=r"none\.pub"):
        keys.read_public(tmp_path / "none.pub")
    with pytest.raises(SourceUnreachableError):
        keys.read_private(tmp_path, password)
    (tmp_path / "large").write_bytes(PEM + bytes(1 << 17))
    with pytest.raises(IntegrityError, match="is no key"):
        keys.read_private(tmp_path / "large", password)


def test_a_fingerprint_is_the_key_s_whatever_its_file_is_called() -> None:
    one, other = (PublicKey(name, KINDS["P-256"].public_key()) for name in ("a", "b"))
    assert one.fingerprint == other.fingerprint != key("c").public.fingerprint
