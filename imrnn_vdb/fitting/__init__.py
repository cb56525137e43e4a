"""Fitting named factors: weak labels, linear probes, symmetric orthogonalisation, calibration (DESIGN.md §3)."""

from imrnn_vdb.fitting.fit import FactorReport, FittedSpace, SourceAUC, factor_labels, fit_space, measure_factors
from imrnn_vdb.fitting.labels import default_labellers
from imrnn_vdb.fitting.texts import LabelledTexts, join, read_texts

__all__ = [
    "FactorReport",
    "FittedSpace",
    "LabelledTexts",
    "SourceAUC",
    "default_labellers",
    "factor_labels",
    "fit_space",
    "join",
    "measure_factors",
    "read_texts",
]
