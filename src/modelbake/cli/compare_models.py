"""scripts/coreml/test_models.py: the built Core ML text encoder against sentence-transformers, sentence by sentence."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake import manifest
from modelbake.catalog import Catalog
from modelbake.cli.convert_embedding import BUNDLE
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.coreml import PROVES
from modelbake.errors import ParityError, UsageError
from modelbake.output import out, table

# Of float32 arithmetic in another order, on embeddings of unit length.
TOLERANCE = 1e-5
COUNT = 10
_SHOWN = 48


@click.command("test_models.py", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sentences", nargs=-1)
@click.option("--bundle", default=BUNDLE, show_default=True, help="A built bundle of the kind coreml_text_encoder.")
@models_dir_option
@speaking
def command(sentences: tuple[str, ...], bundle: str, models_dir: Path | None) -> None:
    """Compare the fp32 package's embeddings of SENTENCES (default: ten of the bundle's evaluation set) with the reference's.

    Exit code 6 where one differs by more than 1e-5. The smaller packages have gates of their own: `modelbake verify`.
    """
    settings = load_settings(models_dir)
    entry = manifest.read(settings.models_dir).bundle(bundle)
    definition = Catalog(settings.bundles_dir).get(bundle)
    chosen = sentences or _spread(definition.evaluation)
    if not chosen or not all(sentence.strip() for sentence in chosen):
        raise UsageError(f"{bundle} has no evaluation.txt, or a sentence is empty; give sentences.")

    # torch and sentence-transformers take seconds to load.
    from modelbake.export.coreml.comparison import compare
    from modelbake.pipeline import Pipeline

    found = compare(entry, settings.models_dir, Pipeline(settings).source_files(definition), chosen)
    # A difference that is no number is no pass.
    verdicts = ["PASS" if one.max_abs <= TOLERANCE else "FAIL" for one in found]
    rows = [
        [f"{one.max_abs:.2e}", f"{one.mean_abs:.2e}", verdict, str(one.tokens), _short(one.sentence)]
        for one, verdict in zip(found, verdicts, strict=True)
    ]
    failed = verdicts.count("FAIL")
    out.result(
        {
            "bundle": entry.name,
            "weights": entry.weights,
            "tolerance": TOLERANCE,
            "proves": PROVES,
            "sentences": [
                {
                    "sentence": one.sentence,
                    "tokens": one.tokens,
                    "max_abs_diff": one.max_abs,
                    "mean_abs_diff": one.mean_abs,
                    "cosine": one.cosine,
                    "passed": verdict == "PASS",
                }
                for one, verdict in zip(found, verdicts, strict=True)
            ],
        },
        [
            *table(["max difference", "mean difference", "result", "tokens", "sentence"], rows),
            f"{len(found) - failed} of {len(found)} within {TOLERANCE:g} of sentence-transformers ({entry.weights} weights)",
            PROVES,
        ],
    )
    if failed:
        raise ParityError(
            f"{bundle}: {failed} of {len(found)} sentences differ by more than {TOLERANCE:g} from sentence-transformers; "
            "do not use the package, and build the bundle again (convert_embedding.py)."
        )


def _spread(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Some of all: the first, the last, and those evenly between, since they are sorted by length."""
    if len(texts) <= COUNT:
        return texts
    return tuple(texts[round(i * (len(texts) - 1) / (COUNT - 1))] for i in range(COUNT))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
