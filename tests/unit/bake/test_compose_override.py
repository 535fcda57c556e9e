"""compose.override.yaml: this host's inputs and no more, and never over somebody's own file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml

from modelbake.bake.compose import MARK, OVERRIDE_NAME, override, write_override
from modelbake.bake.host import HostInputs
from modelbake.errors import RefusedError

NOTHING = HostInputs(None, None, None, None)
SECRET = "[global]\nindex-url = https://me:marked-secret@index.example/simple\n"


def everything(folder: Path) -> HostInputs:
    (folder / "wheels").mkdir()
    (folder / "ca.pem").write_text("certificates")
    return HostInputs(SECRET, folder / "wheels", folder / "ca.pem", "hub-token")


def test_a_host_without_any_needs_no_file(tmp_path: Path) -> None:
    assert override(NOTHING, tmp_path / "pip.conf") == {}
    assert write_override(tmp_path, NOTHING) is None
    assert list(tmp_path.iterdir()) == []


def test_the_build_gets_secrets_and_the_fetcher_gets_the_same_files(tmp_path: Path) -> None:
    path = write_override(tmp_path, everything(tmp_path))

    assert path == tmp_path / OVERRIDE_NAME
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found == {
        "services": {
            "model-converter": {
                "build": {
                    "secrets": ["pipconf", "ca"],
                    "additional_contexts": {"wheels": str(tmp_path / "wheels")},
                }
            },
            "weights": {
                "secrets": [
                    {"source": "pipconf", "target": "/etc/pip.conf"},
                    {"source": "ca", "target": "/etc/ssl/certs/ca-certificates.crt"},
                ],
                "volumes": [
                    {
                        "type": "bind",
                        "source": str(tmp_path / "wheels"),
                        "target": "/mnt/wheels",
                        "read_only": True,
                    }
                ],
            },
        },
        "secrets": {
            "pipconf": {"file": str(tmp_path / ".compose" / "pip.conf")},
            "ca": {"file": str(tmp_path / "ca.pem")},
        },
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_pip_keeps_secret_is_in_a_folder_that_others_may_not_enter(tmp_path: Path) -> None:
    # As an earlier version left it.
    (tmp_path / ".compose").mkdir(mode=0o755)
    path = write_override(tmp_path, everything(tmp_path))

    assert path is not None
    assert "marked-secret" not in path.read_text(encoding="utf-8")
    assert "hub-token" not in path.read_text(encoding="utf-8")
    pip_conf = tmp_path / ".compose" / "pip.conf"
    assert pip_conf.read_text(encoding="utf-8") == SECRET
    assert mode(pip_conf.parent) == 0o700


def test_a_container_reads_it_whatever_user_it_runs_as_and_nobody_writes_it(tmp_path: Path) -> None:
    # Mounted as it is, without its folder: MODELBAKE_USER may be changed after `make compose`.
    for _ in range(2):
        write_override(tmp_path, HostInputs(SECRET, None, None, None))
        assert mode(tmp_path / ".compose" / "pip.conf") == 0o444


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_who_became_root_by_sudo_may_enter_the_folder(tmp_path: Path) -> None:
    write_override(tmp_path, HostInputs(SECRET, None, None, None), 4711)
    assert (tmp_path / ".compose").stat().st_uid == 4711


def test_only_a_wheel_folder_needs_no_secrets(tmp_path: Path) -> None:
    found = override(HostInputs(None, tmp_path, None, None), tmp_path / "pip.conf")
    assert "secrets" not in found
    assert "secrets" not in found["services"]["weights"]


def test_a_dollar_sign_in_a_path_is_no_variable_to_compose(tmp_path: Path) -> None:
    wheels = tmp_path / "${HOME}"
    wheels.mkdir()
    path = write_override(tmp_path, HostInputs(None, wheels, None, None))
    assert path is not None
    assert f'"{tmp_path}/$${{HOME}}"' in path.read_text(encoding="utf-8")


def test_what_is_needed_no_more_is_gone(tmp_path: Path) -> None:
    write_override(tmp_path, everything(tmp_path))
    assert write_override(tmp_path, NOTHING) is None
    assert not (tmp_path / OVERRIDE_NAME).exists()
    assert not (tmp_path / ".compose" / "pip.conf").exists()


def test_a_file_of_somebody_elses_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / OVERRIDE_NAME
    path.write_text("services: {}\n")
    for host in (NOTHING, HostInputs(None, tmp_path, None, None)):
        with pytest.raises(RefusedError, match="COMPOSE_FILE"):
            write_override(tmp_path, host)
    assert path.read_text() == "services: {}\n"


def test_its_own_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / OVERRIDE_NAME
    path.write_text(f"{MARK}\nold\n")
    assert write_override(tmp_path, HostInputs(None, tmp_path, None, None)) == path
    assert "old" not in path.read_text()
