"""Audited searches and rerankings come out again on every engine, until a code changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_collection import data, make  # noqa: F401  (the fixture)

from factory import make_model


def test_an_audited_search_holds_until_a_code_changes(make, rng, tmp_path):  # noqa: F811
    collection = make(make_model())
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query, log = rng.normal(size=32).astype(np.float32), tmp_path / "audit.jsonl"
    found = collection.call("search", query, audit=log, steer={"numeric": 2.0})
    given = [result.id for result in found][::-1]
    ranked = collection.call("rerank", query, [*given, 987654], audit=log, steer={"numeric": 2.0}, only=None, limit=3)
    searched, reranked = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    assert (searched["kind"], reranked["kind"]) == ("search", "rerank")
    assert reranked["candidates"]["ids"] == given
    assert [result["id"] for result in reranked["results"]] == [result.id for result in ranked]
    assert [result["score"] for result in reranked["results"]] == [result.score for result in ranked]
    report = collection.call("verify_audit", log)
    assert report.holds, report
    assert [verdict.difference for verdict in report.verdicts] == pytest.approx([0, 0], abs=1e-12)
    collection.call("upsert", [found[0].id], vectors=rng.normal(size=(1, 32)).astype(np.float32))
    assert [verdict.status for verdict in collection.call("verify_audit", log).verdicts] == ["changed", "changed"]
