"""scripts/chromium.sh: which browser it finds, and what it says where it can give none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "chromium.sh"
TOOLS = ("bash", "dirname", "sed", "tr", "id", "mktemp", "cat")


def chromium(*words: str, path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The script with nothing on PATH but `path` and the few tools that it needs."""
    for name in TOOLS:
        found = shutil.which(name)
        if found is not None and not (path / name).exists():
            (path / name).symlink_to(found)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MODELBAKE_")}
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        env=clean | {"PATH": str(path)} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"])
def test_a_browser_that_is_there_is_used(tmp_path: Path, name: str) -> None:
    browser = program(tmp_path / name)
    assert chromium("path", path=tmp_path).stdout.strip() == str(browser)
    assert f"{browser} is there" in chromium("install", path=tmp_path).stdout


def test_the_environment_names_another(tmp_path: Path) -> None:
    program(tmp_path / "chromium")
    other = program(tmp_path / "other")
    assert chromium("path", path=tmp_path, MODELBAKE_CHROMIUM=str(other)).stdout.strip() == str(other)


@pytest.mark.parametrize("word", ["install", "path"])
def test_a_name_that_is_no_program_is_said(tmp_path: Path, word: str) -> None:
    program(tmp_path / "chromium")
    done = chromium(word, path=tmp_path, MODELBAKE_CHROMIUM="/nowhere/browser")
    assert done.returncode in (3, 7)
    assert "/nowhere/browser, which is no program" in done.stderr


def test_without_a_browser_the_path_is_exit_3(tmp_path: Path) -> None:
    assert chromium("path", path=tmp_path).returncode == 3


def test_on_another_system_it_says_what_to_install(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=other\n")
    done = chromium("install", path=tmp_path, MODELBAKE_OS_RELEASE=str(release))
    assert done.returncode == 7
    assert "install Chromium or Chrome, or name one in MODELBAKE_CHROMIUM" in done.stderr


def test_on_debian_it_installs_debian_s_package(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=debian\n")
    # A stub of apt-get that brings the program; root by a stub of id.
    (tmp_path / "id").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "env").symlink_to(shutil.which("env") or "")
    (tmp_path / "rm").symlink_to(shutil.which("rm") or "")
    (tmp_path / "chmod").symlink_to(shutil.which("chmod") or "")
    apt = f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '#!/bin/sh' > {tmp_path}/chromium\nchmod +x {tmp_path}/chromium\n"
    (tmp_path / "apt-get").write_text(apt)
    for name in ("id", "apt-get"):
        (tmp_path / name).chmod(0o755)
    done = chromium("install", path=tmp_path, MODELBAKE_OS_RELEASE=str(release))
    assert done.returncode == 0, done.stderr
    assert f"installed {tmp_path}/chromium" in done.stdout
    assert (tmp_path / "asked").read_text().split()[-1] == "chromium"


@pytest.mark.parametrize("words", [[], ["other"], ["path", "more"]])
def test_other_words_are_a_usage_error(tmp_path: Path, words: list[str]) -> None:
    assert chromium(*words, path=tmp_path).returncode == 2
