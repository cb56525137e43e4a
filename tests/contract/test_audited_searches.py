"""Audited searches come out again on every engine, until a code changes."""

from __future__ import annotations

import numpy as np
from test_collection import data, make  # noqa: F401  (the fixture)

from factory import make_model


def test_an_audited_search_holds_until_a_code_changes(make, rng, tmp_path):  # noqa: F811
    collection = make(make_model())
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query, log = rng.normal(size=32).astype(np.float32), tmp_path / "audit.jsonl"
    found = collection.call("search", query, audit=log, steer={"numeric": 2.0})
    report = collection.call("verify_audit", log)
    assert report.holds, report
    assert report.verdicts[0].difference == 0
    collection.call("upsert", [found[0].id], vectors=rng.normal(size=(1, 32)).astype(np.float32))
    assert collection.call("verify_audit", log).verdicts[0].status == "changed"
