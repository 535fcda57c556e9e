"""Settings: every variable of the environment, its default, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelbake.errors import RefusedError, UsageError
from modelbake.settings import PUBLIC_HUB, from_environment, weights_policy


def test_an_empty_environment_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    found = from_environment({"HOME": "/home/me"}, tmp_path)
    assert (found.root, found.models_dir, found.bundles_dir) == (tmp_path, tmp_path / "models", tmp_path / "bundles")
    assert found.cache_dir == Path("/home/me/.cache/modelbake")
    assert (found.weights, found.hub_endpoint, found.hub_token, found.hub_offline) == ("auto", PUBLIC_HUB, None, False)
    assert found.ca_bundle is None


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("MODELBAKE_ROOT", "/project", "root", Path("/project")),
        ("MODELBAKE_ROOT", "/project", "models_dir", Path("/project/models")),
        ("MODELBAKE_MODELS", "/m", "models_dir", Path("/m")),
        ("MODELBAKE_CACHE", "/c", "cache_dir", Path("/c")),
        ("XDG_CACHE_HOME", "/x", "cache_dir", Path("/x/modelbake")),
        ("WEIGHTS", "sample", "weights", "sample"),
        ("WEIGHTS", "", "weights", "auto"),
        ("HF_ENDPOINT", "http://hub:1/", "hub_endpoint", "http://hub:1"),
        ("HF_ENDPOINT", "", "hub_endpoint", PUBLIC_HUB),
        ("HF_TOKEN", "secret", "hub_token", "secret"),
        ("HF_TOKEN", " secret\n", "hub_token", "secret"),
        ("HF_TOKEN", " ", "hub_token", None),
        ("HF_HUB_OFFLINE", "1", "hub_offline", True),
        ("HF_HUB_OFFLINE", "TRUE", "hub_offline", True),
        ("HF_HUB_OFFLINE", "0", "hub_offline", False),
        ("MODELBAKE_LOCKED", "1", "locked", True),
        ("MODELBAKE_LOCKED", "", "locked", False),
        ("MODELBAKE_STORE", "/s", "store_dir", Path("/s")),
        ("XDG_DATA_HOME", "/x", "store_dir", Path("/x/modelbake/store")),
        ("COSIGN_PASSWORD", "secret", "key_password", "secret"),
        ("COSIGN_PASSWORD", "", "key_password", ""),
        ("MODELBAKE_THREADS", "3", "threads", 3),
        ("MODELBAKE_THREADS", "", "threads", None),
        ("SUDO_UID", "1000", "sudo_user", 1000),
        ("SUDO_UID", "", "sudo_user", None),
        ("SUDO_UID", "me", "sudo_user", None),
        ("HF_ENDPOINT", "http://hub:1/a@b", "hub_endpoint", "http://hub:1/a@b"),
    ],
)
def test_each_variable_sets_its_field(tmp_path: Path, variable: str, value: str, field: str, expected: Any) -> None:
    assert getattr(from_environment({variable: value}, tmp_path), field) == expected


def test_the_password_of_keys_is_not_shown(tmp_path: Path) -> None:
    assert "marked-secret" not in repr(from_environment({"COSIGN_PASSWORD": "marked-secret"}, tmp_path))


def test_an_endpoint_that_holds_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="HF_TOKEN") as caught:
        from_environment({"HF_ENDPOINT": "https://me:marked-secret@hub.example"}, tmp_path)
    assert "marked-secret" not in str(caught.value)


def test_the_root_is_the_nearest_folder_above_that_has_bundles(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert from_environment({}, tmp_path / "a" / "b").root == tmp_path
    (tmp_path / "a" / "bundles").mkdir()
    assert from_environment({}, tmp_path / "a" / "b").root == tmp_path / "a"


def test_the_token_comes_from_its_file_unless_the_environment_has_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "empty").write_text("\n")
    assert from_environment({"HF_TOKEN_PATH": str(tmp_path / "token")}, tmp_path).hub_token == "from-file"
    assert (
        from_environment({"HF_TOKEN_PATH": str(tmp_path / "token"), "HF_TOKEN": "mine"}, tmp_path).hub_token == "mine"
    )
    assert from_environment({"HF_TOKEN_PATH": str(tmp_path / "empty")}, tmp_path).hub_token is None
    assert from_environment({"HF_TOKEN_PATH": str(tmp_path / "absent")}, tmp_path).hub_token is None
    assert from_environment({"HF_TOKEN_PATH": str(tmp_path)}, tmp_path).hub_token is None


def test_the_ca_bundle_is_the_first_file_that_exists(tmp_path: Path) -> None:
    for name in ("requests", "pip"):
        (tmp_path / name).touch()
    environ = {
        "SSL_CERT_FILE": str(tmp_path / "absent"),
        "REQUESTS_CA_BUNDLE": str(tmp_path / "requests"),
        "PIP_CERT": str(tmp_path / "pip"),
    }
    assert from_environment(environ, tmp_path).ca_bundle == tmp_path / "requests"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_threads_that_are_no_number_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"MODELBAKE_THREADS=.* is no number of threads") as caught:
        from_environment({"MODELBAKE_THREADS": text}, Path("/"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["real", "SAMPLE", "auto "])
def test_an_unknown_policy_is_a_usage_error_that_lists_the_known(text: str) -> None:
    with pytest.raises(UsageError, match="auto, pretrained, sample") as caught:
        weights_policy(text)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError):
        from_environment({"WEIGHTS": text}, Path("/"))
