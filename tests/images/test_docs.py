"""Every shell command that the documentation shows, run as shown; blocks marked `text` show output or need what a test has not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("images/*/README.md"),
        ROOT / "models/regressor/README.md",
    ]
)

# What .ci/run runs itself, before these tests.
RUN_BY_CI = {"make bake", "make test"}


def blocks(page: Path) -> list[str]:
    """The page's `sh` blocks without the lines that CI runs."""
    found = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    kept = ("\n".join(line for line in block.splitlines() if line not in RUN_BY_CI) for block in found)
    return [block for block in kept if block.strip()]


COMMANDS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{n}") for page in PAGES for n, block in enumerate(blocks(page))
]


def test_the_documentation_shows_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("block", COMMANDS)
def test_a_command_of_the_documentation_works(block: str) -> None:
    script = f'set -euo pipefail\neval "$(scripts/engine.sh env)"\n{block}\n'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert done.stdout or done.stderr


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"
