"""Runs the suite over every engine, sync and async."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drivers import ENGINES, Driver, Engine, connect

from imrnn_vdb.backend import ConnectionOptions


def _params(modes: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(engine, mode, id=f"{engine.name}-{mode}", marks=[pytest.mark.integration] * engine.server)
        for engine in ENGINES
        for mode in modes
    ]


@pytest.fixture
def driver(engine: Engine, mode: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    made = connect(engine, engine.where(request, tmp_path), mode == "async", ConnectionOptions(timeout=60.0))
    yield made
    made.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver" in metafunc.fixturenames:
        modes = getattr(metafunc.module, "MODES", ("sync", "async"))  # a module may say that one is enough
        metafunc.parametrize(("engine", "mode"), _params(modes))
