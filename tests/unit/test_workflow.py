"""The workflows of .github and the commands in the docs on Core ML: they use commands, options and extras that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from modelbake.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCS = (ROOT / "docs" / "coreml-mac.md", ROOT / "docs" / "coreml-swift.md")


def parse(line: str) -> str:
    """The full name of the modelbake command that the line calls; click's error where its words do not fit."""
    command: click.Command = cli
    context = click.Context(cli, info_name="modelbake")
    words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    assert words.pop(0) == "modelbake"
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{context.command_path} has no command {name}"
        context = click.Context(found, parent=context, info_name=name)
        command = found
    # Parses and checks, and calls nothing.
    return command.make_context(context.info_name, words, parent=context.parent).command_path


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def calls(text: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("modelbake ")]


def test_there_is_a_workflow_that_finishes_bundles() -> None:
    called = [parse(line) for workflow in WORKFLOWS for step in steps(workflow) for line in calls(step.get("run", ""))]
    assert called.count("modelbake coreml finish") == 2


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_call_of_a_workflow_has_commands_and_options_that_exist(workflow: Path) -> None:
    for step in steps(workflow):
        run = step.get("run", "")
        # No call hides within another word, where it would not be looked at.
        assert run.count("modelbake ") == len(calls(run))
        for line in calls(run):
            parse(line)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_installs_extras_that_exist_and_pins_its_actions(workflow: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        for named in re.findall(r"\.\[([a-z,]+)\]", step.get("run", "")):
            assert set(named.split(",")) <= extras.keys()
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v[0-9]+|[0-9a-f]{40})", step["uses"])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_user_typed_never_becomes_part_of_a_script(workflow: Path) -> None:
    # As text in a shell line it could end a string and go on as commands.
    for step in steps(workflow):
        assert "${{" not in step.get("run", "")


FINISHING = ("Finish the bundle", "Finish and push the bundle")


def coreml() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The workflow that finishes bundles, and its steps by name."""
    path = ROOT / ".github" / "workflows" / "coreml.yml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found, {step["name"]: step for step in steps(path) if "name" in step}


def test_the_mac_may_read_the_repository_and_no_more() -> None:
    workflow, _ = coreml()
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job]


def test_it_pushes_where_a_tag_is_given_and_nowhere_else() -> None:
    _, named = coreml()
    finishing = {name: step for name, step in named.items() if "coreml finish" in step.get("run", "")}
    assert {name: step["if"] for name, step in finishing.items()} == {
        FINISHING[0]: "inputs.push == ''",
        FINISHING[1]: "inputs.push != ''",
    }
    pushing = [name for name, step in named.items() if re.search(r"\bpush\b|PUSH", step.get("run", ""))]
    assert pushing == [FINISHING[1]]
    assert '--push "$PUSH"' in finishing[FINISHING[1]]["run"]


def test_the_token_is_in_the_steps_that_need_it_alone() -> None:
    workflow, named = coreml()
    token = {"MODELBAKE_REGISTRY_TOKEN": "${{ secrets.MODELBAKE_REGISTRY_TOKEN }}"}
    assert {name: step["env"] for name, step in named.items() if "env" in step} == dict.fromkeys(FINISHING, token)
    # Nor by any other way: in the whole file these two name secrets.
    assert yaml.safe_dump(workflow).count("secrets.") == 2
    text = (ROOT / ".github" / "workflows" / "coreml.yml").read_text(encoding="utf-8")
    assert len(re.findall(r"\bsecrets\b", text)) == 2
    assert "github.token" not in text


def test_reports_are_kept_also_where_a_gate_is_missed() -> None:
    _, named = coreml()
    (kept,) = [step for step in named.values() if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert kept["if"] == "always()"
    assert "--reports reports" in named[FINISHING[0]]["run"]
    assert "--reports reports" in named[FINISHING[1]]["run"]
    assert kept["with"]["path"] == "reports/*.json"


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_the_docs_commands_exist(page: Path) -> None:
    blocks = re.findall(r"```(?:sh|text)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in calls(block)]
    assert lines
    for line in lines:
        parse(line)


@pytest.mark.parametrize(
    "line",
    ["modelbake coreml finnish x", "modelbake coreml finish x --no-such", "modelbake coreml finish", "modelbake nope"],
)
def test_a_wrong_call_would_be_noticed(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(line)
