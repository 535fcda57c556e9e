"""The steps in order: fetch, export, quantize, verify, manifest. Each is a pure function of its inputs, made once and kept."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec.structs import replace

from modelbake import manifest, parity, quantize
from modelbake.bundle import Bundle, Gates, refuse_unpinned
from modelbake.cache import StepCache, code_digest
from modelbake.digests import Digests
from modelbake.errors import IntegrityError, ModelbakeError, RefusedError
from modelbake.export.artifact import Draft, Export, decode_export, encode_export
from modelbake.export.families import FAMILIES
from modelbake.files import disk_errors, link_or_copy
from modelbake.install import install
from modelbake.manifest import Artifact, BundleEntry, FallbackRecord, FileRef, Parity, Quality, Weights
from modelbake.output import out
from modelbake.settings import Settings
from modelbake.sources.fetch import Fetcher
from modelbake.sources.fetched import DEPLOYED, FILES_FOLDER, Fetched, check_files, read_fetched

# Of weights that somebody deployed, in the manner of SPDX; the definition's licence is that of its own sources.
UNSTATED_LICENCE = "LicenseRef-unstated"


class Figures(msgspec.Struct, frozen=True):
    """What verifying found, by artifact path: parity of the fp32 artifacts, quality of the smaller variants."""

    parity: dict[str, Parity]
    quality: dict[str, Quality]


@dataclass(frozen=True)
class Pipeline:
    """The steps for one project and its settings."""

    settings: Settings

    @property
    def _digests(self) -> Digests:
        return Digests(self.settings.cache_dir)

    @property
    def _cache(self) -> StepCache:
        return StepCache(self.settings.cache_dir / "steps", self._digests.refs)

    def fetch(self, bundle: Bundle, to: Path) -> Fetched:
        """Bring the bundle's source files into `to`, in the form that `build` takes as `sources`."""
        self._refuse_unpinned(bundle)
        with disk_errors(to), closing(out.progress(None, f"{bundle.name}: fetch")) as progress:
            fetched = Fetcher(self.settings, progress).fetch(
                bundle, self.settings.weights, lambda seed: self._sample(bundle, seed), to
            )
        self._refuse_deployed(bundle, fetched)
        return fetched

    def _refuse_deployed(self, bundle: Bundle, fetched: Fetched) -> None:
        if self.settings.locked and fetched.source.type == DEPLOYED:
            raise RefusedError(
                f"{bundle.name}: {fetched.source.files[0].path} in the models folder is weights of your own, and --locked takes "
                "pinned bytes alone. Take the file away, or build without --locked."
            )

    def _refuse_unpinned(self, bundle: Bundle) -> None:
        if self.settings.locked:
            refuse_unpinned([bundle])

    def sources_folder(self, bundle: Bundle) -> Path:
        """Where the bundle's source files go when no other folder is named."""
        return self.settings.cache_dir / "sources" / bundle.name

    def source_files(self, bundle: Bundle) -> Path:
        """The folder in it of the files themselves."""
        return self.sources_folder(bundle) / FILES_FOLDER

    def build(self, bundle: Bundle, sources: Path | None = None) -> BundleEntry:
        """Make the bundle and put it into the models folder and its manifest.

        `sources` is a folder that `fetch` filled; without it the sources are fetched first. Nothing is put into the models
        folder unless every artifact kept its gate.
        """
        self._refuse_unpinned(bundle)
        if sources is None:
            sources = self.sources_folder(bundle)
            self.fetch(bundle, sources)
        fetched = read_fetched(sources)
        candidates = bundle.candidates
        if fetched.definition != bundle.digest or len(fetched.passed_over) >= len(candidates):
            raise IntegrityError(
                f"{sources} was fetched for another version of {bundle.name}'s bundle.toml; fetch it again."
            )
        bundle = candidates[len(fetched.passed_over)]
        self._refuse_unpinned(bundle)
        self._refuse_deployed(bundle, fetched)
        exported = self._export(bundle, fetched, sources)
        made = self._quantize(bundle, exported)
        figures = self._verify(bundle, made, fetched.weights)
        entry = _entry(bundle, fetched, made, figures, self._digests)
        install(self.settings.models_dir, entry, made / "models", self._digests)
        return entry

    def _sample(self, bundle: Bundle, seed: int) -> Path:
        family = FAMILIES[bundle.kind]

        def make(folder: Path) -> None:
            out.info(f"{bundle.name}: drawing sample weights (seed {seed})")
            family.sample(bundle, folder, seed)

        key = {
            "model": msgspec.to_builtins(bundle.model),
            "seed": seed,
            "code": code_digest((*family.code, family.module)),
            "versions": {package: version(package) for package in family.packages},
        }
        return self._cache.result("sample", key, make)

    def _export(self, bundle: Bundle, fetched: Fetched, sources: Path) -> Path:
        family = FAMILIES[bundle.kind]
        # Without what later steps alone read: an exporter cannot depend on it, and another gate or licence exports nothing anew.
        variants = () if family.quantizer else tuple(replace(v, gates=type(v)().gates) for v in bundle.variants)
        bundle = replace(
            bundle, variants=variants, gates=Gates(), version="0.0.0", description="", licence="", default=False
        )

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
        return self._cache.result("export", key, make)

    def _quantize(self, bundle: Bundle, exported: Path) -> Path:
        """A folder like `exported`, with the bundle's smaller variants in it."""
        quantizer = FAMILIES[bundle.kind].quantizer
        if quantizer is None or not bundle.variants:
            return exported

        def make(folder: Path) -> None:
            out.info(f"{bundle.name}: quantizing")
            for path in sorted(path for path in exported.rglob("*") if path.is_file()):
                link_or_copy(path, folder / path.relative_to(exported))
            export = decode_export((exported / "export.json").read_bytes())
            (folder / "export.json").unlink()
            export = quantizer.quantize(folder / "models", export, bundle.variants)
            (folder / "export.json").write_bytes(encode_export(export))

        key = {
            "exported": exported.name,
            # What is made, not what it must reach: verifying has the gates in its key.
            "variants": msgspec.to_builtins([replace(v, gates=type(v)().gates) for v in bundle.variants]),
            "code": code_digest(quantizer.code),
            "versions": {package: version(package) for package in quantizer.packages},
        }
        return self._cache.result("quantize", key, make)

    def _verify(self, bundle: Bundle, exported: Path, weights: Weights) -> Figures:
        runtime = FAMILIES[bundle.kind].runs_with
        export = decode_export((exported / "export.json").read_bytes())

        def make(folder: Path) -> None:
            out.info(f"{bundle.name}: verifying")
            gate = bundle.gates.max_abs_diff
            golden = exported / "models" / export.goldens
            figures = Figures({}, {})
            for draft in export.drafts:
                if draft.precision == "fp32":
                    figures.parity[draft.path] = parity.replay(exported / "models", draft, golden, gate)
                else:
                    gates = quantize.variant_of(draft, bundle.variants).gates
                    if weights == "sample":
                        # To random weights all texts are about equally near: which are nearest is not a property of the variant.
                        gates = replace(gates, top10_overlap=0.0)
                    figures.quality[draft.path] = parity.appraise(exported / "models", draft, golden, gates)
            (folder / "parity.json").write_bytes(msgspec.json.encode(figures))

        key = {
            "exported": exported.name,
            "weights": weights,
            "gate": bundle.gates.max_abs_diff,
            "variants": msgspec.to_builtins(bundle.variants),
            "code": code_digest(runtime.code),
            "versions": {package: version(package) for package in runtime.packages},
        }
        result = self._cache.result("verify", key, make)
        return msgspec.json.decode((result / "parity.json").read_bytes(), type=Figures)


def _entry(bundle: Bundle, fetched: Fetched, exported: Path, figures: Figures, digests: Digests) -> BundleEntry:
    root = exported / "models"
    export: Export = decode_export((exported / "export.json").read_bytes())
    files = digests.refs(root)
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
        licence=UNSTATED_LICENCE if fetched.source.type == DEPLOYED else bundle.licence,
        weights=fetched.weights,
        pinned=bundle.pinned and fetched.source.type != DEPLOYED,
        source=fetched.source,
        artifacts=tuple(_artifact(refs, draft, figures) for draft in export.drafts),
        goldens=refs[export.goldens],
        files=files,
        digest=manifest.bundle_digest(files),
        default=bundle.default,
        fallback=FallbackRecord(bundle.model.model, fetched.passed_over) if fetched.passed_over else None,
    )


def _artifact(refs: dict[str, FileRef], draft: Draft, figures: Figures) -> Artifact:
    graph = refs[draft.path]
    return Artifact(
        path=graph.path,
        sha256=graph.sha256,
        size=graph.size,
        format=draft.format,
        role=draft.role,
        precision=draft.precision,
        inputs=draft.inputs,
        outputs=draft.outputs,
        parity=figures.parity.get(draft.path),
        quality=figures.quality.get(draft.path),
        tools=draft.tools | ({"onnxruntime": version("onnxruntime")} if draft.format == "onnx" else {}),
        external_data=tuple(refs[path] for path in draft.external_data),
        embedding_dimension=draft.embedding_dimension,
        normalized=draft.normalized,
        activation=draft.activation,
        preprocessing=draft.preprocessing,
        tokenizer=draft.tokenizer,
        coreml=draft.coreml,
    )
