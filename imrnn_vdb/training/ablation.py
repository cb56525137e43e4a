"""What each part of the model is worth: one change at a time against the defaults, over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import SpaceMismatchError
from imrnn_vdb.evaluation import evaluate
from imrnn_vdb.training.api import EVIDENCE_KEY, train_examples
from imrnn_vdb.training.embeddings import EmbeddedDataset
from imrnn_vdb.training.examples import make_examples
from imrnn_vdb.training.settings import TrainingSettings

NAMED = "named axes fixed"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "T = 0 (linear maps alone)": {"num_steps": 0},
    "T = 1": {"num_steps": 1},
    "T = 3": {"num_steps": 3},
    "T = 4": {"num_steps": 4},
    "m = 16": {"num_factors": 16},
    "m = 32": {"num_factors": 32},
    "m = 128": {"num_factors": 128},
    "m = 256": {"num_factors": 256},
    "m = 384": {"num_factors": 384},
    NAMED: {},
    "one cell for both sides": {"two_cells": False},
    "no feedback": {"feedback": False},
    "no linear maps (recurrence alone)": {"linear": False, "cell_rate": 1.0},
    "basis not trained": {"train_basis": False},
}
"""Settings that differ from the defaults, by the name of the row. The defaults have 64 latent factors and no names."""


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One variant over several seeds.

    Attributes
    ----------
    variant
        Its name.
    validation, test
        Mean and standard deviation over seeds of nDCG@10, cross-validated and on the test split, as served.
    recall, mrr
        Mean Recall@10 and MRR@10 on the test split.
    seeds
        Number of seeds.
    """

    variant: str
    validation: tuple[float, float]
    test: tuple[float, float]
    recall: float
    mrr: float
    seeds: int


def ablate(
    embedded: EmbeddedDataset,
    *,
    seeds: int = 3,
    variants: Mapping[str, Mapping[str, Any]] = VARIANTS,
    named: IMRNNModel | None = None,
    settings: TrainingSettings | None = None,
    test_split: str = "test",
    report: Callable[[AblationRow], None] | None = None,
) -> list[AblationRow]:
    """Train and measure every variant.

    Parameters
    ----------
    embedded
        Data with a split ``train`` and a test split.
    seeds
        Trainings per variant, with the seeds 0, 1 ….
    variants
        Settings that differ, by name; the row :data:`NAMED` takes the named axes of ``named`` and is left out without.
    named
        A model with named factors.
    settings
        Of the defaults row; the whole model is trained, however few the labels.
    test_split
        What is measured in the end.
    report
        Called after each variant.

    Raises
    ------
    SpaceMismatchError
        If ``named`` has another dimension than the data; nothing was trained then.
    InvalidInputError
        As :func:`train_examples` does.
    """
    if named is not None and NAMED in variants and named.space.dim != embedded.dim:
        raise SpaceMismatchError(
            f"the space with named factors was made for {named.space.dim} dimensions, the vectors have {embedded.dim}: "
            "give one of this encoder, or none"
        )
    defaults = replace(settings if settings is not None else TrainingSettings(), adapter=False)
    examples = make_examples(embedded, "train", defaults.coarse_k)
    rows = []
    for name, changes in variants.items():
        if name == NAMED and named is None:
            continue
        figures = []
        for seed in range(seeds):
            model = train_examples(
                examples,
                name=embedded.data.name,
                base=named if name == NAMED else None,
                settings=replace(defaults, seed=seed, **changes),
            )
            result = evaluate(model, embedded, test_split, defaults.coarse_k).modulated
            validation = model.evidence[EVIDENCE_KEY]["validation"]["modulated"]
            figures.append((validation, result["ndcg@10"], result["recall@10"], result["mrr@10"]))
        means, spread = np.mean(figures, axis=0), np.std(figures, axis=0)
        row = AblationRow(
            variant=name,
            validation=(float(means[0]), float(spread[0])),
            test=(float(means[1]), float(spread[1])),
            recall=float(means[2]),
            mrr=float(means[3]),
            seeds=seeds,
        )
        rows.append(row)
        if report is not None:
            report(row)
    return rows


def markdown(rows: list[AblationRow], base: Mapping[str, float]) -> str:
    """Return the rows as a table in Markdown.

    Parameters
    ----------
    rows
        Of :func:`ablate`.
    base
        Measures of the base ranking on the test split.
    """
    lines = [
        "| variant | nDCG@10, cross-validated | nDCG@10, test | Recall@10 | MRR@10 |",
        "|---|---|---|---|---|",
        f"| base ranking | - | {base['ndcg@10']:.4f} | {base['recall@10']:.4f} | {base['mrr@10']:.4f} |",
    ]
    for row in rows:
        validation, test = (f"{mean:.4f} ± {spread:.4f}" for mean, spread in (row.validation, row.test))
        lines.append(f"| {row.variant} | {validation} | {test} | {row.recall:.4f} | {row.mrr:.4f} |")
    return "\n".join(lines) + "\n"
