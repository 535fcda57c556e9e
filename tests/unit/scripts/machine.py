"""A make-believe machine for the scripts: stub commands, an os-release and an apt configuration; nothing real is asked."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
# The scripts' own tools; docker, apt and the like are stubs or absent.
TOOLS = (
    *("awk", "bash", "cat", "chmod", "dirname", "env", "find", "flock", "grep", "head", "id", "ln", "ls", "mkdir"),
    *("mktemp", "mv", "rm", "sed", "sleep", "tail", "timeout", "touch", "tr"),
)

BOOKWORM = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
TRIXIE = 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'

SOURCES = """\
# the archive
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
# deb http://commented.test/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main non-free
deb-src http://mirror.test/debian bookworm main
deb http://vendor.test/linux bookworm stable
deb http://vendor.test/node nodistro main
"""


@dataclass
class Machine:
    """A make-believe machine: a PATH of stubs, an os-release, an apt configuration and a state folder."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def prefix_docker(self) -> Path:
        return self.state / "prefix/usr/bin/docker"

    def stub(self, name: str, body: str) -> None:
        self.write_program(self.root / "bin" / name, body)

    @staticmethod
    def write_program(path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def os_release(self, text: str) -> None:
        (self.root / "os-release").write_text(text)

    def root_user(self, yes: bool = True) -> None:
        self.stub("id", f"echo {0 if yes else 1000}")

    def docker(
        self, version: str = "26.1.5", *, buildx: bool = True, store: str = "io.containerd.snapshotter.v1"
    ) -> None:
        """A client whose engine answers, whatever DOCKER_HOST says."""
        self.stub("docker", docker_stub(version, buildx=buildx, store=store))

    def apt(self) -> None:
        """An apt that hands out a package per name, and a dpkg that unpacks a client, an engine and two plugins."""
        etc = self.root / "apt"
        (etc / "sources.list.d").mkdir(parents=True, exist_ok=True)
        self.stub(
            "apt-config",
            f"printf \"list_file='%s'\\nlist_parts='%s/'\\n\" {etc}/sources.list {etc}/sources.list.d",
        )
        self.stub(
            "apt-get",
            f"""echo "apt-get $*" >>{self.root}/calls
            for word in "$@"; do case $word in
                Dir::Etc::sourceparts=*) rm -rf {self.root}/seen; cp -r "${{word#*=}}" {self.root}/seen ;;
                download) touch docker.deb ;;
            esac; done""",
        )
        self.stub("cp", '/bin/cp "$@"')
        unpacked = docker_stub("", buildx=True)
        self.stub(
            "dpkg",
            f"""mkdir -p "$3"/usr/{{bin,sbin,libexec/docker/cli-plugins}}
            cat >"$3/usr/bin/docker" <<'END'\n#!/bin/bash\n{unpacked}\nEND
            touch "$3"/usr/sbin/dockerd "$3"/usr/libexec/docker/cli-plugins/docker-{{buildx,compose}}
            chmod -R 755 "$3"/usr""",
        )
        self.stub("runc", "true")
        self.stub("iptables", "true")

    def sources(self, name: str, text: str) -> None:
        (self.root / "apt" / name).write_text(text)

    @property
    def calls(self) -> str:
        log = self.root / "calls"
        return log.read_text() if log.exists() else ""

    def run(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", str(SCRIPTS / script), *arguments],
            env={
                "PATH": str(self.root / "bin"),
                "HOME": str(self.root / "home"),
                "MODELBAKE_ENGINE_DIR": str(self.state),
                "MODELBAKE_TOOLS_DIR": str(self.state),
                "MODELBAKE_OS_RELEASE": str(self.root / "os-release"),
                **self.env,
                **env,
            },
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def docker_stub(version: str, *, buildx: bool, store: str = "") -> str:
    """A docker client as a shell body; without a version no engine answers it."""
    return f"""case "$*" in
    *Client.Version*) echo 26.1.5 ;;
    version*) [[ -n "{version}" ]] || exit 1; echo "{version}" ;;
    buildx*) exit {0 if buildx else 1} ;;
    info*) echo 'overlayfs [["driver-type","{store}"]]' ;;
    *) exit 1 ;;
    esac"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    for tool in TOOLS:
        found = next(Path(folder, tool) for folder in ("/usr/bin", "/bin") if Path(folder, tool).exists())
        (tmp_path / "bin" / tool).symlink_to(found)
    made.os_release(BOOKWORM)
    made.root_user()
    made.stub("modprobe", "true")
    return made
