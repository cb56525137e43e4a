from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.cli.fit import fit

TOPICS = {
    "food": ("She ate cheese near {}", "They cook soup behind {}", "A delicious cake by {}"),
    "music": ("The guitar song about {}", "A jazz concert near {}", "Their orchestra album with {}"),
    "neither": ("The sky lay over {}", "A shadow fell on {}", "Nobody went there by {}"),
}
THINGS = [
    f"{size} {thing}"
    for size in ("old", "new")
    for thing in ("roof", "river", "house", "wall", "stone", "wood", "blue", "gate")
]


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"text": f"{template.format(thing)} {extra}", "source": source}
        for source, extra in (("one", "today"), ("two", "as we saw"), ("[/b]", "in the end"))
        for templates in TOPICS.values()
        for template in templates
        for thing in THINGS
    ]
    (tmp_path / "made.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_fit_saves_a_checkpoint_with_its_evidence_and_no_text(folder):
    out = folder / "space"
    arguments = ["--text", str(folder), "--no-stdlib", "--held-out", "made/[/b]", "--num-factors", "40", "--json"]
    result = CliRunner().invoke(fit, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    model = IMRNNModel.from_pretrained(out)
    assert model.space.space_id == printed["space_id"]
    assert model.space.num_factors == 40
    assert not model.active
    assert printed["fit_sources"] == {"made/one": 144, "made/two": 144}
    assert printed["factors"]["food"]["held_out"]["made/[/b]"]["auc"] > 0.9
    assert printed["factors"]["music"]["held_out"]["made/[/b]"]["auc"] > 0.9
    assert "cheese" not in (out / "config.json").read_text(encoding="utf-8")


def test_the_table_names_sources_as_they_are(folder):
    arguments = ["--text", str(folder), "--no-stdlib", "--held-out", "made/[/b]", "--num-factors", "40"]
    result = CliRunner().invoke(fit, arguments)
    assert (result.exit_code, "made/[/b] " in result.stdout) == (0, True), result.output


def test_an_unknown_source_is_refused_before_encoding(folder):
    result = CliRunner().invoke(fit, ["--text", str(folder), "--no-stdlib", "--held-out", "made/four"])
    assert result.exit_code == 2
    assert "made/[/b], made/one, made/two" in result.stderr
