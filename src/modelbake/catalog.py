"""The catalog: the definitions of all bundles of a folder."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from modelbake.bundle import Bundle, parse_bundle
from modelbake.errors import IntegrityError, UnknownNameError

EVALUATION_NAME = "evaluation.txt"


class Catalog:
    """The bundles of one folder: `<folder>/<name>/bundle.toml` each, and evaluation.txt beside it where there is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The bundles' names, sorted."""
        return sorted(path.parent.name for path in self.folder.glob("*/bundle.toml"))

    def get(self, name: str) -> Bundle:
        """The bundle of that name; UnknownNameError where there is none."""
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise UnknownNameError(f"There is no bundle {name!r} in {self.folder}. Known bundles: {known}.")
        path = self.folder / name / "bundle.toml"
        bundle = parse_bundle(_text(path), str(path))
        if bundle.name != name:
            raise IntegrityError(
                f"{path}: name is {bundle.name!r}, but its folder is called {name!r}; make them the same."
            )
        evaluation = path.with_name(EVALUATION_NAME)
        if evaluation.exists():
            bundle = replace(bundle, evaluation=tuple(_text(evaluation).splitlines()))
        return bundle

    def select(self, names: tuple[str, ...] | list[str]) -> list[Bundle]:
        """The bundles named, in the order given and once each; where `names` is empty all but those of Core ML, which are for other
        machines than this and take minutes.

        IntegrityError where more than one of the chosen bundles is the default of one kind.
        """
        every = (self.get(name) for name in self.names())
        chosen = (
            [self.get(name) for name in dict.fromkeys(names)] if names else [one for one in every if not one.is_coreml]
        )
        for kind in sorted({bundle.kind for bundle in chosen}):
            defaults = [bundle.name for bundle in chosen if bundle.default and bundle.kind == kind]
            if len(defaults) > 1:
                raise IntegrityError(
                    f"{self.folder}: {' and '.join(defaults)} say default = true, but a kind ({kind}) has one default; "
                    "take it out of the others' bundle.toml."
                )
        return chosen


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path} is no UTF-8 text ({error}); save it as UTF-8.") from error
