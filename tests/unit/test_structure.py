"""The house's rules: who imports whom, who prints, who reads the environment, and how long a module may be."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelbake.export.families import COREML_RUNTIME, FAMILIES, ONNX_QUANTIZER
from tests.unit import tiny

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "modelbake"
MAX_LINES = 400


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports(tree: ast.AST) -> set[str]:
    """All modules that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return found


IMPORTS = {name: imports(tree) for name, tree in TREES.items()}
OWN_IMPORTS = {name: {m for m in found if m.partition(".")[0] == "modelbake"} for name, found in IMPORTS.items()}

# What any worker may import.
FOUNDATION = {
    "modelbake",
    "bundle",
    "catalog",
    "deployment",
    "manifest",
    "files",
    "errors",
    "settings",
    "output",
    "digests",
    "patience",
}
# The rooms, and what else each may import: workers do not import each other, but for these.
ROOMS = {
    "errors": set(),
    "settings": {"errors"},
    "output": set(),
    "patience": {"errors"},
    "bundle": {"errors"},
    "catalog": {"bundle", "errors"},
    "deployment": {"errors"},
    "manifest": {"bundle", "errors"},
    "files": {"manifest", "errors"},
    "digests": {"files", "manifest"},
    "goldens": {"errors"},
    "cache": FOUNDATION,
    "install": FOUNDATION,
    "layers": FOUNDATION,
    "sources": FOUNDATION,
    "oci": FOUNDATION | {"bake", "install", "layers"},
    "lock": FOUNDATION | {"sources"},
    "graph": {"errors"},
    "inspect": FOUNDATION | {"coreml", "graph"},
    "runtime": {"manifest", "errors"},
    "coreml": {"errors", "graph", "manifest", "runtime"},
    "quantize": FOUNDATION | {"export"},
    "parity": FOUNDATION | {"coreml", "goldens", "runtime"},
    "verify": FOUNDATION | {"parity"},
    "finish": FOUNDATION | {"goldens", "install", "runtime"},
    "swift": FOUNDATION,
    "report": FOUNDATION | {"goldens", "inspect", "runtime"},
    "export": FOUNDATION | {"coreml", "goldens", "runtime"},
    "bake": FOUNDATION | {"sources", "verify"},
    "pipeline": FOUNDATION | {"cache", "export", "install", "parity", "quantize", "sources"},
    "training": FOUNDATION | {"export", "parity", "runtime"},
    "cli": FOUNDATION
    | {
        "bake",
        "coreml",
        "export",
        "finish",
        "inspect",
        "layers",
        "lock",
        "oci",
        "pipeline",
        "report",
        "runtime",
        "swift",
        "training",
        "verify",
    },
    "__main__": {"cli"},
    "modelbake": set(),
}
# The modules behind the exceptions in ROOMS: an exporter writes the tokenizer file that the runtime reads, and a bake asks
# beforehand whether a source has the real weights; variants are made of what an exporter hands on, and handed on likewise;
# an image goes into the engine by the docker client.
NARROW = {
    ("export", "runtime"): {"modelbake.runtime.clip_tokenizer", "modelbake.runtime.image_preprocess"},
    ("coreml", "runtime"): {"modelbake.runtime.image_preprocess"},
    ("bake", "sources"): {"modelbake.sources.fetch"},
    ("pipeline", "sources"): {"modelbake.sources.fetch", "modelbake.sources.fetched"},
    ("quantize", "export"): {"modelbake.export.artifact"},
    ("oci", "bake"): {"modelbake.bake.docker"},
    ("lock", "sources"): {"modelbake.sources.survey"},
    ("finish", "runtime"): {"modelbake.runtime.image_preprocess", "modelbake.runtime.tokenize"},
    ("report", "runtime"): {"modelbake.runtime.session"},
    ("training", "runtime"): {"modelbake.runtime.boundary"},
    ("cli", "runtime"): {"modelbake.runtime.encoder", "modelbake.runtime.reranker"},
    ("cli", "coreml"): {"modelbake.coreml"},
    ("cli", "export"): {"modelbake.export.coreml.comparison"},
}

HEAVY = ("torch", "torchvision", "open_clip", "transformers", "sentence_transformers", "onnx", "coremltools", "tvm")


def room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0] or "modelbake"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_forward_only(module: str) -> None:
    own = room(module)
    for imported in OWN_IMPORTS[module]:
        other = room(imported)
        assert other == own or other in ROOMS[own], f"{module} may not import {imported}"
        assert imported in NARROW.get((own, other), {imported}), f"{module} may not import {imported}"


def test_there_is_no_way_back_between_rooms() -> None:
    order = list(ROOMS)
    while order:
        free = [name for name in order if not (ROOMS[name] & set(order)) - {name}]
        assert free, f"rooms in a circle: {order}"
        order = [name for name in order if name not in free]


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) != "export"])
def test_only_exporters_import_the_reference_frameworks(module: str) -> None:
    # Quantizing edits graphs, but knows no framework that made them; ML Programs are evaluated with torch, or by Apple's runtime.
    allowed = {"quantize": {"onnx"}, "coreml": {"torch"}, "finish": {"coremltools"}}.get(room(module), set())
    assert ({name.partition(".")[0] for name in IMPORTS[module]} - allowed).isdisjoint(HEAVY)


def test_exporters_import_the_reference_frameworks_only_when_used() -> None:
    code = "import json, sys, modelbake.pipeline; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in json.loads(done.stdout)}.isdisjoint(HEAVY)


STEPS = {
    **{kind: (family.module, (*family.code, family.module)) for kind, family in FAMILIES.items()},
    "quantize": ("modelbake.quantize", ONNX_QUANTIZER.code),
    "verify": ("modelbake.parity", COREML_RUNTIME.code),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_s_key_names_all_the_code_that_its_result_depends_on(step: str) -> None:
    first, named = STEPS[step]
    seen: set[str] = set()
    waiting = [first]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting += OWN_IMPORTS[module]
        waiting += [name for name in MODULES if name.startswith(f"{module}.")]
    # Errors and messages are no part of a result.
    result = seen - {"modelbake.errors", "modelbake.output"}
    missing = {name for name in result if not any(name == one or name.startswith(f"{one}.") for one in named)}
    assert not missing


@pytest.mark.parametrize("module", [name for name in MODULES if name != "modelbake.output"])
def test_only_output_prints(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id == "print"), f"{module}:{node.lineno}"
            called = ast.unparse(node.func)
            assert called not in ("click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"), (
                f"{module}:{node.lineno}"
            )


# Whoever else may touch os.environ, and how: one sets a variable for onnxruntime, one hands the environment on to docker.
ENVIRONMENT = {
    "modelbake.runtime.session": "os.environ.setdefault(",
    "modelbake.cli.embed": "os.environ.setdefault(",
    "modelbake.bake.buildx": "environ = os.environ | (",
}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "modelbake.settings"])
def test_only_settings_reads_the_environment(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    allowed = ENVIRONMENT.get(module)
    if allowed is not None:
        assert text.count(allowed) == 1
        text = text.replace(allowed, "")
    for word in ("os.environ", "os.getenv", "from os import"):
        assert word not in text, f"{module} reads the environment"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_and_says_what_it_is_for(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("module", MODULES)
def test_errors_are_not_swallowed(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module}:{node.lineno} catches everything"
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert not broad or raises, f"{module}:{node.lineno} swallows every error"


PROBE = """
import sys
from modelbake.cli.main import run
code = run(sys.argv[1:])
import json
print(json.dumps(sorted({name for name in sys.modules})))
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "--bundle", "tiny-text", "--text", "red cat"],
        ["embed", "--bundle", "tiny-image", "--image", "{models}/picture.png"],
        ["verify"],
        ["list"],
        ["inspect", "tiny-text"],
        ["inspect", "{models}/onnx/tiny-text.onnx"],
        ["report", "--to", "{models}/report.html"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_what_answers_from_models_loads_nothing_of_the_build(tmp_path: Path, arguments: list[str]) -> None:
    from PIL import Image

    tiny.models_folder(tmp_path)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "picture.png")
    command = [*(word.format(models=tmp_path) for word in arguments), "--models-dir", str(tmp_path), "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    heavy = {*HEAVY, "huggingface_hub", "httpx2", "httpx", "requests"}
    assert not [name for name in loaded if name.partition(".")[0] in heavy]
    rooms = {room(name) for name in loaded if name.startswith("modelbake.")}
    assert rooms.isdisjoint({"export", "sources", "pipeline", "cache", "bake"})
