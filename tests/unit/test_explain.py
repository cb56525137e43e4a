from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from imrnn_vdb.comparison import RankComparison
from imrnn_vdb.explain import (
    comparison_table,
    ends_table,
    explanation_parts,
    explanation_table,
    headline,
    moved,
    results_table,
    tags,
    topics_line,
    trace_table,
)
from imrnn_vdb.factors.ends import EndDocument, FactorEnds
from imrnn_vdb.factors.topics import TopicMatch
from imrnn_vdb.results import Explanation, SearchResponse, SearchResult
from imrnn_vdb.trace import StepTrace

NAMES = ("entity", "numeric", "temporal")
HOSTILE = "<script>alert('x')</script> [bold]&amp; \"quoted\""


def result(rank=1, base_rank=1, payload=None, **changes):
    explanation = Explanation(0.4, (0.05, -0.02, 0.0, 0.01, 0.06), NAMES)
    values = {
        "id": HOSTILE,
        "rank": rank,
        "score": 0.5,
        "base_rank": base_rank,
        "base_score": 0.45,
        "modulated": True,
        "reason": None,
        "payload": {"title": HOSTILE} if payload is None else payload,
        "factors": {"entity": 0.9},
        "explanation": explanation,
    }
    return SearchResult(**{**values, **changes})


def response(*results, **changes):
    values = {"modulated": True, "reason": None, "coarse_k": 100, "candidates": 2, "space_id": "s", "model_id": "m"}
    return SearchResponse(results, **{**values, **changes})


def text_of(renderable, width=200) -> str:
    out = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    out.print(renderable)
    out.file.close()
    return out.export_text()


def test_an_explanation_is_the_score_taken_apart():
    explanation = result().explanation
    assert explanation.score == pytest.approx(0.5)
    assert explanation.named == {"entity": 0.05, "numeric": -0.02, "temporal": 0.0}
    assert explanation.latent == pytest.approx(0.07)
    assert explanation.top(1) == [("entity", 0.05)]


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_the_parts_shown_add_up_to_the_score(count):
    parts = explanation_parts(result().explanation, count)
    assert sum(value for _, value in parts) == pytest.approx(0.5)


def test_tags_name_what_raised_the_score():
    assert tags(result().explanation) == "entity +0.050"


def test_movement_is_against_the_databases_order():
    assert [moved(result(rank, base)) for rank, base in ((1, 4), (4, 1), (2, 2))] == ["↑3", "↓3", "="]


def test_a_headline_is_one_line():
    assert headline(result(payload={"text": "a\n b " * 60})).endswith("…")
    assert headline(result(payload={})) == HOSTILE
    assert headline(result(payload={"title": 7, "text": "words"})) == "words"


def test_nothing_of_a_payload_is_obeyed_by_a_terminal():
    found = result(payload={"title": "\x1b[2J\x1b]0;owned\x07 \x9b31m a \u202etxet\u2069 naïve 👩\u200d🚀 \x1b"})
    assert headline(found) == "[2J]0;owned 31m a txet naïve 👩\u200d🚀"
    assert headline(result(payload={"title": " \x1b ", "text": "words"})) == "words"
    for table in (results_table(response(found)), explanation_table(found)):
        assert not set("\x1b\x07\x9b\u202e") & set(text_of(table))


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_title_takes_no_room_from_the_numbers(width):
    topics = (TopicMatch("harbour_vessel_anchor", 0.71), TopicMatch("lighthouse_keeper_storm", 0.84))
    long = result(payload={"title": "schooner " * 20}, id="a")
    long = replace(long, explanation=replace(long.explanation, topics=topics))
    trace = StepTrace(("database", "start", "step 1", "step 2"), ("a",), ((0.4,),) * 4, ((1,),) * 4)
    whole = {results_table(response(long)): "0.5000", trace_table(response(long, trace=trace)): "1  0.4000"}
    for table, number in whole.items():
        assert number in text_of(table, width)
        assert "schooner" in text_of(table, width)


def test_tables_say_what_a_result_is_by_the_collections_own_field():
    found = result(payload={"body": "a schooner"})
    trace = StepTrace(("database", "step 1"), (found.id,), ((0.4,), (0.5,)), ((1,), (1,)))
    assert "a schooner" in text_of(results_table(response(found), text_field="body"))
    assert "a schooner" in text_of(explanation_table(found, text_field="body"))
    assert "a schooner" in text_of(trace_table(response(found, trace=trace), "body"))


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_long_text_leaves_room_for_ranks_and_scores(width):
    found = result(12, 9, payload={"text": "many words " * 20})
    trace = StepTrace(("database", "start"), (found.id,), ((0.45,), (0.5,)), ((9,), (12,)))
    explained = text_of(results_table(response(found)), width)
    plain = text_of(results_table(response(replace(found, explanation=None))), width)
    for shown in (explained, plain):
        assert "12     ↓3  0.5000  0.4500  many" in shown
        assert "…" in shown
    assert "+0.050" in explained
    assert "9  0.4500  12  0.5000" in text_of(trace_table(response(found, trace=trace)), width)
    document = EndDocument(1, "many words " * 20, 0.25)
    assert "+0.250" in text_of(ends_table(FactorEnds("latent_4", (document,), (), ("x" * 200,), (), 9)), width)


def test_terminal_tables_show_markup_as_text():
    shown = text_of(results_table(response(result()), title="[red]query"))
    assert "[bold]" in shown
    assert "[red]query" in shown
    assert "entity +0.050" in shown
    assert "█" in text_of(explanation_table(result()))
    assert "contribution" in text_of(explanation_table(result(explanation=None)))


def test_topics_stand_beside_the_parts_and_their_factors_have_lines_of_their_own():
    near = (TopicMatch("[b]music", 0.714), TopicMatch("violins", 0.9))
    told = replace(result().explanation, topics=near, topic_names=frozenset({"temporal", "unused"}))
    assert topics_line(near) == "[b]music 0.71 › violins 0.90"
    assert dict(explanation_parts(told, 1))["topic temporal"] == 0.0
    assert sum(value for _, value in explanation_parts(told, 1)) == pytest.approx(0.5)
    found = result(explanation=told)
    assert "topics: [b]music 0.71 › violins 0.90" in text_of(explanation_table(found))
    shown = text_of(results_table(response(found, result(2), topics=near[:1])))
    assert "topics of the query: [b]music 0.71" in shown
    assert "none" in shown


def test_comparison_trace_and_ends_are_tables_of_text():
    comparison = RankComparison(1, 2, 0.3, (("[b]x", 0.4), ("y", -0.1)), (("[b]x", 0.4),))
    shown = text_of(comparison_table(comparison, 1))
    assert "[b]x *" in shown
    assert "1 other parts" in shown
    assert "+0.4000" in shown
    trace = StepTrace(("database", "start"), (HOSTILE,), ((0.45,), (0.5,)), ((1,), (2,)))
    shown = text_of(trace_table(response(result(), trace=trace)))
    assert "1  0.4500" in shown
    assert "2  0.5000" in shown
    assert HOSTILE[:9] in shown
    assert "database" not in text_of(trace_table(response(result())))
    document = EndDocument(1, "[b]title", 0.25)
    shown = text_of(ends_table(FactorEnds("latent_4", (document,), (document,), ("harbour",), ("[bread]",), 9)))
    assert "[b]title" in shown
    assert "[bread]" in shown


def test_dictionaries_are_ready_for_json():
    import json

    data = json.loads(json.dumps(response(result()).to_dict()))
    assert data["results"][0]["explanation"]["named"]["entity"] == 0.05
    assert {"rank", "id", "score", "base_rank", "base_score", "modulated"} <= set(data["results"][0])
