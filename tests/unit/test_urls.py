from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imrnn_vdb.errors import IMRNNError, InvalidInputError
from imrnn_vdb.urls import CollectionURL, is_this_machine, parse_url


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("qdrant://db.example:6334/articles", CollectionURL("qdrant", "db.example", 6334, "", "articles")),
        ("qdrant://db.example/articles", CollectionURL("qdrant", "db.example", None, "", "articles")),
        ("milvus://[::1]:19530/a", CollectionURL("milvus", "::1", 19530, "", "a")),
        ("milvus://[::1]/a", CollectionURL("milvus", "::1", None, "", "a")),
        ("qdrant+edge:./data/articles", CollectionURL("qdrant+edge", "", None, "./data", "articles")),
        ("qdrant+local::memory:/articles", CollectionURL("qdrant+local", "", None, ":memory:", "articles")),
        ("milvus+lite:/srv/x y/a.db/articles", CollectionURL("milvus+lite", "", None, "/srv/x y/a.db", "articles")),
        ("qdrant+edge:/articles", CollectionURL("qdrant+edge", "", None, "/", "articles")),
    ],
)
def test_urls_are_parsed(url, parsed):
    assert parse_url(url) == parsed
    assert parsed.embedded == (not parsed.host)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "articles",
        "qdrant://",
        "qdrant://host",
        "qdrant://host/",
        "qdrant:///x",
        "qdrant+edge:articles",
        "qdrant+edge:",
        "q!:a/b",
        "qdrant://host:99999/a",
        "qdrant://host:x/a",
        "qdrant://host:²/a",
        "milvus://host:19530/database/a",
    ],
)
def test_other_forms_are_refused_with_examples(url):
    with pytest.raises(InvalidInputError):
        parse_url(url)


@pytest.mark.parametrize("start", ["qdrant://", "qdrant:", "qdrant:/", "milvus:"])
def test_a_key_in_a_url_is_refused_and_not_repeated(start):
    with pytest.raises(InvalidInputError) as caught:
        parse_url(f"{start}user:s3cret@host:6334/a")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("end", ["a?api_key=s3cret", "a#s3cret", "?token=s3cret", "s3cret/a"])
def test_a_query_after_a_url_is_refused_and_not_repeated(end):
    with pytest.raises(InvalidInputError, match="api_key=") as caught:
        parse_url(f"milvus://host:19530/{end}")
    assert "s3cret" not in str(caught.value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text):
    try:
        parsed = parse_url(text)
    except IMRNNError:
        return
    assert parsed.collection


@given(st.sampled_from(["qdrant", "milvus"]), st.sampled_from(["h", "a.b-c", "::1"]), st.none() | st.integers(1, 65535))
def test_the_text_of_a_url_parses_to_itself(scheme, host, port):
    url = CollectionURL(scheme, host, port, "", "c")
    assert parse_url(str(url)) == url


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_this_machine_is_known(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.example.org", "localhost.example.org", "::", "10.0.0.1"])
def test_no_other_name_passes_for_this_machine(host: str) -> None:
    assert not is_this_machine(host)


def test_an_address_without_a_scheme_is_told_to_have_none():
    with pytest.raises(InvalidInputError, match="starts with a scheme: qdrant://localhost:6334/articles"):
        parse_url("localhost:19530/articles")
