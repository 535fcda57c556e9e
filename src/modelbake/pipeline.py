"""The steps in order: fetch, export, verify, manifest. Each is a pure function of its inputs, made once, kept in the step cache."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from modelbake import manifest, parity
from modelbake.bundle import Bundle
from modelbake.cache import StepCache, code_digest
from modelbake.errors import IntegrityError, ModelbakeError, RefusedError
from modelbake.export.artifact import Draft, Export, decode_export, encode_export
from modelbake.export.families import FAMILIES
from modelbake.files import disk_errors, file_refs, link_or_copy
from modelbake.install import install
from modelbake.manifest import Artifact, BundleEntry, FileRef, Parity
from modelbake.output import out
from modelbake.settings import Settings
from modelbake.sources.fetch import FILES_FOLDER, Fetched, Fetcher, check_files, read_fetched

_VERIFY_CODE = ("modelbake.parity", "modelbake.goldens", "modelbake.runtime")
_VERIFY_PACKAGES = ("numpy", "onnxruntime", "pillow", "tokenizers", "regex", "ftfy")


@dataclass(frozen=True)
class Pipeline:
    """The steps for one project and its settings; `locked` refuses bundles whose bytes are not pinned."""

    settings: Settings
    locked: bool = False

    def fetch(self, bundle: Bundle, to: Path) -> Fetched:
        """Bring the bundle's source files into `to`, in the form that `build` takes as `sources`."""
        self._refuse_unpinned(bundle)
        with disk_errors(to), closing(out.progress(None, f"{bundle.name}: fetch")) as progress:
            return Fetcher(self.settings, progress).fetch(
                bundle, self.settings.weights, lambda folder, seed: self._draw(bundle, folder, seed), to
            )

    def _draw(self, bundle: Bundle, folder: Path, seed: int) -> None:
        """Fill `folder` with the bundle's sample weights, drawn now or earlier."""
        family = FAMILIES[bundle.kind]
        key = {
            "bundle": bundle.digest,
            "seed": seed,
            "code": code_digest((*family.code, family.module)),
            "versions": {package: version(package) for package in family.packages},
        }

        def make(to: Path) -> None:
            out.info(f"{bundle.name}: drawing sample weights (seed {seed})")
            _sample(bundle, to, seed)

        drawn = StepCache(self.settings.cache_dir / "steps").result("sample", key, make)
        for ref in file_refs(drawn):
            link_or_copy(drawn / ref.path, folder / ref.path)

    def _refuse_unpinned(self, bundle: Bundle) -> None:
        if self.locked and not bundle.pinned:
            raise RefusedError(
                f"{bundle.name}: its bundle.toml says pinned = false, and --locked takes pinned bytes alone. "
                "Look up the commit and every sha256, write them into the definition, and set pinned = true."
            )

    def sources_folder(self, bundle: Bundle) -> Path:
        """Where the bundle's source files go when no other folder is named."""
        return self.settings.cache_dir / "sources" / bundle.name

    def build(self, bundle: Bundle, sources: Path | None = None) -> BundleEntry:
        """Make the bundle and put it into the models folder and its manifest.

        `sources` is a folder that `fetch` filled; without it the sources are fetched first. Nothing is put into the models
        folder unless every artifact kept its gate.
        """
        self._refuse_unpinned(bundle)
        cache = StepCache(self.settings.cache_dir / "steps")
        if sources is None:
            sources = self.sources_folder(bundle)
            self.fetch(bundle, sources)
        fetched = read_fetched(sources)
        if fetched.definition != bundle.digest:
            raise IntegrityError(
                f"{sources} was fetched for another version of {bundle.name}'s bundle.toml; fetch it again."
            )
        exported = self._export(cache, bundle, fetched, sources)
        figures = self._verify(cache, bundle, exported)
        entry = _entry(bundle, fetched, exported, figures)
        install(self.settings.models_dir, entry, exported / "models")
        return entry

    def _export(self, cache: StepCache, bundle: Bundle, fetched: Fetched, sources: Path) -> Path:
        family = FAMILIES[bundle.kind]

        def make(folder: Path) -> None:
            out.info(f"{bundle.name}: exporting ({fetched.weights} weights)")
            check_files(sources, fetched)
            export = family.export(bundle, sources / FILES_FOLDER, folder / "models")
            (folder / "export.json").write_bytes(encode_export(export))

        key = {
            "bundle": bundle.digest,
            "source": msgspec.to_builtins(fetched.source),
            "code": code_digest((*family.code, family.module)),
            "versions": {package: version(package) for package in family.packages},
        }
        return cache.result("export", key, make)

    def _verify(self, cache: StepCache, bundle: Bundle, exported: Path) -> dict[str, Parity]:
        export = decode_export((exported / "export.json").read_bytes())

        def make(folder: Path) -> None:
            out.info(f"{bundle.name}: verifying")
            gate = bundle.gates.max_abs_diff
            golden = exported / "models" / export.goldens
            figures = {draft.path: parity.replay(exported / "models", draft, golden, gate) for draft in export.drafts}
            (folder / "parity.json").write_bytes(msgspec.json.encode(figures))

        key = {
            "exported": exported.name,
            "gate": bundle.gates.max_abs_diff,
            "code": code_digest(_VERIFY_CODE),
            "versions": {package: version(package) for package in _VERIFY_PACKAGES},
        }
        result = cache.result("verify", key, make)
        return msgspec.json.decode((result / "parity.json").read_bytes(), type=dict[str, Parity])


def _sample(bundle: Bundle, folder: Path, seed: int) -> None:
    FAMILIES[bundle.kind].sample(bundle, folder, seed)


def _entry(bundle: Bundle, fetched: Fetched, exported: Path, figures: dict[str, Parity]) -> BundleEntry:
    root = exported / "models"
    export: Export = decode_export((exported / "export.json").read_bytes())
    files = file_refs(root)
    refs = {ref.path: ref for ref in files}
    listed = {path for d in export.drafts for path in (d.path, *d.external_data)} | {
        export.goldens,
        *export.extra_files,
    }
    if refs.keys() != listed:
        raise ModelbakeError(f"{bundle.name}: the exporter wrote {sorted(refs)}, but names {sorted(listed)}.")
    return BundleEntry(
        name=bundle.name,
        version=bundle.version,
        kind=bundle.kind,
        description=bundle.description,
        licence=bundle.licence,
        weights=fetched.weights,
        pinned=bundle.pinned,
        source=fetched.source,
        artifacts=tuple(_artifact(refs, draft, figures[draft.path]) for draft in export.drafts),
        goldens=refs[export.goldens],
        files=files,
        digest=manifest.bundle_digest(files),
    )


def _artifact(refs: dict[str, FileRef], draft: Draft, figures: Parity) -> Artifact:
    graph = refs[draft.path]
    return Artifact(
        path=graph.path,
        sha256=graph.sha256,
        size=graph.size,
        format="onnx",
        role=draft.role,
        precision="fp32",
        inputs=draft.inputs,
        outputs=draft.outputs,
        parity=figures,
        tools=draft.tools | {"onnxruntime": version("onnxruntime")},
        external_data=tuple(refs[path] for path in draft.external_data),
        embedding_dimension=draft.embedding_dimension,
        normalized=draft.normalized,
        preprocessing=draft.preprocessing,
        tokenizer=draft.tokenizer,
    )
