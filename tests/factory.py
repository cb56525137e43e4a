"""Small seeded spaces, modulators and models for tests."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.space import FactorSpace

DIM, FACTORS = 32, 8
NAMES = ("entity", "numeric", "temporal")


def make_space(dim: int = DIM, factors: int = FACTORS, seed: int = 0, names: tuple[str, ...] = NAMES) -> FactorSpace:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, factors)))[0]
    spread = np.sort(rng.normal(scale=dim**-0.5, size=(len(names), 33)), axis=1)
    return FactorSpace(basis, names, spread)


def make_modulator(factors: int = FACTORS, trained: bool = True, seed: int = 0, **settings: object) -> Modulator:
    """A modulator whose weights are random, so that it moves every code; untrained, it moves none."""
    torch.manual_seed(seed)
    modulator = Modulator(ModulatorConfig(factors, **settings))
    if trained:
        with torch.no_grad():
            for parameter in modulator.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return modulator.eval()


def make_model(
    dim: int = DIM, factors: int = FACTORS, trained: bool = True, seed: int = 0, **settings: object
) -> IMRNNModel:
    return IMRNNModel(
        make_space(dim, factors, seed), make_modulator(factors, trained, seed, **settings), active=trained
    )


class SlowModulator:
    """A modulator that does not end before it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, *_: Any) -> Any:
        self.go_on.wait(60)
        raise ArithmeticError("too late to matter")
