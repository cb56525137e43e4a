"""Training as one call: data in, checkpoint out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.datasets import Dataset, load_dataset
from imrnn_vdb.encoders import AnyEncoder, Encoder, EncoderConfig, TransformerEncoder, as_encoder
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.evaluation import PairedTest, paired_test
from imrnn_vdb.model import Modulator
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.adapting import AdapterTrainer, Adapting, KeptSpace, LearnedSpace
from imrnn_vdb.training.embeddings import EmbeddedDataset, EmbeddingCache, embed
from imrnn_vdb.training.examples import Examples, make_examples
from imrnn_vdb.training.loop import one_thread
from imrnn_vdb.training.network import Network
from imrnn_vdb.training.selection import LEANING, Choice, rises, served_scores
from imrnn_vdb.training.settings import Reporter, TrainingSettings
from imrnn_vdb.training.starting import check_num_factors, starting_space, wanted_factors
from imrnn_vdb.training.trainer import Trainer
from imrnn_vdb.training.update import plain_modulator

Data = str | Path | Dataset | EmbeddedDataset
EVIDENCE_KEY, _PRIOR_KEY = "training", "prior"
_TOLERATED_LOSS = 0.01
_PENALTY, _KEPT_PENALTY = 60.0, 20.0
_WIDEST = 512  # factors in which an update is fitted first, at most: wider vectors lose their smallest components


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A trained modulator in its space, how it was chosen, and the settings that were followed.

    ``against_adapter`` is the whole model's test against an adapter, whichever of the two this is; None where none was
    made.
    """

    space: FactorSpace
    modulator: Modulator
    choice: Choice
    settings: TrainingSettings
    against_adapter: PairedTest | None = None


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
        A model to update on new labels. Its space is kept, so no stored code changes; it replaces ``base``. One that is
        trained and switched on keeps all its weights, and gets an adapter that moves queries like the new ones.
    replay
        Data that ``continue_from`` was trained on: an update that costs their queries more than 0.01 of nDCG@10 is
        refused.
    split
        Which judgements of ``data`` and ``replay`` are trained on.
    settings
        None for the defaults.
    cache
        Of embeddings; None for the default one.
    journal
        Folder for the state of an interrupted training. The same call takes it up and removes it in the end. An adapter
        is a matter of seconds and needs none.
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

    Raises
    ------
    InvalidInputError
        As :func:`train` does, if ``num_factors`` does not fit the space, and if weights became NaN or infinite.
    """
    settings = settings if settings is not None else TrainingSettings()
    origin = continue_from if continue_from is not None else base
    plan = planned(settings, len(examples), continue_from)
    check_num_factors(plan, origin.space if origin is not None else None)
    with one_thread():
        if plan.adapter:
            outcome = _adapt(_adapter_trainer(examples, settings, origin, continue_from, report))
        else:
            outcome = _train_whole(examples, settings, origin, continue_from, journal, report)
        replayed = None
        if replay is not None and continue_from is not None:
            replayed = _replayed(continue_from, outcome, replay)
            if _harmed(*replayed):
                outcome = replace(outcome, choice=replace(outcome.choice, better=False))
    evidence = dict(origin.evidence) if origin is not None else {}
    if origin is not None and outcome.modulator.config.prior != origin.modulator.config.prior:
        evidence.pop(_PRIOR_KEY, None)
    past = evidence.get(EVIDENCE_KEY)
    updated = _updated(continue_from)
    evidence[EVIDENCE_KEY] = _evidence(examples, name, outcome, updated, replayed)
    if continue_from is not None and past is not None:
        evidence[EVIDENCE_KEY]["before"] = past
    model_encoder = encoder if encoder is not None or origin is None else origin.encoder
    if updated is not None and not outcome.choice.better:
        return IMRNNModel(updated.space, updated.modulator, model_encoder, evidence, active=True)
    return IMRNNModel(outcome.space, outcome.modulator, model_encoder, evidence, outcome.choice.better)


def planned(settings: TrainingSettings, queries: int, continue_from: IMRNNModel | None = None) -> TrainingSettings:
    """Return the settings that a training follows: what depends on the labels and on the model to update is filled in.

    Parameters
    ----------
    settings
        As given.
    queries
        Number of labelled queries.
    continue_from
        As for :func:`train`.
    """
    chosen = settings.for_queries(queries)
    if continue_from is None:
        return chosen
    return replace(chosen, train_basis=False, adapter=chosen.adapter or _updated(continue_from) is not None)


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
    if (joint := test["joint_p_value"]) is not None:
        figures += f"; nDCG@10 and the likelihood of what is relevant, tested together: p = {joint:.3g}"
    if (compared := training.get("against_adapter")) is not None:
        ahead, p_value = compared["difference"], compared["p_value"]
        figures += (
            f"; the whole model against an adapter on the same held-out queries: {ahead:+.4f} (p = {p_value:.3g})"
        )
    if training["better"]:
        return f"better than {rival}: {figures}; the {training['method']} is switched on"
    saved = f"the {training['method']} is saved, but not switched on"
    outcome = "the old weights are kept" if training["continued_from"] else saved
    replayed = training.get("replayed")
    if replayed is not None:
        before, after = replayed["ndcg@10_before"], replayed["ndcg@10_after"]
        if _harmed(before, after):
            loss = f"nDCG@10 {before:.4f} -> {after:.4f}, a loss of more than {_TOLERATED_LOSS:g}"
            return f"refused for what it does to the replayed queries: {loss}; of the new labels: {figures}; {outcome}"
    return f"not better than {rival}: {figures}; {outcome}"


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


def _updated(continue_from: IMRNNModel | None) -> IMRNNModel | None:
    """Return the model whose weights an update keeps, if it was trained and is switched on: a prior is no training."""
    in_use = continue_from is not None and continue_from.active and continue_from.modulator.trained
    return continue_from if in_use else None


def _check_finite(trained: torch.nn.Module) -> None:
    for name, weight in trained.state_dict().items():
        if not torch.isfinite(weight).all():
            raise InvalidInputError(
                f"the training diverged: {name} holds NaN or infinity. Try a smaller learning_rate, or look at the "
                "vectors and judgements"
            )


def _adapt(trainer: AdapterTrainer) -> _Outcome:
    outcome = _Outcome(*trainer.run(), trainer.settings)
    _check_finite(outcome.modulator)
    return outcome


def _adapter_trainer(
    examples: Examples,
    settings: TrainingSettings,
    origin: IMRNNModel | None,
    continue_from: IMRNNModel | None,
    report: Reporter | None,
) -> AdapterTrainer:
    plan = planned(replace(settings, adapter=True), len(examples), continue_from)
    penalty = plan.penalty or (_PENALTY if plan.train_basis else _KEPT_PENALTY)
    given = origin.space if origin is not None else None
    updated = _updated(continue_from)
    way: Adapting
    if plan.train_basis:
        m = wanted_factors(plan, len(given.names) if given is not None else 0, examples.documents.shape[1])
        widest = starting_space(examples, replace(plan, num_factors=max(_WIDEST, m)), given)
        way = LearnedSpace(examples, widest, m, penalty)
    else:
        space = starting_space(examples, plan, given)
        start = plain_modulator(space.num_factors, _prior_of(origin)) if updated is None else updated.modulator
        way = KeptSpace(examples, space, start, penalty)
    rival = served_scores(Network.of(updated.space, updated.modulator), examples) if updated else examples.cosines
    return AdapterTrainer(examples, replace(plan, penalty=penalty), way, rival, report=report)


def _train_whole(
    examples: Examples,
    settings: TrainingSettings,
    origin: IMRNNModel | None,
    continue_from: IMRNNModel | None,
    journal: Path | None,
    report: Reporter | None,
) -> _Outcome:
    plan = planned(settings, len(examples), continue_from)
    trainer = Trainer(
        examples,
        plan,
        space=origin.space if origin is not None else None,
        prior=_gated_prior_of(origin),
        journal=journal,
        report=report,
    )
    network, choice = trainer.run()
    _check_finite(network)
    space = trainer.space
    if network.basis.trainable:
        space = FactorSpace(network.basis().detach().numpy(), space.names, space.quantiles)
    outcome = _Outcome(space, trainer.finish(network, choice), choice, plan)
    if settings.adapter is None:
        rival = _adapter_trainer(examples, settings, origin, continue_from, report)
        compared = paired_test(choice.ndcg - rival.held_out_ndcg(trainer.folds.of)) if choice.better else None
        if compared is None or not rises(compared, LEANING):  # an adapter makes faster searches
            tried = _adapt(rival)
            outcome = tried if tried.choice.better else outcome
        outcome = replace(outcome, against_adapter=compared)
    trainer.forget()
    return outcome


def _prior_of(origin: IMRNNModel | None) -> FeedbackPrior:
    """Return the prior under an adapter, which acts on every query: the gate hears nothing of those on new topics."""
    return origin.modulator.config.prior if origin is not None else FeedbackPrior()


def _gated_prior_of(origin: IMRNNModel | None) -> FeedbackPrior:
    """Return the prior under a whole model, which acts on familiar queries alone: those that the gate judges."""
    prior = _prior_of(origin)
    return prior if origin is None or origin.modulator.trained else prior.gated()


def _harmed(before: float, after: float) -> bool:
    return after < before - _TOLERATED_LOSS


def _replayed(before: IMRNNModel, after: _Outcome, replay: Examples) -> tuple[float, float]:
    """Return nDCG@10 of old queries before and after an update."""
    networks = (Network.of(before.space, modulator) for modulator in (before.modulator, after.modulator))
    rows = torch.arange(len(replay))
    old, new = (float(replay.ndcg(served_scores(network, replay), rows).mean()) for network in networks)
    return old, new


def _evidence(
    examples: Examples,
    name: str,
    outcome: _Outcome,
    updated: IMRNNModel | None,
    replayed: tuple[float, float] | None,
) -> dict[str, Any]:
    choice, settings = outcome.choice, outcome.settings
    return {
        "data": name,
        "data_fingerprint": examples.fingerprint(),
        "queries": len(examples),
        "judged_relevant": int((examples.gains > 0).sum()),
        "continued_from": updated.model_id if updated is not None else None,
        "method": "adapter" if settings.adapter else "whole model",
        "epochs": choice.epochs,
        "shrinkage": choice.shrinkage,
        "similarity_threshold": choice.threshold,
        "better": choice.better,
        "validation": {
            "measure": "ndcg@10",
            "method": f"{settings.folds}-fold cross-validation"
            + ("" if settings.adapter else ", half the topics held out whole"),
            "base": choice.base,
            "modulated": choice.modulated,
            "new_topic_difference": choice.new_topic_difference,
            "joint_p_value": choice.joint_p_value,
            **asdict(choice.test),
        },
        "against_adapter": None if outcome.against_adapter is None else asdict(outcome.against_adapter),
        "replayed": None if replayed is None else {"ndcg@10_before": replayed[0], "ndcg@10_after": replayed[1]},
        "settings": settings.to_dict(),
    }
