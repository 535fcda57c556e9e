"""registry_tools.sh driven with stub commands: which programs it finds, what it unpacks, and what it says where it cannot."""

from __future__ import annotations

import subprocess

import pytest

from tests.unit.scripts.machine import BOOKWORM, ONE_LINE, Machine
from tests.unit.scripts.machine import machine as machine

SCRIPT = "registry_tools.sh"
UNPACKED = ("docker-registry", "oras", "cosign")
TOOLS = (*UNPACKED, "skopeo")


@pytest.fixture
def debian(machine: Machine) -> Machine:
    """A Debian whose apt has the programs; its first `failures` calls of a kind fail, where a test says so."""
    machine.apt()
    machine.sources("sources.list", ONE_LINE)
    machine.stub("sleep", f'echo "$1" >>{machine.root}/slept')
    unpack = "; ".join(f'echo "#!/bin/bash" >"$3/usr/bin/{name}"; chmod 755 "$3/usr/bin/{name}"' for name in UNPACKED)
    machine.stub("dpkg", f'mkdir -p "$3/usr/bin"; {unpack}')
    apt_get(machine)
    return machine


def apt_get(machine: Machine, failures: int = 0, of: str = "download") -> None:
    root = machine.root
    machine.stub(
        "apt-get",
        f"""echo "apt-get $*" >>{root}/calls
        for word in "$@"; do case $word in
            Dir::Etc::sourceparts=*) rm -rf {root}/seen; cp -r "${{word#*=}}" {root}/seen ;;
            {of}) echo x >>{root}/tried; [[ $(grep -c x {root}/tried) -gt {failures} ]] || {{ echo "503 busy" >&2; exit 100; }} ;;&
            download) touch tools.deb ;;
            skopeo) echo "#!/bin/bash" >{root}/bin/skopeo; chmod 755 {root}/bin/skopeo ;;
        esac; done""",
    )


def lines(machine: Machine) -> list[str]:
    return [str(machine.state / "prefix/usr/bin" / name) for name in UNPACKED] + [str(machine.root / "bin/skopeo")]


@pytest.mark.parametrize("arguments", [(), ("fly",), ("path", "oras")])
def test_a_usage_error_exits_2_and_shows_the_commands(machine: Machine, arguments: tuple[str, ...]) -> None:
    done = machine.run(SCRIPT, *arguments)
    assert done.returncode == 2
    assert "install|path|env" in done.stderr
    assert done.stdout == ""


def test_what_is_on_the_path_is_used(machine: Machine) -> None:
    for name in TOOLS:
        machine.stub(name, "true")
    found = [str(machine.root / "bin" / name) for name in TOOLS]
    assert machine.run(SCRIPT, "install").stdout.splitlines() == found
    assert machine.run(SCRIPT, "path").stdout.splitlines() == found
    done = machine.run(SCRIPT, "env")
    assert (done.returncode, done.stdout) == (0, "")
    assert not machine.state.exists()


@pytest.mark.parametrize("command", ["path", "env"])
def test_what_is_missing_is_named_and_exits_3(machine: Machine, command: str) -> None:
    machine.stub("oras", "true")
    done = machine.run(SCRIPT, command)
    assert (done.returncode, done.stdout) == (3, "")
    assert "not found: docker-registry, cosign, skopeo. Say scripts/registry_tools.sh install" in done.stderr


@pytest.mark.parametrize(
    ("release", "root", "named"),
    [("ID=fedora\n", True, "on Debian only"), (BOOKWORM, False, "as root")],
)
def test_a_machine_that_cannot_exits_7_and_says_what_to_put_there(
    debian: Machine, release: str, root: bool, named: str
) -> None:
    debian.os_release(release)
    debian.root_user(root)
    done = debian.run(SCRIPT, "install")
    assert done.returncode == 7
    assert named in done.stderr
    assert "put docker-registry, oras, cosign and skopeo on PATH" in done.stderr
    assert debian.calls == ""


def test_the_programs_come_from_the_next_release_and_skopeo_from_the_machine_s_own(debian: Machine) -> None:
    done = debian.run(SCRIPT, "install")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == lines(debian)
    seen = "".join(path.read_text() for path in (debian.root / "seen").iterdir())
    assert seen == "deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian trixie main\n"
    own = [line for line in debian.calls.splitlines() if "skopeo" in line]
    assert len(own) == 1
    assert "Dir::Etc" not in own[0]
    assert sorted(path.name for path in debian.state.iterdir()) == ["apt.log", "lock", "prefix"]


def test_a_second_install_asks_the_network_for_nothing(debian: Machine) -> None:
    debian.run(SCRIPT, "install")
    calls = debian.calls
    done = debian.run(SCRIPT, "install")
    assert (done.returncode, done.stdout.splitlines()) == (0, lines(debian))
    assert debian.calls == calls


@pytest.mark.parametrize("of", ["update", "download", "install"])
def test_a_failure_that_passes_is_tried_again(debian: Machine, of: str) -> None:
    apt_get(debian, failures=2, of=of)
    done = debian.run(SCRIPT, "install")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == lines(debian)


@pytest.mark.parametrize(("of", "word"), [("download", "could not fetch docker-registry"), ("install", "not install")])
def test_a_failure_that_lasts_exits_7_with_apt_s_words_and_the_next_run_goes_on(
    debian: Machine, of: str, word: str
) -> None:
    apt_get(debian, failures=99, of=of)
    done = debian.run(SCRIPT, "install")
    assert done.returncode == 7
    assert word in done.stderr
    assert "503 busy" in done.stderr
    assert debian.run(SCRIPT, "path").returncode == 3
    apt_get(debian)
    assert debian.run(SCRIPT, "install").returncode == 0
    assert sorted(path.name for path in debian.state.iterdir()) == ["apt.log", "lock", "prefix"]


def test_packages_without_the_programs_are_said(debian: Machine) -> None:
    debian.stub("dpkg", 'mkdir -p "$3/usr/bin"')
    done = debian.run(SCRIPT, "install")
    assert done.returncode == 7
    assert "Debian's packages did not bring them" in done.stderr


def test_env_prints_a_line_that_eval_takes_and_leaves_the_machine_s_own_first(debian: Machine) -> None:
    debian.run(SCRIPT, "install")
    odd = debian.root / "it's $HOME; here"
    odd.symlink_to(debian.state)
    done = debian.run(SCRIPT, "env", MODELBAKE_TOOLS_DIR=str(odd))
    shown = subprocess.run(
        ["/bin/bash", "-c", 'eval "$1"; printf "%s" "$PATH"', "-", done.stdout],
        env={"PATH": "/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"/bin:{odd}/prefix/usr/bin"
    again = debian.run(SCRIPT, "env", PATH=f"{debian.root}/bin:{debian.state}/prefix/usr/bin")
    assert (again.returncode, again.stdout) == (0, "")
