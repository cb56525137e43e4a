"""``imrnn-vdb factors list`` and ``imrnn-vdb factors report``: how good a model's named factors are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from imrnn_vdb.cli.common import console, exit_codes, json_option, model_option, print_json

_QUERIES = 60  # whose explanations are checked against the full vectors


@click.command("list", short_help="List a model's named factors, and how well each orders other text.")
@model_option
@json_option
@exit_codes
def list_factors(model: str, as_json: bool) -> None:
    """List a model's named factors with the held-out AUC that its checkpoint records; the weak ones are marked."""
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.factors.quality import WEAK_AUC, stored_auc

    loaded = IMRNNModel.from_pretrained(model)
    stored = stored_auc(loaded)
    rows = {name: stored.get(name, {"auc": None}) for name in loaded.space.names}
    weak = [name for name, row in rows.items() if row["auc"] is not None and row["auc"] < WEAK_AUC]
    if as_json:
        ids = {"model_id": loaded.model_id, "space_id": loaded.space.space_id}
        print_json({**ids, "factors": rows, "weak": weak})
        return
    for name, row in rows.items():
        sources = row.get("held_out", {}).items()
        told = ", ".join(f"{source} {held['auc']:.2f} by {held['judged_by']}" for source, held in sources)
        click.echo(f"{_line(name, row['auc'])} {'weak' if name in weak else '    '} {told}".rstrip())
    if weak:
        click.echo(f"weak: below {WEAK_AUC} on texts that had no part in the fit; before you filter by it,")
        click.echo("  measure it on texts of yours: imrnn-vdb factors report --text FILE")


@click.command()
@model_option
@click.option(
    "--text",
    type=click.Path(exists=True, path_type=Path),
    help="Measure AUC on texts of yours instead: JSONL, a file or a folder, as `fit --text` reads them.",
)
@click.option(
    "--seeds",
    type=click.IntRange(0),
    default=0,
    help="Also refit the axes on that many resamples of --text, and say how much of each comes back.",
)
@json_option
@exit_codes
def report(model: str, text: Path | None, seeds: int, as_json: bool) -> None:
    """Measure a model's named factors: held-out AUC, correlation, faithfulness, agreement with judged reasons."""
    if text is not None:
        _report_on(model, text, seeds, as_json)
        return
    if seeds:
        raise click.UsageError("--seeds refits the axes: name the texts of the fit with --text")
    found = _measured(model)
    if as_json:
        print_json(found)
        return
    out = console()
    for name, row in found["factors"].items():
        alike = f"most like {row['most_like']} ({row['correlation']:+.2f})"
        out.print(f"{_line(name, row['auc'])}   {alike}", markup=False)
    told, faithful = found["agreement"], found["faithfulness"]
    for part, share in told["reasons"].items():
        out.print(f"judged reason among the top three, {part}: {share['value']:.1%} of {share['cases']}")
    out.print(f"  by largest contribution instead: {told['contributions']['all']['value']:.1%}")
    out.print(f"removing the top three changes a score by their sum to {faithful['largest_error']:.1e}")
    out.print(f"  and ranks as predicted: {faithful['ranks_as_predicted']:.1%} of {faithful['results']} results")


def _line(name: str, auc: float | None) -> str:
    return f"{name:<16} AUC {'  -  ' if auc is None else format(auc, '.3f')}"


def _report_on(name: str, text: Path, seeds: int, as_json: bool) -> None:
    """Measure the AUC of a model's named factors on given texts, by source, and their stability on resamples."""
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.encoders import EncoderConfig, TransformerEncoder
    from imrnn_vdb.factors.quality import stability
    from imrnn_vdb.fitting import factor_labels, measure_factors, read_texts
    from imrnn_vdb.fitting.probes import MIN_TEXTS

    model = IMRNNModel.from_pretrained(name)
    data = read_texts(text, list(model.space.names))
    encoder = TransformerEncoder(model.encoder or EncoderConfig("minilm"))
    vectors = encoder.encode_passages(data.texts, "encoding")
    found = measure_factors(model.space, data.texts, vectors, data.sources, data.labels)
    rows = {name: {source: asdict(auc) for source, auc in by_source.items()} for name, by_source in found.items()}
    labels = factor_labels(data.texts, data.sources, data.labels) if seeds else {}
    stable = stability(model.space, vectors, data.sources, labels, seeds) if seeds else {}
    if as_json:
        told_ids = {"model_id": model.model_id, "space_id": model.space.space_id}
        print_json({**told_ids, "factors": rows, "stability": stable})
        return
    for factor, by_source in found.items():
        told = (
            f"{source} {auc.auc:.3f} (by {auc.judged_by}, {auc.positives} of {auc.texts})"
            for source, auc in by_source.items()
        )
        if by_source:
            click.echo(f"{factor:<16} AUC {', '.join(told)}")
    few = [factor for factor, by_source in found.items() if not by_source]
    if few:
        click.echo(f"not measured, for no source has {MIN_TEXTS} texts that carry it, and as many that do not:")
        click.echo(f"  {', '.join(few)}")
    unknown = [factor for factor in model.space.names if factor not in found]
    if unknown:
        click.echo(f"not measured, for neither a word list nor a label in the texts tells it: {', '.join(unknown)}")
    for factor, cosine in stable.items():
        click.echo(f"{factor:<16} cosine with its refits on {seeds} resamples {cosine:.2f}")


def _measured(name: str) -> dict[str, Any]:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.encoders import EncoderConfig, TransformerEncoder
    from imrnn_vdb.factors import quality
    from imrnn_vdb.pydocs import read_stdlib
    from imrnn_vdb.pydocs.reasons import read_reasons
    from imrnn_vdb.training.embeddings import EmbeddingCache, unit_vectors

    model = IMRNNModel.from_pretrained(name)
    encoder, entries = TransformerEncoder(model.encoder or EncoderConfig("minilm")), read_stdlib()
    passages = [f"{entry.title}\n{entry.text}" for entry in entries]
    cached = EmbeddingCache().encode(encoder.encoder_id, "passage", passages, encoder.encode_passages)
    documents, triples = unit_vectors(cached), read_reasons(entries)
    queries = unit_vectors(encoder.encode_queries([triple.query for triple in triples]))
    space, stored = model.space, quality.stored_auc(model)
    alike = quality.strongest(space.names, quality.correlations(space, space.encode(documents).directions))
    return {
        "model_id": model.model_id,
        "space_id": space.space_id,
        "factors": {
            factor: {
                "auc": stored.get(factor, {}).get("auc"),
                "most_like": alike[factor][0],
                "correlation": alike[factor][1],
            }
            for factor in space.names
        },
        "agreement": asdict(quality.agreement(model, triples, queries, [entry.id for entry in entries], documents)),
        "faithfulness": asdict(quality.faithfulness(model, queries[:_QUERIES], documents)),
    }
