"""What an interrupted training leaves behind, so that the next run goes on from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imrnn_vdb.files import replace_file

_STATE, _NOTE = "state.safetensors", "note.json"
_NETWORK, _MOMENT = "network.", "moment."


class Journal:
    """The state after the last finished epoch, in a folder of its own.

    Parameters
    ----------
    folder
        Where to keep it; None keeps nothing.
    identity
        Fingerprint of data and settings: the state of another training is not taken up.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return note and tensors of an interrupted training, or None if there is none that fits."""
        if self._folder is None or not (self._folder / _NOTE).is_file():
            return None
        try:
            note = json.loads((self._folder / _NOTE).read_text(encoding="utf-8"))
            tensors = load_file(self._folder / f"{note['epoch_key']}-{_STATE}")
        except (OSError, ValueError, KeyError, SafetensorError):
            return None
        return (note, tensors) if note.get("identity") == self._identity else None

    def save(self, phase: int, epoch: int, tensors: dict[str, Tensor]) -> None:
        """Keep the state after an epoch; a crash in between leaves the one before it."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        key = f"{phase}-{epoch}"
        save_file({name: value.contiguous() for name, value in tensors.items()}, self._folder / f"{key}-{_STATE}")
        note = {"identity": self._identity, "phase": phase, "epoch": epoch, "epoch_key": key}
        replace_file(self._folder / _NOTE, json.dumps(note).encode())
        for old in self._folder.glob(f"*-{_STATE}"):
            if old.name != f"{key}-{_STATE}":
                old.unlink()

    def clear(self) -> None:
        """Remove it: the training is done."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def pack(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of a network and its AdamW as one table of tensors."""
    packed = {_NETWORK + name: value for name, value in network.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        packed.update({f"{_MOMENT}{index}.{name}": value for name, value in moments.items()})
    return packed


def unpack(tensors: dict[str, Tensor], network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a packed state back."""
    network.load_state_dict(
        {name.removeprefix(_NETWORK): value for name, value in tensors.items() if name.startswith(_NETWORK)}
    )
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_MOMENT):
            index, key = name.removeprefix(_MOMENT).split(".")
            moments.setdefault(int(index), {})[key] = value
    if moments:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
