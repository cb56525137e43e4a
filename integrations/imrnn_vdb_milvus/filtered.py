"""Searches with a factor filter where the factor scores lie in a sidecar, which Milvus cannot join.

Three ways find the matches. Two search a *window* of the nearest points: the sidecar is *asked* which of them match, or
the keys of all matches are *read* meanwhile; a window that held too few grows by the share that matched. In the third
the matches are *listed*, and the search runs in these alone. Counts of what matches are remembered as hints: they
choose the way and the first window, and never what is returned.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from imrnn_vdb.connection import Operation, Together
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.guard import Guard
from imrnn_vdb.hints import Hints
from imrnn_vdb.layout import Layout
from imrnn_vdb.planning import next_window
from imrnn_vdb.points import Candidates, LazyRows, PointId
from imrnn_vdb_milvus.beside import SidecarSteps
from imrnn_vdb_milvus.expressions import every, is_one_of
from imrnn_vdb_milvus.hits import Row
from imrnn_vdb_milvus.schema import Schema, search_params
from imrnn_vdb_milvus.steps import MAX_WINDOW, SESSION

_LISTED = 8_000
"""Up to how many matching points go into a search as a list of keys."""
_SPARE = 2_000
"""How many more keys than were counted are read, since a count may be old."""
_GROWTH = 8
"""How much larger than the one before a window may be, at most."""
_WITH_PAYLOAD = 8
"""Windows of up to so many times the limit are read with their payload; of larger ones, only that of matches, last."""
Way = Literal["asked", "read", "listed"]


@dataclass(frozen=True, slots=True)
class _Picked:
    """The matches in a window.

    Attributes
    ----------
    found
        Candidates of each query.
    fewest
        Matches of the query that found fewest, up to the limit.
    answered
        Whether all queries are answered: enough matches were found, or there are no more points.
    """

    found: list[Candidates]
    fewest: int
    answered: bool


class FilteredSteps(SidecarSteps):
    """Steps for factor filters on a sidecar."""

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        super().__init__(collection, layout, guard)
        self._counts = Hints[str, int]()

    def _search_filtered(
        self, schema: Schema, question: dict[str, Any], limit: int, given: str | None, factor_filter: FactorFilter
    ) -> Operation[list[Candidates]]:
        """Search with a factor filter, exactly: what is left out is farther than what is returned, or matches nothing.

        Where more than 8,000 points match and too few of the nearest 16,384 do, fewer are returned than there are, and
        the candidates say so.
        """
        yield from self._await_loaded()
        condition = self._factor_condition(factor_filter)
        matching = yield from self._about_how_many(condition)
        window = yield from self._first_window(limit, matching)
        while (way := cheapest_way(matching, window)) != "listed":
            among = condition, (matching + _SPARE if way == "read" else 0)
            picked = yield from self._picked(schema, question, window, limit, given, among)
            if picked is not None and picked.fewest >= limit:
                return picked.found
            matching = yield from self._count_anew(condition)
            if picked is None:
                continue
            if picked.answered:
                return self._checked(picked.found, limit, matching, given)
            if window == MAX_WINDOW and matching > _LISTED:
                return picked.found
            if window == MAX_WINDOW:
                break
            window = min(next_window(window, picked.fewest, limit, MAX_WINDOW), _GROWTH * window)
        keys = yield from self._keys_matching(condition, matching + _SPARE)
        if len(keys) == matching + _SPARE:  # more than were counted, once: count again
            yield from self._count_anew(condition)
            return (yield from self._search_filtered(schema, question, limit, given, factor_filter))
        self._counts.note(condition, len(keys))
        if not keys:
            return [self._candidates(schema, question, [], [], [], {}) for _ in question["data"]]
        listed = every(given, is_one_of(schema.key, keys))
        found = yield from self._search_beside(schema, question, limit, listed)
        return self._checked(found, limit, len(keys), given)

    def _checked(self, found: list[Candidates], limit: int, matching: int, given: str | None) -> list[Candidates]:
        """Mark candidates that are fewer than match, where nothing but the factor filter chose them.

        The index did not reach the others, as that of a segment that still grows may not (docs/troubleshooting.md),
        or their points are gone.
        """
        if given is not None or self._guard is not None:
            return found
        wanted = min(limit, matching)
        return [replace(candidates, cut_short=len(candidates) < wanted) for candidates in found]

    def _about_how_many(self, condition: str = "") -> Operation[int]:
        """Return how many codes match, as of the last time they were counted."""
        known = self._counts.get(condition)
        return (yield from self._count_anew(condition)) if known is None else known

    def _count_anew(self, condition: str) -> Operation[int]:
        number = yield from self._number_of_codes(condition)
        self._counts.note(condition, number)
        return number

    def _first_window(self, limit: int, matching: int) -> Operation[int]:
        """Return a window that most likely holds enough matches, if the filter has nothing to do with the query."""
        everything = yield from self._about_how_many()
        if matching > everything:  # it is older
            everything = yield from self._count_anew("")
        enough = limit + 3 * math.sqrt(limit)
        return min(MAX_WINDOW, max(limit, math.ceil(enough * everything / max(matching, 1))))

    def _picked(
        self,
        schema: Schema,
        question: dict[str, Any],
        window: int,
        limit: int,
        given: str | None,
        among: tuple[str, int],
    ) -> Operation[_Picked | None]:
        """Search a window, and find out which of it match: a condition, and how many keys of matches to read for it.

        With 0 keys, the sidecar is asked about those in the window. None where more match than were read.
        """
        condition, most = among
        params = search_params(schema, question["anns_field"], window)
        whole = window <= _WITH_PAYLOAD * limit
        asked = question if whole else {**question, "output_fields": [schema.key]}
        search = self._hits(limit=window, filter=given or "", search_params=params, **asked)
        code_fields = [self._beside.key, self.layout.code_field]
        if most:
            reply, keys = yield Together((search, self._keys_matching(condition, most)))
            if len(keys) == most:
                return None
            places = _places(reply, set(keys), limit)
            reading = (
                self._codes(_ids(reply, places), code_fields),
                self._payloads(schema, question, reply, places, whole),
            )
            codes, payloads = yield Together(reading)
        else:
            reply = yield from search
            everything = [range(len(hits.ids)) for hits in reply]
            codes = yield from self._codes(_ids(reply, everything), code_fields, condition)
            places = _places(reply, codes, limit)
            payloads = yield from self._payloads(schema, question, reply, places, whole)
        answered = [len(some) >= limit or len(hits.ids) < window for some, hits in zip(places, reply, strict=True)]
        found = [
            replace(self._pick(schema, question, hits, some, codes, payloads), cut_short=not enough)
            for hits, some, enough in zip(reply, places, answered, strict=True)
        ]
        return _Picked(found, min(map(len, places)), all(answered))

    def _pick(
        self,
        schema: Schema,
        question: dict[str, Any],
        hits: Any,
        some: Sequence[int],
        codes: dict[PointId, Row],
        payloads: dict[PointId, Row] | None,
    ) -> Candidates:
        """Make candidates of one query's hits at some places, those without what was deleted in between."""
        there = [i for i in some if hits.ids[i] in codes and (payloads is None or hits.ids[i] in payloads)]
        ids, distances = [hits.ids[i] for i in there], [hits.distances[i] for i in there]
        if payloads is not None:
            rows = LazyRows(lambda i: payloads[ids[i]], len(ids))
        else:
            rows = LazyRows(lambda i: hits.rows[there[i]], len(there))
        return self._candidates(schema, question, ids, distances, rows, codes)

    def _payloads(
        self, schema: Schema, question: dict[str, Any], reply: Any, places: Sequence[Sequence[int]], whole: bool
    ) -> Operation[dict[PointId, Row] | None]:
        """Read the payload of the hits at some places of each query's reply; None where the ``whole`` reply has it."""
        return None if whole else (yield from self._rows(schema, _ids(reply, places), question["output_fields"]))

    def _keys_matching(self, condition: str, limit: int) -> Operation[list[PointId]]:
        """Return keys that match, so many at most."""
        key = self._beside.key
        found = yield from self._about(
            self._sidecar_name, "query", filter=condition, output_fields=[key], limit=limit, **SESSION
        )
        return [row[key] for row in found]


def _ids(reply: Any, places: Sequence[Sequence[int]]) -> list[PointId]:
    """Return the keys of the hits at some places of each query's reply, each once."""
    return list(dict.fromkeys(hits.ids[i] for hits, some in zip(reply, places, strict=True) for i in some))


def _places(reply: Any, keys: Container[PointId], limit: int) -> list[list[int]]:
    """Return where the first hits of each query stand whose keys are among some."""
    return [[i for i, key in enumerate(hits.ids) if key in keys][:limit] for hits in reply]


def cheapest_way(matching: int, window: int) -> Way:
    """Return how to find the matches, where about so many match and a window of that size should hold enough.

    By milliseconds as measured on 2.3.5, with two cores: keys in conditions are what costs most.
    """
    costs: dict[Way, float] = {"asked": 5.5 + 0.0095 * window}
    if matching + _SPARE <= MAX_WINDOW:
        costs["read"] = 6.5 + max(0.0045 * window, 0.0014 * matching)
    if matching <= _LISTED:
        costs["listed"] = 8.0 + 0.0045 * matching
    return min(costs, key=lambda way: costs[way])
