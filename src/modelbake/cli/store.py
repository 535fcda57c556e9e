"""modelbake store: the local store of images and bundles."""

from __future__ import annotations

from typing import Any

import click

from modelbake.cli.options import load_settings, speaking
from modelbake.oci.store import Store
from modelbake.output import out, table


@click.group("store")
def command() -> None:
    """The local store, an OCI image layout in MODELBAKE_STORE; `modelbake gc` takes away what no name leads to."""


@command.command("list")
@speaking
def list_names() -> None:
    """List what is in the store."""
    store = _store()
    rows: list[dict[str, Any]] = [
        {"name": name, "digest": store.resolve(name).digest, "size": _size(store, name)} for name in store.names()
    ]
    out.result(rows, table(["name", "digest", "bytes"], [[r["name"], r["digest"], f"{r['size']:,}"] for r in rows]))


@command.command("tag")
@click.argument("name")
@click.argument("new")
@speaking
def tag(name: str, new: str) -> None:
    """Let NEW lead to what NAME, or a digest, leads to."""
    from modelbake.oci.locate import name_in_store

    store = _store()
    name, new = name_in_store(name), name_in_store(new)
    with store.adding():
        root = store.resolve(name)
        store.tag(new, root)
    out.result({"name": new, "digest": root.digest}, [f"{new}  {root.digest}"])


@command.command("rm")
@click.argument("names", nargs=-1, required=True)
@speaking
def remove(names: tuple[str, ...]) -> None:
    """Let NAMES lead nowhere, and what belongs to them alone: NAME-modelpack, signatures, referrers. `modelbake gc` takes the bytes."""
    from modelbake.oci.locate import name_in_store
    from modelbake.oci.referrers import belonging

    store = _store()
    removed = belonging(store, [name_in_store(name) for name in names])
    store.remove(removed)
    out.result({"removed": removed}, [f"removed {name}" for name in removed])


@command.command("verify")
@speaking
def verify() -> None:
    """Hash every blob that a name leads to."""
    found = _store().verify()
    total = sum(one.size for one in found)
    out.result({"blobs": len(found), "size": total}, [f"{len(found)} blobs of {total:,} bytes are whole"])


def _store() -> Store:
    return Store(load_settings().store_dir)


def _size(store: Store, name: str) -> int:
    from modelbake.oci.place import reachable

    found: Any = reachable(store, store.resolve(name))
    return sum(one.size for one in found)
