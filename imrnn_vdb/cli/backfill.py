"""``imrnn-vdb backfill``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    FAILED,
    console,
    exit_codes,
    flags,
    given,
    json_option,
    model_option,
    print_json,
    url_options,
)
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.progress import track

if TYPE_CHECKING:
    from imrnn_vdb.backfill import BackfillReport
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.verify import VerifyReport

_SHOWN, _DAY = 20, 86_400
_NOT_WITH_UNDO = ("dry_run", "where", "limit", "rate", "batch_size", "code_vector")
_NOT_WITH_VERIFY = ("rate", "code_vector")


@click.command()
@url_options
@model_option
@click.option("--batch-size", type=click.IntRange(1), default=500, show_default=True, help="Points written at a time.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Points a second at most.")
@click.option("--limit", type=click.IntRange(1), help="Points looked at, at most.")
@click.option("--where", help="Only points that match: an expression for Milvus, JSON of a Filter for Qdrant.")
@click.option("--dry-run", is_flag=True, help="Count what would be written, and write nothing.")
@click.option("--in-place", is_flag=True, help="Nobody else writes now: Milvus may rewrite rows.")
@click.option("--code-vector", is_flag=True, help="Put codes into a vector of their own, where the server can add one.")
@click.option("--follow", type=click.FloatRange(0), metavar="SECONDS", help="Repeat, so long after each pass.")
@click.option("--verify", is_flag=True, help="Only compare stored codes with the vectors; ends with 1 if any differs.")
@click.option("--sample", type=click.IntRange(1), help="With --verify: so many points at random; all if unset.")
@click.option("--undo", is_flag=True, help="Remove codes, factor scores, indexes and sidecar, and nothing else.")
@click.option("--space", metavar="ID", help="With --undo: of this space; the model's if unset.")
@json_option
@exit_codes
def backfill(
    where: str | None,
    code_vector: bool,
    follow: float | None,
    verify: bool,
    sample: int | None,
    undo: bool,
    space: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write factor codes for the points of the collection at URL, from their stored vectors.

    Base vectors and foreign payload stay as they are. It may be killed and run again at any moment.
    """
    from imrnn_vdb.collection import IMRNNCollection

    if verify + undo + (follow is not None) > 1:
        raise InvalidInputError("--verify, --undo and --follow exclude one another")
    if follow is not None and not follow <= _DAY:  # NaN passes click's range
        raise InvalidInputError(f"--follow waits at most a day, {_DAY} seconds, after each pass")
    if (space and not undo) or (sample and not verify):
        raise InvalidInputError("--space belongs to --undo, and --sample to --verify")
    if undo:
        _refuse(_NOT_WITH_UNDO, "--undo removes all codes of a space, and can be neither bounded nor tried")
    if verify:
        _refuse(_NOT_WITH_VERIFY, "--verify writes nothing and has no pace")
    if sample:
        _refuse(("limit",), "--sample says already how many points --verify reads")
    names = ("batch_size", "rate", "limit", "dry_run", "in_place")
    how = {name: options.pop(name) for name in names}
    with IMRNNCollection.open(**options) as collection:
        how["payload_filter"] = collection.parse_filter(where) if where else None
        if code_vector and not (undo or verify or how["dry_run"]):
            collection.add_code_vector()
        if undo:
            _undo(collection, space, how["in_place"], as_json)
        elif verify:
            _verify(collection, sample, how, as_json)
        else:
            _fill(collection, how, follow, as_json)


def _refuse(names: Sequence[str], why: str) -> None:
    """Refuse options that would be ignored, where they are given, be it with their default value."""
    if ignored := given(*names):
        raise InvalidInputError(f"{why}: leave {flags(ignored)} out")


def _fill(collection: IMRNNCollection, how: dict[str, Any], follow: float | None, as_json: bool) -> None:
    while True:
        with _bar(collection, "reading" if how["dry_run"] else "writing codes", how) as advance:
            report = collection.backfill(progress=advance, **how)
        if as_json:
            print_json(asdict(report))
        else:
            _show(report, dry_run=how["dry_run"])
        if follow is None:
            return
        time.sleep(follow)


def _show(report: BackfillReport, *, dry_run: bool) -> None:
    out = console()
    verb = "would write" if dry_run else "wrote"
    out.print(f"{verb} {report.written} of {report.seen} codes; {report.current} were current", markup=False)
    if report.orphans:
        out.print(f"removed {report.orphans} codes whose points are gone", markup=False)
    if report.unsettled:
        out.print(f"{report.unsettled} points kept changing: run again, or with --follow", markup=False)
    for failure in report.failures[:_SHOWN]:
        out.print(f"point {failure.id!r} has no code: {failure.reason}", markup=False)
    if report.failed > _SHOWN:
        out.print(f"... and {report.failed - _SHOWN} more points without a code", markup=False)


def _verify(collection: IMRNNCollection, sample: int | None, how: dict[str, Any], as_json: bool) -> None:
    with _bar(collection, "comparing", how, sample) as advance:
        report: VerifyReport = collection.verify(sample, progress=advance, **how)
    if as_json:
        print_json(asdict(report))
    else:
        _show_differing(report)
    if not report.intact:
        sys.exit(FAILED)


def _show_differing(report: VerifyReport) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in report.differing.items()) or "none differs"
    console().print(f"compared {report.checked} codes: {counts}", markup=False)
    for value in report.ids[:_SHOWN]:
        console().print(f"  point {value!r}", markup=False)
    if (more := sum(report.differing.values()) - len(report.ids[:_SHOWN])) > 0:
        console().print(f"... and {more} more", markup=False)


def _undo(collection: IMRNNCollection, space: str | None, in_place: bool, as_json: bool) -> None:
    with track("removing", collection.info().count) as advance:
        number = collection.undo(space, in_place=in_place, progress=advance)
    name = space or collection.model.space.space_id
    if as_json:
        print_json({"space": name, "stripped": number})
    else:
        console().print(f"nothing of space {name} is left; {number} points held codes themselves", markup=False)


def _bar(collection: IMRNNCollection, title: str, how: dict[str, Any], sample: int | None = None) -> Any:
    bounds = [bound for bound in (how["limit"], sample) if bound is not None]
    return track(title, min([collection.count(how["payload_filter"]), *bounds]))
