from __future__ import annotations

import numpy as np
import pytest

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import SpaceMismatchError
from imrnn_vdb.evaluation import measure, rank_base
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.ablation import NAMED, VARIANTS, AblationRow, ablate, markdown
from imrnn_vdb.training.settings import TrainingSettings
from retrieval_data import synthetic


def test_variants_are_trained_measured_and_tabulated() -> None:
    data = synthetic(20)
    settings = TrainingSettings(coarse_k=30, num_factors=8, epochs=2, folds=2, hidden=4)
    chosen = {name: VARIANTS[name] for name in ("defaults", "T = 0 (linear maps alone)", NAMED)}
    seen: list[AblationRow] = []
    rows = ablate(data, seeds=2, variants=chosen, settings=settings, report=seen.append)
    assert rows == seen
    assert [row.variant for row in rows] == ["defaults", "T = 0 (linear maps alone)"]  # no model with names was given
    assert all(0 <= row.test[0] <= 1 and row.test[1] >= 0 and row.seeds == 2 for row in rows)
    values = measure(data.data.split("test"), rank_base(data, "test", 30))
    table = markdown(rows, {name: sum(by.values()) / len(by) for name, by in values.items()})
    assert len(table.splitlines()) == 5
    assert "| T = 0 (linear maps alone) |" in table


def test_named_axes_of_another_dimension_are_refused_before_anything_is_trained() -> None:
    space = FactorSpace(np.eye(8, 4, dtype=np.float32), ("only",), np.zeros((1, 2), np.float32))
    named = IMRNNModel(space, Modulator(ModulatorConfig(4, hidden=4)).eval())
    seen: list[AblationRow] = []
    settings = TrainingSettings(coarse_k=30, num_factors=8, epochs=1, folds=2, hidden=4)
    with pytest.raises(SpaceMismatchError, match="made for 8 dimensions, the vectors have 24"):
        ablate(synthetic(20), seeds=1, named=named, settings=settings, report=seen.append)
    assert not seen
