"""Shared fixtures."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from factory import make_model, make_space
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.space import FactorSpace
from servers import *  # noqa: F403  (the fixtures of database servers)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def space() -> FactorSpace:
    return make_space()


@pytest.fixture
def model() -> IMRNNModel:
    return make_model()
