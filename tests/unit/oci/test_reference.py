"""Names in a registry: the grammar that docker, containerd and oras share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.errors import UsageError
from modelbake.oci.reference import Reference, parse

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:5000/models/minilm:1.0.0", Reference("localhost:5000", "models/minilm", "1.0.0")),
        ("localhost/minilm", Reference("localhost", "minilm")),
        ("registry:5000/a", Reference("registry:5000", "a")),
        ("example.com/a/b/c:t", Reference("example.com", "a/b/c", "t")),
        ("EXAMPLE.com/a", Reference("EXAMPLE.com", "a")),
        ("127.0.0.1:5000/a:t", Reference("127.0.0.1:5000", "a", "t")),
        ("[::1]:5000/a:t", Reference("[::1]:5000", "a", "t")),
        ("[::1]/a", Reference("[::1]", "a")),
        (f"example.com/a@{DIGEST}", Reference("example.com", "a", None, DIGEST)),
        (f"example.com/a:t@{DIGEST}", Reference("example.com", "a", "t", DIGEST)),
        ("python:3.11-slim", Reference("docker.io", "library/python", "3.11-slim")),
        ("kserve/agent", Reference("docker.io", "kserve/agent")),
        ("a/b__c.d--e_f:T_1.2-x", Reference("docker.io", "a/b__c.d--e_f", "T_1.2-x")),
    ],
)
def test_names_as_docker_reads_them(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "example.com/",
        "example.com/A",
        "example.com/a//b",
        "example.com/a/../b",
        "example.com/../a",
        "example.com/./a",
        "example.com/a:",
        "example.com/a:.hidden",
        f"example.com/a:{'t' * 129}",
        "example.com/a@sha256:abc",
        f"example.com/a@sha256:{HEX.upper()}",
        f"example.com/a@sha512:{HEX}{HEX}",
        f"example.com/a@{DIGEST}0",
        "example.com:/a",
        "example.com:65536/a",
        "example.com:99999/a",
        "user:secret@example.com/a",
        "https://example.com/a",
        "example..com/a",
        "-example.com/a",
        ".com/a",
        "[::1/a",
        "[g::1]/a",
        "example.com/a b",
        "example.com/a\n",
        "example.com/a:t\n",
        "example.com/é",
        "example.com/a?b",
        "example.com/a%2e",
        f"example.com/{'a' * 600}",
        "store:minilm\0",
    ],
)
def test_what_is_no_name_is_a_usage_error_that_shows_one(text: str) -> None:
    with pytest.raises(UsageError, match="is no name in a registry; write HOST/REPOSITORY:TAG, like localhost:5000"):
        parse(text)


COMPONENT = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
REFERENCES = st.builds(
    Reference,
    st.sampled_from(
        ["localhost:5000", "localhost", "example.com", "a.b-c.d:1", "10.0.0.1:65535", "[2001:db8::1]:443", "docker.io"]
    ),
    st.lists(COMPONENT, min_size=2, max_size=4).map("/".join),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.none() | st.just(DIGEST),
)


@given(REFERENCES)
def test_a_reference_as_text_is_the_reference_again(reference: Reference) -> None:
    assert parse(str(reference)) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        found = parse(text)
    except UsageError:
        return
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        (Reference("h", "a"), "latest"),
        (Reference("h", "a", "t"), "t"),
        (Reference("h", "a", "t", DIGEST), DIGEST),
    ],
)
def test_a_digest_wins_over_a_tag_and_a_tag_over_latest(reference: Reference, target: str) -> None:
    assert reference.target == target


def test_another_target_takes_the_place_of_tag_and_digest() -> None:
    both = Reference("h", "a", "t", DIGEST)

    assert both.at("new") == Reference("h", "a", "new")
    assert both.at(DIGEST) == Reference("h", "a", None, DIGEST)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.10", True),
        ("[::1]:5000", True),
        ("10.0.0.1:5000", False),
        ("example.com", False),
        # Whether these lead to this machine is the resolver's choice.
        ("registry.localhost:5000", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("127.1", False),
    ],
)
def test_plain_http_is_for_this_machine_alone(host: str, loopback: bool) -> None:
    assert parse(f"{host}/a").is_loopback is loopback


@pytest.mark.parametrize("text", ["store:minilm", "docker:runtime", "store:minilm@sha256:" + "0" * 64])
def test_what_the_store_or_the_engine_is_meant_by_is_never_docker_hub_s(text: str) -> None:
    with pytest.raises(UsageError, match="Docker Hub"):
        parse(text)
    assert parse(f"docker.io/library/{text}").host == "docker.io"
