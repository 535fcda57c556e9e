"""engine.sh and base_image.sh driven with stub commands: what they say, print and exit with, without a Docker engine."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.scripts.machine import BOOKWORM, ONE_LINE, SCRIPTS, SOURCES, TRIXIE, Machine, docker_stub
from tests.unit.scripts.machine import machine as machine


@pytest.fixture
def own_engine(machine: Machine) -> Iterator[Machine]:
    """A machine where only our own engine answers: a socket, and an unpacked client that reaches it there alone."""
    machine.state.mkdir()
    address = machine.state / "docker.sock"
    body = docker_stub("26.1.5", buildx=True, store="io.containerd.snapshotter.v1")
    machine.write_program(machine.prefix_docker, f'[[ ${{DOCKER_HOST:-}} == "unix://{address}" ]] || exit 1\n{body}')
    # A socket's name is limited to 107 characters and pytest's folders can be longer: bind by a short relative name.
    before = Path.cwd()
    os.chdir(machine.state)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("docker.sock")
        os.chdir(before)
        yield machine


# ---- usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("fly",), ("start", "now")])
def test_a_usage_error_exits_2_and_shows_the_commands(machine: Machine, arguments: tuple[str, ...]) -> None:
    done = machine.run("engine.sh", *arguments)
    assert done.returncode == 2
    assert "install|start|stop|status|env" in done.stderr
    assert done.stdout == ""


def test_help_exits_0(machine: Machine) -> None:
    done = machine.run("engine.sh", "--help")
    assert done.returncode == 0
    assert "MODELBAKE_ENGINE_DIR" in done.stdout


def test_a_wait_that_is_no_number_is_a_usage_error(machine: Machine) -> None:
    assert machine.run("engine.sh", "start", MODELBAKE_ENGINE_WAIT="soon").returncode == 2


# ---- machines that cannot ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["install", "start"])
@pytest.mark.parametrize(
    ("release", "root", "named"),
    [
        ("ID=fedora\nVERSION_ID=41\n", True, "on Debian only"),
        ("", True, "on Debian only"),
        ('ID=debian\nVERSION_ID="11"\nVERSION_CODENAME=bullseye\n', True, "Debian 11"),
        (BOOKWORM, False, "as root"),
    ],
)
def test_a_machine_that_cannot_be_set_up_exits_7_and_says_what_to_install(
    machine: Machine, command: str, release: str, root: bool, named: str
) -> None:
    machine.os_release(release)
    machine.root_user(root)
    done = machine.run("engine.sh", command)
    assert done.returncode == 7
    assert named in done.stderr
    assert "install Docker Engine" in done.stderr
    assert "buildx" in done.stderr
    assert not machine.state.exists()


def test_a_missing_plugin_on_another_system_is_named(machine: Machine) -> None:
    machine.os_release("ID=fedora\n")
    machine.docker("27.0.1", buildx=False)
    done = machine.run("engine.sh", "install")
    assert done.returncode == 7
    assert "Docker 27.0.1 answers but its client has no buildx plugin" in done.stderr


def test_a_failed_download_exits_7_with_apts_own_words_and_leaves_no_prefix(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", "deb http://mirror.test/debian bookworm main\n")
    machine.stub("sleep", "true")
    machine.stub("apt-get", '[[ "$*" != *download* ]] || { echo "E: Unable to locate package docker.io"; exit 100; }')
    done = machine.run("engine.sh", "install")
    assert done.returncode == 7
    assert "Unable to locate package docker.io" in done.stderr
    assert not (machine.state / "prefix").exists()


def test_a_socket_name_over_the_kernels_limit_is_a_usage_error(machine: Machine) -> None:
    done = machine.run("engine.sh", "start", MODELBAKE_ENGINE_DIR=str(machine.root / ("d" * 120)))
    assert done.returncode == 2
    assert "MODELBAKE_ENGINE_DIR" in done.stderr


# ---- an engine that answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["install", "start"])
def test_an_engine_that_answers_is_left_alone(machine: Machine, command: str) -> None:
    machine.docker("27.0.1")
    machine.root_user(False)
    done = machine.run("engine.sh", command)
    assert done.returncode == 0
    assert "Docker 27.0.1 with buildx answers already: nothing to do" in done.stdout
    assert not machine.state.exists()


def test_env_changes_nothing_for_an_engine_that_answers(machine: Machine) -> None:
    machine.docker()
    done = machine.run("engine.sh", "env")
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if not line.startswith("#")] == []


def test_status_names_the_engine_and_its_image_store(machine: Machine) -> None:
    machine.docker("27.0.1")
    done = machine.run("engine.sh", "status", DOCKER_HOST="tcp://builder.test:2376")
    assert done.returncode == 0
    assert "Docker 27.0.1 answers at tcp://builder.test:2376" in done.stdout
    assert "containerd image store" in done.stdout
    assert done.stderr == ""


def test_status_warns_when_the_containerd_image_store_is_off(machine: Machine) -> None:
    machine.docker(store="")
    done = machine.run("engine.sh", "status")
    assert done.returncode == 0
    assert "WARN" in done.stderr
    assert "containerd-snapshotter" in done.stderr


def test_status_exits_3_and_env_exits_7_when_no_engine_answers(machine: Machine) -> None:
    status = machine.run("engine.sh", "status")
    assert status.returncode == 3
    assert "scripts/engine.sh start" in status.stdout
    env = machine.run("engine.sh", "env")
    assert env.returncode == 7
    assert env.stdout == ""


def test_a_missing_plugin_is_fetched_into_a_private_docker_config(machine: Machine) -> None:
    machine.docker("20.10.24", buildx=False)
    machine.apt()
    machine.sources("sources.list", "deb http://mirror.test/debian bookworm main\n")
    done = machine.run("engine.sh", "install")
    assert done.returncode == 0, done.stderr
    assert "download docker-buildx docker-compose\n" in machine.calls
    assert (machine.state / "config/cli-plugins/docker-buildx").resolve().is_file()
    assert not (machine.state / "prefix").exists()
    env = machine.run("engine.sh", "env")
    assert "DOCKER_HOST" not in env.stdout
    assert f"export DOCKER_CONFIG='{machine.state}/config'" in env.stdout


# ---- install on Debian ------------------------------------------------------------------------------------------------


def _seen(machine: Machine) -> str:
    return "".join(path.read_text() for path in sorted((machine.root / "seen").iterdir()))


def test_a_deb822_source_is_copied_for_the_release_that_has_buildx(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list.d/debian.sources", SOURCES)
    done = machine.run("engine.sh", "install")
    assert done.returncode == 0, done.stderr
    assert _seen(machine) == (
        "Types: deb\nSuites: trixie\nComponents: main\nURIs: http://mirror.test/debian\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
    )
    assert (machine.root / "apt/sources.list.d/debian.sources").read_text() == SOURCES


def test_a_one_line_source_is_copied_for_the_release_that_has_buildx(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", ONE_LINE)
    assert machine.run("engine.sh", "install").returncode == 0
    assert _seen(machine) == "deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian trixie main\n"


def test_debian_13_takes_its_own_packages(machine: Machine) -> None:
    machine.os_release(TRIXIE)
    machine.apt()
    machine.sources("sources.list.d/debian.sources", SOURCES.replace("bookworm", "trixie"))
    assert machine.run("engine.sh", "install").returncode == 0
    seen = _seen(machine)
    assert "Suites: trixie trixie-updates\n" in seen
    assert "Suites: trixie-security\n" in seen
    assert "off.test" not in seen


def test_no_usable_source_exits_7(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", "deb http://vendor.test/node nodistro main\n")
    done = machine.run("engine.sh", "install")
    assert done.returncode == 7
    assert "no apt source for Debian bookworm" in done.stderr


def test_a_package_of_the_machine_s_own_release_is_installed_whatever_the_script_calls_its_log(
    machine: Machine,
) -> None:
    machine.apt()
    caller = machine.root / "caller.sh"
    caller.write_text(
        f"set -eu; readonly log=of-the-script; say() {{ :; }}; source {SCRIPTS}/debian.sh; apt_install {machine.root}/log runc\n"
    )
    done = machine.run(str(caller))
    assert done.returncode == 0, done.stderr
    assert machine.calls.splitlines()[-1].endswith("install runc")


def test_a_second_install_asks_the_network_for_nothing(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", ONE_LINE)
    assert machine.run("engine.sh", "install").returncode == 0
    calls = machine.calls
    done = machine.run("engine.sh", "install")
    assert done.returncode == 0
    assert "installed already" in done.stdout
    assert machine.calls == calls


def test_what_an_interrupted_install_left_is_swept_away(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", ONE_LINE)
    left = machine.state / "stage.abc123"
    (left / "root/usr/sbin").mkdir(parents=True)
    (left / "root/usr/sbin/dockerd").touch()
    assert machine.run("engine.sh", "install").returncode == 0
    assert sorted(path.name for path in machine.state.iterdir()) == ["apt.log", "config", "lock", "prefix"]


def test_the_users_docker_settings_stay_in_use(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", ONE_LINE)
    user = machine.root / "home/.docker"
    machine.write_program(user / "cli-plugins/docker-scan", "true")
    (user / "config.json").write_text('{"auths": {}}')
    assert machine.run("engine.sh", "install").returncode == 0
    config = machine.state / "config"
    assert (config / "config.json").read_text() == '{"auths": {}}'
    assert (config / "cli-plugins/docker-scan").resolve() == user / "cli-plugins/docker-scan"
    assert (config / "cli-plugins/docker-buildx").exists()


# ---- our own engine ---------------------------------------------------------------------------------------------------


def test_env_prints_lines_that_eval_takes(own_engine: Machine) -> None:
    done = own_engine.run("engine.sh", "env")
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        ["/bin/bash", "-c", 'eval "$1"; printf "%s\n" "$DOCKER_HOST" "$DOCKER_CONFIG" "$PATH"', "-", done.stdout],
        env={"PATH": "/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    state = own_engine.state
    assert shown.stdout.splitlines() == [
        f"unix://{state}/docker.sock",
        f"{state}/config",
        f"{state}/prefix/usr/bin:/bin",
    ]


def test_env_quotes_a_folder_with_spaces_and_quotes(own_engine: Machine) -> None:
    odd = own_engine.root / "it's $HOME; here"
    odd.symlink_to(own_engine.state)
    machine_docker = own_engine.prefix_docker
    machine_docker.write_text(
        machine_docker.read_text().replace(f'"unix://{own_engine.state}/docker.sock"', "unix://*")
    )
    done = own_engine.run("engine.sh", "env", MODELBAKE_ENGINE_DIR=str(odd))
    shown = subprocess.run(
        ["/bin/bash", "-c", 'eval "$1"; printf "%s" "$DOCKER_CONFIG"', "-", done.stdout],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"{odd}/config"


def test_env_does_not_lengthen_the_path_twice(own_engine: Machine) -> None:
    path = f"{own_engine.state}/prefix/usr/bin:{own_engine.root}/bin"
    done = own_engine.run("engine.sh", "env", PATH=path, DOCKER_HOST=f"unix://{own_engine.state}/docker.sock")
    assert "DOCKER_HOST" in done.stdout
    assert "PATH=" not in done.stdout


@pytest.mark.parametrize("command", ["start", "status"])
def test_an_engine_of_ours_that_runs_is_reported(own_engine: Machine, command: str) -> None:
    done = own_engine.run("engine.sh", command)
    assert done.returncode == 0, done.stderr
    assert f"unix://{own_engine.state}/docker.sock" in done.stdout


def test_an_engine_that_ends_at_once_exits_7_with_the_end_of_its_log(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", ONE_LINE)
    machine.stub("setsid", "echo failed to mount the graph; exit 1")
    # pytest's own folders may have names too long for a socket.
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        done = machine.run("engine.sh", "start", MODELBAKE_ENGINE_DIR=short)
    assert done.returncode == 7
    assert "failed to mount the graph" in done.stderr
    assert "ended before it answered" in done.stderr


@pytest.mark.parametrize("pid", ["", "not a number", "999999999", str(os.getpid())])
def test_stop_ends_nothing_that_this_script_did_not_start(machine: Machine, pid: str) -> None:
    machine.state.mkdir()
    (machine.state / "dockerd.pid").write_text(pid)
    done = machine.run("engine.sh", "stop")
    assert done.returncode == 0
    assert "no engine of this script's is running" in done.stdout


# ---- base_image.sh ----------------------------------------------------------------------------------------------------

PULLED = """case "$*" in
version*) echo 26.1.5 ;;
"image inspect python:3.11-slim") exit 1 ;;
buildx*) exit 0 ;;
"""


def test_a_base_image_that_is_there_is_only_reported(machine: Machine) -> None:
    machine.stub(
        "docker",
        """case "$*" in
        version*) echo 26.1.5 ;;
        "image inspect --format"*) echo "sha256:abc debian-packages" ;;
        "image inspect"*|buildx*) exit 0 ;;
        "image ls"*) echo 226MB ;;
        *) exit 9 ;;
        esac""",
    )
    done = machine.run("base_image.sh")
    assert done.returncode == 0, done.stderr
    assert "python:3.11-slim is there: sha256:abc, 226MB" in done.stdout
    assert "not the official image" in done.stdout


@pytest.mark.parametrize(
    "words", ["python:3.11-slim: not found", "toomanyrequests: slow down", "unauthorized: sign in"]
)
def test_a_registry_that_says_no_is_believed(machine: Machine, words: str) -> None:
    machine.stub("docker", PULLED + f'pull*) echo "{words}" >&2; exit 1 ;;\nesac')
    done = machine.run("base_image.sh")
    assert done.returncode == 3
    assert words in done.stderr


@pytest.mark.parametrize(
    "pull",
    ['echo "dial tcp: lookup registry: no such host" >&2; exit 1', "exec sleep 30"],
    ids=["an error", "silence"],
)
@pytest.mark.parametrize(
    ("release", "image"),
    [("ID=fedora\n", "python:3.11-slim"), (BOOKWORM, "ghcr.test/python:3.11-slim"), (BOOKWORM, "python:3.11-alpine")],
)
def test_no_registry_and_no_stand_in_exits_7(machine: Machine, pull: str, release: str, image: str) -> None:
    machine.os_release(release)
    machine.stub("docker", PULLED.replace("python:3.11-slim", image) + f"pull*) {pull} ;;\nesac")
    done = machine.run("base_image.sh", image, MODELBAKE_PULL_WAIT="1")
    assert done.returncode == 7
    assert "registry" in done.stderr
    assert "docker load" in done.stderr


def test_a_python_that_the_release_does_not_have_exits_7(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list", ONE_LINE)
    machine.stub("mmdebstrap", "exit 9")
    machine.stub("apt-cache", "echo '  Candidate: 3.11.2-1+b1'")
    machine.stub("docker", PULLED.replace("3.11", "3.12") + "pull*) echo refused >&2; exit 1 ;;\nesac")
    done = machine.run("base_image.sh", "python:3.12-slim")
    assert done.returncode == 7
    assert "asks for Python 3.12 and Debian bookworm has 3.11" in done.stderr


def test_the_stand_in_is_labelled_and_made_from_the_machines_own_sources(machine: Machine) -> None:
    machine.apt()
    machine.sources("sources.list.d/debian.sources", SOURCES)
    machine.stub("apt-cache", "echo '  Candidate: 3.11.2-1+b1'")
    machine.stub("mmdebstrap", f'for file in "$@"; do [[ ! -f $file ]] || cat "$file"; done >{machine.root}/mirrors')
    machine.stub(
        "docker",
        PULLED.replace("buildx*) exit 0 ;;", "")
        + f"""buildx\\ version*) exit 0 ;;
        pull*) echo refused >&2; exit 1 ;;
        "buildx build"*) cat "${{@: -1}}/Dockerfile" >{machine.root}/dockerfile ;;
        "image inspect --format"*) echo "sha256:abc debian-packages" ;;
        "image ls"*) echo 226MB ;;
        esac""",
    )
    done = machine.run("base_image.sh")
    assert done.returncode == 0, done.stderr
    assert "LABEL io.modelbake.base=debian-packages" in (machine.root / "dockerfile").read_text()
    mirrors = (machine.root / "mirrors").read_text()
    assert "Suites: bookworm bookworm-updates\n" in mirrors
    assert "Suites: bookworm-security\n" in mirrors
    assert "off.test" not in mirrors


@pytest.mark.parametrize("arguments", [("a", "b"), ("--fly",)])
def test_base_image_usage_errors_exit_2(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert machine.run("base_image.sh", *arguments).returncode == 2
