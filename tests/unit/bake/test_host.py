"""What a build takes from this host: pip's configuration as far as it means something inside, and never a local path."""

from __future__ import annotations

import configparser
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.bake import host
from modelbake.bake.host import CA_BUNDLE, WHEELS, build_pip_conf, host_inputs, parse_pip_config
from modelbake.settings import from_environment


def read(conf: str | None) -> dict[str, str]:
    """The options of a pip.conf as pip reads them, lists on one line."""
    parser = configparser.RawConfigParser()
    parser.read_string(conf or "")
    assert parser.sections() in ([], ["global"])
    return {name: " ".join(value.split()) for name, value in parser["global"].items()} if parser.sections() else {}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("", {}),
        ("global.index-url='https://index/simple'\n", {"index-url": "https://index/simple"}),
        ("global.timeout='5'\ninstall.timeout='9'\n", {"timeout": "9"}),
        (":env:.timeout='1'\nglobal.timeout='5'\n", {"timeout": "1"}),
        ("global.timeout='5'\n:env:.timeout='1'\n", {"timeout": "1"}),
        ("global.find-links='\\n/a\\n/b'\n", {"find-links": "\n/a\n/b"}),
        ("global.index-url='https://me:a=b@index/'\n", {"index-url": "https://me:a=b@index/"}),
        ('global.index-url="https://o\'brien@index/"\n', {"index-url": "https://o'brien@index/"}),
        ("download.index-url='https://other/'\n", {}),
        ("WARNING: something else\nno equals sign\n=\nglobal.x=unquoted\nglobal.y='open\n", {}),
    ],
)
def test_pip_s_own_list_of_its_configuration_is_read(listed: str, expected: dict[str, str]) -> None:
    assert parse_pip_config(listed) == expected


@given(st.text(max_size=80))
def test_any_text_is_read_without_an_error(listed: str) -> None:
    assert isinstance(parse_pip_config(listed), dict)
    assert isinstance(parse_pip_config(f"global.index-url={listed}"), dict)


def test_what_pip_prints_is_what_is_read() -> None:
    import subprocess

    environ = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "https://me:pass@index.example/simple", "PATH": ""}
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert parse_pip_config(listed)["index-url"] == "https://me:pass@index.example/simple"


def test_addresses_and_what_belongs_to_them_are_kept_credentials_too() -> None:
    configured = {
        "index-url": "https://me:p%40ss@index/simple",
        "extra-index-url": "https://one/simple\nHTTP://two/simple",
        "trusted-host": "index two:8080",
        "find-links": "https://three/wheels/",
        "proxy": "http://proxy:3128",
        "timeout": "60",
        "no-index": "false",
        "only-binary": ":all:",
        "prefer-binary": "true",
    }
    conf, wheels = build_pip_conf(configured, with_ca=False)
    assert wheels is None
    assert read(conf) == {name: " ".join(value.split()) for name, value in configured.items()}


def test_what_does_not_say_where_packages_come_from_is_left_out() -> None:
    assert build_pip_conf({"user": "true", "cert": "/ca.pem", "target": "/here", "cache-dir": "/c"}, with_ca=False) == (
        None,
        None,
    )


def test_a_ca_bundle_is_named_where_the_build_has_it() -> None:
    assert read(build_pip_conf({}, with_ca=True)[0]) == {"cert": CA_BUNDLE}


def test_the_first_wheel_folder_that_exists_is_mounted(tmp_path: Path) -> None:
    first, second = tmp_path / "with space" / "a", tmp_path / "b"
    second.mkdir()
    first.mkdir(parents=True)
    address = first.as_uri()
    assert "%20" in address
    conf, wheels = build_pip_conf({"find-links": f"/absent {address} {second} https://more/"}, with_ca=False)
    assert wheels == first
    assert read(conf) == {"find-links": f"https://more/ {WHEELS}"}


def test_a_wheel_folder_below_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    assert build_pip_conf({"find-links": "~/wheels"}, with_ca=False)[1] == tmp_path / "wheels"


def test_a_relative_wheel_folder_is_local_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wheels").mkdir()
    conf, wheels = build_pip_conf({"find-links": "wheels", "index-url": "https://index/"}, with_ca=False)
    assert wheels == Path("wheels")
    assert read(conf) == {"index-url": "https://index/", "find-links": WHEELS}


def test_a_local_index_stays_behind() -> None:
    for local in ("file:///srv/simple", "/srv/simple", "~/simple", "./simple", "simple"):
        assert build_pip_conf({"index-url": local, "extra-index-url": local}, with_ca=False) == (None, None)


WORDS = st.one_of(
    st.sampled_from(
        [
            "/",
            "/srv/wheels",
            "~",
            "~nobody/x",
            ".",
            "..",
            "../x",
            "wheels",
            "FILE:///srv",
            "file:x",
            "file://[",
            "http://[",
        ]
    ),
    st.from_regex(r"(https?|file|/|~|\./|)(://)?[a-z%@:/.~-]{1,12}", fullmatch=True),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12),
)


@given(
    options=st.dictionaries(
        st.sampled_from(["index-url", "extra-index-url", "find-links"]),
        st.lists(WORDS, min_size=1, max_size=4),
        min_size=1,
    )
)
def test_no_local_path_but_the_mount_gets_into_the_build(options: dict[str, list[str]]) -> None:
    conf, wheels = build_pip_conf({name: "\n".join(words) for name, words in options.items()}, with_ca=False)
    for name, value in read(conf).items():
        for word in value.split():
            mount = name == "find-links" and word == WHEELS and wheels is not None
            assert mount or word.lower().startswith(("http://", "https://"))


def test_the_host_s_inputs_are_only_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in (
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_CERT",
        "PIP_TRUSTED_HOST",
        "PIP_NO_INDEX",
        "PIP_TIMEOUT",
        "PIP_DEFAULT_TIMEOUT",
        "PIP_RETRIES",
        "PIP_PROXY",
        "PIP_PREFER_BINARY",
        "PIP_ONLY_BINARY",
    ):
        monkeypatch.delenv(name, raising=False)
    settings = from_environment({}, tmp_path)
    assert host_inputs(settings) == host.HostInputs(None, None, None, None)

    (tmp_path / "ca.pem").touch()
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@index/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "ca.pem"))
    found = host_inputs(replace(settings, hub_token="token"))
    assert (found.wheels, found.ca_bundle, found.hub_token) == (tmp_path / "wheels", tmp_path / "ca.pem", "token")
    assert read(found.pip_conf) == {
        "index-url": "https://me:secret@index/simple",
        "find-links": WHEELS,
        "cert": CA_BUNDLE,
    }
