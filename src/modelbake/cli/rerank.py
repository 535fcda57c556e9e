"""modelbake rerank: documents by their relevance to a query, from the manifest alone."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake import manifest
from modelbake.cli.options import load_settings, models_dir_option, speaking, stdin_lines
from modelbake.output import out


@click.command("rerank")
@click.option(
    "--bundle",
    "name",
    help="The bundle to rerank with [default: the default reranker of the models folder, or its only one].",
)
@click.option("--query", required=True, help="What the documents are to answer.")
@click.option("--document", "documents", multiple=True, help="A document; may be repeated.")
@click.option("--stdin", "from_stdin", is_flag=True, help="One document per line of standard input.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads to compute with [default: MODELBAKE_THREADS, else as many as there are usable cores].",
)
@click.option("--top", type=click.IntRange(min=1), help="Give only that many of the best.")
@models_dir_option
@speaking
def command(
    name: str | None,
    query: str,
    documents: tuple[str, ...],
    from_stdin: bool,
    threads: int | None,
    top: int | None,
    models_dir: Path | None,
) -> None:
    """Score documents against a query and print them best first, or with --json one object:
    {"bundle", "weights", "query", "results": [{"index", "score", "document"}]}; index is the document's place, from 0."""
    if bool(documents) == from_stdin:
        raise click.UsageError(
            "Give documents with --document, or --stdin: one of the two.", click.get_current_context()
        )
    from modelbake.runtime.reranker import Reranker, default_reranker

    settings = load_settings(models_dir)
    folder = settings.models_dir
    found = manifest.read(folder)
    entry = found.bundle_or_default(name) if name else default_reranker(found)
    if entry.weights == "sample":
        out.warn(f"{entry.name} has SAMPLE WEIGHTS (random): its scores mean nothing.")
    texts = list(stdin_lines()) if from_stdin else list(documents)
    ranking = Reranker(entry, folder, threads or settings.threads).rank(query, texts, top)
    results = [{"index": one.index, "score": one.score, "document": texts[one.index]} for one in ranking]
    data = {"bundle": entry.name, "weights": entry.weights, "query": query, "results": results}
    out.result(data, (f"{one.score:.6g}\t{texts[one.index]}" for one in ranking))
