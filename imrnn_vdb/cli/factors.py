"""``imrnn-vdb factors``: list, report, add, topics and ends."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    ModelFolder,
    OutFile,
    console,
    exit_codes,
    flags,
    given,
    json_option,
    model_option,
    print_json,
    save_model,
    typed_ids,
    url_options,
    without_text,
)
from imrnn_vdb.cli.factor_report import list_factors, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.codec import FloatArray
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.factors.topics import Topics
    from imrnn_vdb.points import Points

_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_WAYS = (("positive", "negative"), ("positive_id", "negative_id"), ("field", "value"), ("words",), ("topics",))
"""Options of `add` that say what carries the factor: one way, whole."""


@click.group()
def factors() -> None:
    """Say how good factors are, add one's own, find topics of a collection."""


factors.add_command(list_factors)
factors.add_command(report)


@factors.command(short_help="Add a factor of one's own to a model.")
@url_options
@click.argument("name")
@model_option
@click.option("--positive", type=_file, help="Texts that carry the factor, one a line.")
@click.option("--negative", type=_file, help="Texts that do not, one a line.")
@click.option("--positive-id", multiple=True, metavar="ID", help="A point that carries the factor; repeatable.")
@click.option("--negative-id", multiple=True, metavar="ID", help="A point that does not; repeatable.")
@click.option("--field", help="Payload field that tells the two apart.")
@click.option("--value", help="Value of that field in points that carry the factor.")
@click.option("--words", help="Weak rule: texts with most of these words carry the factor.")
@click.option("--topics", type=_file, help="File of `factors topics --out`: NAME is one of its topics.")
@click.option("--sample", type=click.IntRange(1), default=5000, show_default=True, help="Points read at most.")
@click.option("--out", type=ModelFolder(), required=True, help="Folder for the model.")
@json_option
@exit_codes
def add(name: str, topics: Path | None, sample: int, out: Path, as_json: bool, **options: Any) -> None:
    """Add the factor NAME, fitted on examples, to the model of the collection at URL."""
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.factors.own import add_factor
    from imrnn_vdb.factors.topics import Topics

    way = _way()
    told = {key: options.pop(key) for key in ("positive", "negative", "field", "value", "words")}
    ids = [options.pop("positive_id"), options.pop("negative_id")]
    with IMRNNCollection.open(**options) as collection:
        points, model = collection.sample(sample), collection.model
        codes = _codes(model, points)
        if topics is not None:
            inside = Topics.load(topics).checked(model.space).members(name, codes)
            yes, no = codes[inside], codes[~inside]
        elif "positive" in way:
            yes, no = (model.space.encode(collection.encode_passages(_lines(told[key]))).directions for key in way)
        elif "positive_id" in way:
            yes, no = (_codes(model, _points(collection, chosen)) for chosen in ids)
        else:
            if "words" in way and (reason := without_text(collection, points.payloads)):
                raise InvalidInputError(reason)
            texts = [collection.text_of(payload) for payload in points.payloads]
            labels = _labels(points, texts, told["field"], told["value"], told["words"])
            yes, no = codes[labels == 1], codes[labels == 0]
    own = add_factor(model.space, name, yes, no, reference=codes)
    evidence = {**model.evidence, "own": {**model.evidence.get("own", {}), name: own.evidence()}}
    save_model(replace(model, space=own.space, evidence=evidence), out)
    if as_json:
        print_json({"name": name, "out": str(out), "space_id": own.space.space_id, **own.evidence()})
        return
    click.echo(f"{name}: held-out AUC {own.auc:.3f} on {own.positives} positive and {own.negatives} negative examples")
    click.echo(f"{own.kept:.0%} of it is new to the named factors; saved to {out}, stored codes stay valid")
    click.echo(f"filters by it need its scores beside the points: imrnn-vdb backfill URL --model {out}")


@factors.command(short_help="Find topics of a collection.")
@url_options
@model_option
@click.option("--coarse", type=click.IntRange(1), default=12, show_default=True, help="Coarse topics.")
@click.option("--fine", type=click.IntRange(0), default=4, show_default=True, help="Finer topics under each.")
@click.option("--sample", type=click.IntRange(1), default=5000, show_default=True, help="Points read at most.")
@click.option("--extend", type=_file, help="Topics found before: keep them, append what is new.")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Give a topic another name.")
@click.option("--out", type=OutFile(), help="JSON file for the topics.")
@json_option
@exit_codes
def topics(
    coarse: int,
    fine: int,
    sample: int,
    extend: Path | None,
    rename: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find topics of the collection at URL, named by their terms."""
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.factors.topics import Topics, find_topics

    with IMRNNCollection.open(**options) as collection:
        points, model = collection.sample(sample), collection.model
        texts = [collection.text_of(payload) for payload in points.payloads]
        reason = without_text(collection, points.payloads)
    codes = _codes(model, points)
    if reason:
        click.echo(f"topics have no terms to be named by: {reason}", err=True)
    if extend:
        found = Topics.load(extend).checked(model.space).extended(codes, texts, coarse)
    else:
        found = find_topics(model.space, codes, texts, coarse, fine)
    for pair in rename:
        old, _, new = pair.partition("=")
        found = found.renamed(old, new)
    try:
        _print_topics(found, as_json)
    finally:  # whoever reads this may have read enough before its end
        if out:
            found.save(out)


def _print_topics(found: Topics, as_json: bool) -> None:
    if as_json:
        print_json([{key: value for key, value in asdict(topic).items() if key != "centre"} for topic in found.topics])
        return
    for topic in found.level():
        click.echo(f"{topic.count:>6}  {topic.name}: {', '.join(topic.terms)}")
        for finer in found.level(topic.name):
            click.echo(f"{finer.count:>10}  {finer.name}")


@factors.command(short_help="Show what a factor orders a collection by.")
@url_options
@click.argument("factor")
@model_option
@click.option("--sample", type=click.IntRange(2), default=5000, show_default=True, help="Points read at most.")
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="Documents at each end.")
@json_option
@exit_codes
def ends(factor: str, sample: int, count: int, as_json: bool, **options: Any) -> None:
    """Show what FACTOR orders the collection at URL by: a name, or latent_N as `explain` calls those without one."""
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.explain import ends_table
    from imrnn_vdb.factors.ends import factor_column, factor_ends

    with IMRNNCollection.open(**options) as collection:
        factor_column(collection.model.space, factor)  # before anything is read
        points = collection.sample(sample)
        found = factor_ends(collection.model.space, points, factor, count, collection.text_field)
    if as_json:
        print_json(found.to_dict())
        return
    console().print(ends_table(found))


def _points(collection: IMRNNCollection, ids: Sequence[str]) -> Points:
    """Read points with their vectors; ids are typed, so a number may be one or a text."""
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.points import possible_ids

    known = collection.fetch(possible_ids(ids)).ids
    found = collection.fetch(typed_ids(known, dict.fromkeys(ids)), with_vectors=True)
    missing = set(ids) - {str(point_id) for point_id in found.ids}
    if missing:
        raise InvalidInputError(f"no point has the id {', '.join(sorted(missing))}")
    return found


def _way() -> tuple[str, ...]:
    """Return the options that say what carries the factor, if they are those of one way."""
    from imrnn_vdb.errors import InvalidInputError

    found = [way for way in _WAYS if given(*way)]
    if len(found) != 1 or len(given(*found[0])) < len(found[0]):
        ways = "; ".join(" with ".join(flags([name]) for name in way) for way in _WAYS)
        raise InvalidInputError(f"say in one of these ways what carries the factor: {ways}")
    return found[0]


def _labels(points: Points, texts: Sequence[str], field: str | None, value: str | None, words: str | None) -> Any:
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.factors.own import split_by_field, split_by_rule
    from imrnn_vdb.fitting.labels import from_words
    from imrnn_vdb.payloads import keys_of

    if field is None or value is None:
        return split_by_rule(texts, from_words(words or ""))
    labels = split_by_field(points.payloads, field, value)
    if (labels < 0).all():
        known = keys_of(points.payloads)
        raise InvalidInputError(f"none of {len(labels)} points has the payload field {field!r}; they have: {known}")
    return labels


def _codes(model: IMRNNModel, points: Points) -> FloatArray:
    from imrnn_vdb.errors import InvalidInputError

    if points.vectors is None or not len(points):
        raise InvalidInputError("the collection is empty: there is nothing to fit on")
    return model.space.encode(points.vectors).directions


def _lines(path: Path) -> list[str]:
    from imrnn_vdb.datasets import read_lines

    return [line for _, line in read_lines(path)]
