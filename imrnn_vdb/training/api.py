"""Training as one call: data in, checkpoint out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.datasets import Dataset, load_dataset
from imrnn_vdb.encoders import Encoder, EncoderConfig, TransformerEncoder, as_encoder
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.embeddings import EmbeddedDataset, EmbeddingCache, embed
from imrnn_vdb.training.examples import Examples, make_examples
from imrnn_vdb.training.loop import one_thread
from imrnn_vdb.training.settings import Reporter, TrainingSettings
from imrnn_vdb.training.trainer import Trained, Trainer

Data = str | Path | Dataset | EmbeddedDataset
AnyEncoder = Encoder | EncoderConfig | Callable[[list[str]], npt.ArrayLike] | str
EVIDENCE_KEY = "training"


def train(
    data: Data,
    encoder: AnyEncoder | None = None,
    *,
    base: IMRNNModel | None = None,
    continue_from: IMRNNModel | None = None,
    replay: Data | None = None,
    split: str = "train",
    settings: TrainingSettings | None = None,
    cache: EmbeddingCache | None = None,
    journal: Path | None = None,
    report: Reporter | None = None,
) -> IMRNNModel:
    """Train a model on labelled queries.

    Parameters
    ----------
    data
        A BEIR folder, a data set, or one that is embedded already.
    encoder
        What made the collection's vectors; not needed where the data are embedded.
    base
        A model whose named factors are kept: its named columns stay fixed. None: a space without names.
    continue_from
        A model to update on new labels. Its space is kept, so no stored code changes; it replaces ``base``.
    replay
        Data that ``continue_from`` was trained on, to be trained on again, so that old queries do not get worse.
    split
        Which judgements of ``data`` and ``replay`` are trained on.
    settings
        None for the defaults.
    cache
        Of embeddings; None for the default one.
    journal
        Folder for the state of an interrupted training. The same call takes it up and removes it in the end.
    report
        Called after every epoch.

    Returns
    -------
    IMRNNModel
        With its evidence under ``"training"``. ``active`` is False if it was not better than the base ranking on
        held-out queries.

    Raises
    ------
    InvalidInputError
        If the data cannot be used: no such split, too few labelled queries, no encoder.
    SpaceMismatchError
        If the vectors do not have the dimension of ``base`` or ``continue_from``.
    """
    chosen = settings if settings is not None else TrainingSettings()
    built = as_encoder(encoder) if encoder is not None else None
    embedded = embedded_data(data, built, cache)
    old = None
    if replay is not None:
        old = make_examples(embedded_data(replay, built, cache), split, chosen.coarse_k)
    config = built.config if isinstance(built, TransformerEncoder) else None
    return train_examples(
        make_examples(embedded, split, chosen.coarse_k),
        name=f"{embedded.data.name}/{split}",
        encoder=config,
        base=base,
        continue_from=continue_from,
        replay=old,
        settings=chosen,
        journal=journal,
        report=report,
    )


def train_examples(
    examples: Examples,
    *,
    name: str,
    encoder: EncoderConfig | None = None,
    base: IMRNNModel | None = None,
    continue_from: IMRNNModel | None = None,
    replay: Examples | None = None,
    settings: TrainingSettings | None = None,
    journal: Path | None = None,
    report: Reporter | None = None,
) -> IMRNNModel:
    """Train on examples that are put together already; see :func:`train`.

    Parameters
    ----------
    examples, replay
        Labelled queries with their candidates.
    name
        How the evidence calls the data.
    encoder
        Written into the checkpoint; that of ``continue_from`` or ``base`` if None.
    base, continue_from, settings, journal, report
        As for :func:`train`.
    """
    chosen = settings if settings is not None else TrainingSettings()
    origin = continue_from if continue_from is not None else base
    trainer = Trainer(
        examples,
        chosen,
        space=origin.space if origin is not None else None,
        start=continue_from,
        replay=replay,
        journal=journal,
        report=report,
    )
    with one_thread():
        trained = trainer.run()
    evidence = dict(origin.evidence) if origin is not None else {}
    past = evidence.get(EVIDENCE_KEY)
    evidence[EVIDENCE_KEY] = _evidence(examples, name, chosen, trained, continue_from)
    if continue_from is not None and past is not None:
        evidence[EVIDENCE_KEY]["before"] = past
    model_encoder = encoder if encoder is not None or origin is None else origin.encoder
    return _assemble(trainer, trained, continue_from, evidence, model_encoder)


def verdict(training: Mapping[str, Any]) -> str:
    """Say in plain words what the evidence of a training shows."""
    test = training["validation"]
    rival = "the model it was updated from" if training["continued_from"] else "the base ranking"
    low, high = test["ci_low"], test["ci_high"]
    figures = (
        f"nDCG@10 {test['base']:.4f} -> {test['modulated']:.4f} on held-out queries "
        f"(difference {test['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, p = {test['p_value']:.3g}; "
        f"{test['wins']} better, {test['losses']} worse, {test['ties']} equal)"
    )
    if training["better"]:
        return f"better than {rival}: {figures}; the model is switched on"
    if training["continued_from"]:
        return f"not better than {rival}: {figures}; the old weights are kept"
    return f"not better than {rival}: {figures}; the model is saved, but not switched on"


def embedded_data(data: Data, encoder: Encoder | None, cache: EmbeddingCache | None = None) -> EmbeddedDataset:
    """Read and encode what is not read or encoded yet.

    Raises
    ------
    InvalidInputError
        If an encoder is needed and None is given.
    """
    if isinstance(data, EmbeddedDataset):
        return data
    if encoder is None:
        raise InvalidInputError("texts need an encoder: pass the one that made the collection's vectors")
    return embed(data if isinstance(data, Dataset) else load_dataset(data), encoder, cache)


def _assemble(
    trainer: Trainer,
    trained: Trained,
    continue_from: IMRNNModel | None,
    evidence: dict[str, Any],
    encoder: EncoderConfig | None,
) -> IMRNNModel:
    network, choice = trained.network, trained.choice
    kept_old = continue_from is not None and continue_from.active and not choice.better
    if kept_old and continue_from is not None:
        return IMRNNModel(continue_from.space, continue_from.modulator, encoder, evidence, continue_from.active)
    start, basis = trainer.space, network.basis().detach()
    space = start if not network.basis.trainable else FactorSpace(basis.numpy(), start.names, start.quantiles)
    return IMRNNModel(space, trainer.finish(network, choice), encoder, evidence, choice.better)


def _evidence(
    examples: Examples, name: str, settings: TrainingSettings, trained: Trained, start: IMRNNModel | None
) -> dict[str, Any]:
    choice, used = trained.choice, settings.for_queries(len(examples))
    replayed = None
    if trained.replayed is not None:
        replayed = {"ndcg@10_before": trained.replayed[0], "ndcg@10_after": trained.replayed[1]}
    return {
        "data": name,
        "data_fingerprint": examples.fingerprint(),
        "queries": len(examples),
        "judged_relevant": int((examples.gains > 0).sum()),
        "continued_from": start.model_id if start is not None and start.active else None,
        "epochs": choice.epochs,
        "shrinkage": choice.shrinkage,
        "similarity_threshold": choice.threshold,
        "better": choice.better,
        "validation": {
            "measure": "ndcg@10",
            "method": f"{used.folds}-fold cross-validation, half the topics held out whole",
            "base": choice.base,
            "modulated": choice.modulated,
            "new_topic_difference": choice.new_topic_difference,
            **asdict(choice.test),
        },
        "replayed": replayed,
        "settings": used.to_dict(),
    }
