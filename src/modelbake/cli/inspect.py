"""modelbake inspect: all that is known of a bundle, a graph's file, or a models folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from modelbake.catalog import Catalog
from modelbake.cli.oci import plain_http_option
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.output import out

# What an artifact's own lines show; whatever else its entry has is shown behind them, under its own name.
_SHOWN = {"path", "role", "precision", "size", "total_size", "sha256", "format", "external_data", "graph", "tools"}
_MOST_OPERATORS = 8


@click.command("inspect")
@click.argument("what")
@models_dir_option
@plain_http_option
@speaking
def command(what: str, models_dir: Path | None, plain_http: bool) -> None:
    """Show all that is known of WHAT: a bundle's name, an ONNX file, a Core ML package (.mlpackage), a models folder or its
    manifest, or an image or bundle in a registry (HOST/REPOSITORY:TAG) or in the store (store:NAME)."""
    from modelbake.inspect import inspect_bundle, inspect_file, inspect_models

    path = Path(what)
    if _is_reference(what) and not path.exists():
        from modelbake.oci.locate import locate
        from modelbake.oci.look import look_at

        where = locate(what, load_settings(models_dir), plain_http)
        image = look_at(where.place, where.resolve(), str(where))
        out.result(image, _image(image))
    elif path.suffix == ".json" or (
        path.suffix != ".mlpackage" and path.is_dir() and ("/" in what or what.startswith("."))
    ):
        found = inspect_models(path.parent if path.suffix == ".json" else path)
        out.result(found, (line for entry in found for line in (*_entry(entry), "")))
    elif path.suffix or "/" in what:
        file = inspect_file(path)
        out.result(file, _file(file))
    else:
        settings = load_settings(models_dir)
        bundle = inspect_bundle(Catalog(settings.bundles_dir), settings.models_dir, what)
        out.result(bundle, _bundle(bundle, settings.models_dir))


def _is_reference(what: str) -> bool:
    return what.startswith("store:") or ("/" in what and re.search(r":[^/]+$", what) is not None)


def _image(image: dict[str, Any]) -> Iterator[str]:
    yield image["reference"]
    yield f"  digest      {image['digest']}"
    yield f"  size        {_size(image['size'])} in {len(image['layers'])} layers"
    yield f"  platforms   {', '.join(image['platforms'])}"
    for entry in image["bundles"]:
        loud = "  *** RANDOM, for trying out, not for use ***" if entry["weights"] == "sample" else ""
        yield f"  bundle      {entry['name']} {entry['version']}: {entry['weights']} weights, {entry['licence']}{loud}"
        for artifact in entry["artifacts"]:
            yield f"    artifact  {artifact['role']} {artifact['precision']} ({artifact['format']})"
    for layer in image["layers"]:
        yield f"  layer       {layer['digest']}  {_size(layer['size']):>9}  {layer['path'] or '-'}"


def _bundle(facts: dict[str, Any], models_dir: Path) -> Iterator[str]:
    definition, built = facts["definition"], facts["built"]
    if definition is not None:
        yield f"{facts['name']} {definition['version']}, as defined ({'pinned' if definition['pinned'] else 'NOT PINNED'})"
        yield f"  {definition['description']}"
        yield f"  licence     {definition['licence']}"
        yield f"  model       {_plain(definition['model'])}"
        for source in definition["sources"]:
            yield f"  source      {_plain(source)}"
        for pin in definition["files"]:
            size = f"{pin['size']} bytes" if pin.get("size") is not None else "no size"
            yield f"  file        {pin['path']}  sha256 {pin.get('sha256') or 'not pinned'}  {size}"
        yield f"  gates       {_plain(definition['gates'])}"
        for variant in definition["variants"]:
            yield f"  variant     {_plain(variant)}"
        for fallback in definition["fallbacks"]:
            yield f"  fallback    {fallback['model']['model']} ({'pinned' if fallback['pinned'] else 'NOT PINNED'})"
        yield ""
    if built is None:
        yield f"not built in {models_dir}: `modelbake build {facts['name']}` makes it"
    else:
        yield from _entry(built)


def _entry(entry: dict[str, Any]) -> Iterator[str]:
    loud = "  *** RANDOM, for trying out, not for use ***" if entry["weights"] == "sample" else ""
    yield f"{entry['name']} {entry['version']}, built: {entry['weights']} weights, {_size(entry['size'])}{loud}"
    yield f"  {entry['description']}"
    yield f"  licence     {entry['licence']}"
    yield f"  digest      {entry['digest']}"
    yield f"  pinned      {'yes' if entry['pinned'] else 'no'}"
    source = {name: value for name, value in entry["source"].items() if name != "files"}
    yield f"  source      {_plain(source)}"
    if fallback := entry.get("fallback"):
        yield f"  FALLBACK    {_plain(fallback)}"
    for ref in entry["source"]["files"]:
        yield f"    {ref['sha256']}  {ref['size']:>11}  {ref['path']}"
    for artifact in entry["artifacts"]:
        yield from _artifact(artifact)
    yield "  files"
    for ref in entry["files"]:
        gone = "  MISSING" if ref["path"] in entry["missing"] else ""
        yield f"    {ref['sha256']}  {ref['size']:>11}  {ref['path']}{gone}"


def _artifact(artifact: dict[str, Any]) -> Iterator[str]:
    total = artifact.get("total_size", artifact["size"])
    yield f"  {artifact['role']}: {artifact['path']} ({artifact['format']}, {artifact['precision']}, {_size(total)})"
    for kind in ("inputs", "outputs"):
        for tensor in artifact[kind]:
            yield f"    {kind[:-1]:<10}{tensor['name']}: {tensor['dtype']} {_shape(tensor['shape'])}"
    for name, value in artifact.items():
        if name not in _SHOWN | {"inputs", "outputs"}:
            yield f"    {name:<10}{'' if len(name) < 10 else ' '}{_plain(value)}"
    yield f"    tools     {_plain(artifact['tools'])}"
    if artifact["format"] == "coreml" and artifact.get("graph") is None:
        yield "    graph     not shown: the file is missing, or coremltools, which knows its format, is not installed"
        return
    yield from (f"    {line}" for line in _graph(artifact.get("graph")))


def _file(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['path']}: {_size(facts['size'])}"
    yield f"sha256    {facts['sha256']}"
    if facts["artifact"] is not None:
        yield f"artifact  {facts['artifact']['role']} of the bundle {facts['bundle']}"
    if facts["graph"]:
        for kind in ("inputs", "outputs"):
            for tensor in facts["graph"][kind]:
                yield f"{kind[:-1]:<10}{tensor['name']}: {tensor['dtype']} {_shape(tensor['shape'])}"
    yield from _graph(facts["graph"])


def _graph(graph: dict[str, Any] | None) -> Iterator[str]:
    if graph is None:
        yield "graph     the file is MISSING"
        return
    opsets = ", ".join(f"{domain or 'onnx'} {version}" for domain, version in graph["opsets"].items())
    yield f"opset     {opsets} (IR {graph['ir_version']}, by {graph['producer'] or 'unknown'})"
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in graph["parameters_by_dtype"].items())
    yield f"weights   {graph['parameters']:,} parameters ({kinds or 'none'}), {_size(graph['weight_bytes'])}"
    operators = list(graph["operators"].items())
    rest = len(operators) - _MOST_OPERATORS
    listed = ", ".join(f"{name} {count}" for name, count in operators[:_MOST_OPERATORS])
    yield f"nodes     {graph['nodes']}: {listed}{f', and {rest} other types (--json lists them)' if rest > 0 else ''}"


def _plain(value: Any) -> str:
    """A value in a line: what is in a table as `name value`."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items() if inner not in (None, {}, [], ()))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shape(shape: list[int | str]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
