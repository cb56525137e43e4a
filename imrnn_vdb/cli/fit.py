"""``imrnn-vdb fit``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imrnn_vdb.cli.common import ModelFolder, console, exit_codes, json_option, print_json, save_model
from imrnn_vdb.errors import InvalidInputError

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.encoders import EncoderConfig, TransformerEncoder
    from imrnn_vdb.fitting import FittedSpace, LabelledTexts

_STDLIB = "stdlib"


@click.command()
@click.option(
    "--text",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder of .jsonl files (or one): text, perhaps title, source or split, and people's labels by factor name.",
)
@click.option("--stdlib/--no-stdlib", default=True, show_default=True, help="Also the running Python's documentation.")
@click.option("--held-out", multiple=True, metavar="SOURCE", help="Source that only tests: FILE or FILE/SOURCE.")
@click.option(
    "--check",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="More text that only tests, reported apart: a folder or a .jsonl file.",
)
@click.option("--encoder", default="minilm", show_default=True, help="Encoder: minilm, a folder or a hub repo id.")
@click.option("--device", default="cpu", show_default=True, help="Torch device for the encoder.")
@click.option(
    "--num-factors",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Named and latent factors; cut to the dimension.",
)
@click.option(
    "--min-auc", type=click.FloatRange(0, 1), default=0.7, show_default=True, help="Cross-validated, to keep."
)
@click.option("--out", type=ModelFolder(), help="Folder for the checkpoint.")
@json_option
@exit_codes
def fit(
    text: Path,
    stdlib: bool,
    held_out: tuple[str, ...],
    check: tuple[Path, ...],
    encoder: str,
    device: str,
    num_factors: int,
    min_auc: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Fit a factor space with named factors on texts, test it on other texts, and save it as a checkpoint."""
    from torch import nn

    from imrnn_vdb.checkpoint import move
    from imrnn_vdb.encoders import EncoderConfig, TransformerEncoder

    move(nn.Linear(1, 1), device)  # before anything is read
    config = EncoderConfig(encoder)
    fitted = fit_texts(
        gather(text, stdlib, check),
        TransformerEncoder(config, device),
        held_out,
        [_source(path) for path in check],
        num_factors,
        min_auc,
    )
    if out is not None:
        save_model(untrained_model(fitted, config), out)
    if as_json:
        print_json({"out": str(out) if out else None, "space_id": fitted.space.space_id, **fitted.evidence()})
        return
    _print_table(fitted)
    if out is not None:
        click.echo(f"saved to {out}")


def gather(text: Path, stdlib: bool, check: Sequence[Path]) -> LabelledTexts:
    """Read all texts: those given, the standard library's documentation, and those that only test.

    Raises
    ------
    InvalidInputError
        If two inputs would share a source name.
    """
    from imrnn_vdb.fitting import LabelledTexts, join, read_texts
    from imrnn_vdb.fitting.labels import default_labellers

    names = list(default_labellers([]))
    parts = [read_texts(text, names)]
    if stdlib:
        from imrnn_vdb.pydocs import read_stdlib

        entries = [f"{entry.title}\n{entry.text}" for entry in read_stdlib()]
        parts.append(LabelledTexts(entries, [_STDLIB] * len(entries), {}))
    for path in check:
        read = read_texts(path, names)
        parts.append(LabelledTexts(read.texts, [_source(path)] * len(read), read.labels))
    together = [set(part.sources) for part in parts]
    if len(set.union(*together)) < sum(len(names) for names in together):
        raise InvalidInputError("two inputs have a source of the same name; rename a file, or use --no-stdlib")
    return join(parts)


def fit_texts(
    data: LabelledTexts,
    encoder: TransformerEncoder,
    held_out: Sequence[str],
    checked: Sequence[str],
    num_factors: int,
    min_auc: float,
) -> FittedSpace:
    """Encode texts in slices, each cached when it is done, and fit a space to them."""
    import numpy as np

    from imrnn_vdb.fitting import fit_space
    from imrnn_vdb.progress import track
    from imrnn_vdb.training.embeddings import EmbeddingCache

    unknown = sorted({*held_out, *checked} - set(data.sources))
    if unknown:  # before minutes of encoding
        known = ", ".join(sorted(set(data.sources)))
        raise InvalidInputError(f"no text is of the source {unknown[0]!r}; there are: {known}")
    cache, size, slices = EmbeddingCache(), 4096, []
    with track("encoding", len(data)) as advance:
        for start in range(0, len(data), size):
            batch = data.texts[start : start + size]
            slices.append(cache.encode(encoder.encoder_id, "passage", batch, encoder.encode_passages))
            advance(len(batch))
    return fit_space(
        data.texts,
        np.concatenate(slices),
        data.sources,
        held_out=held_out,
        checked=checked,
        labels=data.labels,
        num_factors=num_factors,
        min_auc=min_auc,
    )


def untrained_model(fitted: FittedSpace, encoder: EncoderConfig | None) -> IMRNNModel:
    """Put a fitted space into a model whose modulator is the identity, switched off."""
    import torch

    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.model import Modulator, ModulatorConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modulator = Modulator(ModulatorConfig(fitted.space.num_factors, hidden=24)).eval()  # small, for it does nothing
    return IMRNNModel(fitted.space, modulator, encoder, {"fit": fitted.evidence()}, active=False)


def _source(path: Path) -> str:
    return path.stem if path.is_file() else path.name


def _print_table(fitted: FittedSpace) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("factor", "held-out AUC", "cross-validated", "cosine to probe", "by source"):
        table.add_column(heading, overflow="fold")
    for report in fitted.reports:
        crossed = sum(report.cross_validated.values()) / max(len(report.cross_validated), 1)
        sources = {**report.held_out, **report.checked}
        by_source = ", ".join(f"{name} {item.auc:.2f}" for name, item in sources.items())
        mean = f"{report.auc:.3f}" if report.held_out else "-"
        table.add_row(report.name, mean, f"{crossed:.3f}", f"{report.cosine:.3f}", Text(by_source))
    out = console()
    out.print(table)
    for name, reason in fitted.rejected.items():
        out.print(f"left out: {name}: {reason}", markup=False)
