"""Checkpoints: a folder with ``config.json`` and ``model.safetensors``, loaded strictly, never with pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.encoders import EncoderConfig
from imrnn_vdb.errors import CheckpointError, IMRNNError, InvalidInputError, one_line
from imrnn_vdb.files import replace_file
from imrnn_vdb.model_files import CONFIG_FILE, FORMAT, foreign, holds
from imrnn_vdb.space import FactorSpace

if TYPE_CHECKING:
    import torch

    from imrnn_vdb.model import Modulator
    from imrnn_vdb.modulation import Modulate, Precision

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
_COMING_FILE = f"{WEIGHTS_FILE}.coming"
"""Where weights lie while a save replaces both files, so that the configuration never names any that are not there."""
_SHIPPED = Path(__file__).parent / "checkpoints"
_SPACE, _MODULATOR = "space.", "modulator."


@dataclass(frozen=True, eq=False)
class IMRNNModel:
    """A factor space, the modulator that works in it, and what is known about both.

    Attributes
    ----------
    space
        The factor space; its ``space_id`` is stored with every code.
    modulator
        The recurrent part, in evaluation mode.
    encoder
        How queries are encoded; None where vectors come from elsewhere.
    evidence
        JSON-like: how space and modulator were made, and what they were measured to do.
    active
        Whether the modulator is switched on by default. False for one that is untrained or was not better than the base
        ranking on validation data: a search then returns the database's order.
    precision
        Of the modulator on a GPU: ``"half"`` for half precision where that keeps the ranks, see
        :mod:`imrnn_vdb.precision`.
    """

    space: FactorSpace
    modulator: Modulator
    encoder: EncoderConfig | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    active: bool = False
    precision: Precision = "float32"

    @cached_property
    def model_id(self) -> str:
        """Fingerprint of all weights and settings that scores depend on: 16 hex digits."""
        return _fingerprint(_tensors(self), asdict(self.modulator.config))

    @cached_property
    def modulate(self) -> Modulate:
        """The modulator as searches call it, on arrays."""
        from imrnn_vdb.served import served

        return served(self.modulator, self.precision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the checkpoint; an existing one of the same name is replaced, whole even if this is stopped on the way.

        Raises
        ------
        CheckpointError
            If the folder cannot be written or holds something else, such as an encoder, or a weight is NaN or infinite:
            then nothing is.
        """
        from safetensors.numpy import save

        tensors = _tensors(self)
        for name, table in tensors.items():
            if not np.isfinite(table).all():
                raise CheckpointError(f"the model's {name} holds NaN or infinity: nothing was written to {folder}")
        config = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "space_id": self.space.space_id,
            "model_id": self.model_id,
            "active": self.active,
            "factor_names": list(self.space.names),
            "modulator": asdict(self.modulator.config),
            "encoder": asdict(self.encoder) if self.encoder else None,
            "evidence": dict(self.evidence),
        }
        target, weights = Path(folder), save(tensors)
        if reason := foreign(target):
            raise CheckpointError(reason)
        try:
            target.mkdir(parents=True, exist_ok=True)
            replace_file(target / _COMING_FILE, weights)
            replace_file(target / CONFIG_FILE, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
            replace_file(target / WEIGHTS_FILE, weights)
            (target / _COMING_FILE).unlink(missing_ok=True)
        except OSError as exc:
            raise CheckpointError(f"the checkpoint could not be written to {target}: {exc}") from exc

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "cpu", precision: Precision = "float32") -> IMRNNModel:
        """Load a checkpoint.

        Parameters
        ----------
        source
            A folder, the name of a checkpoint shipped in this package (``"minilm"``), or a Hugging Face repo id.
        device
            Torch device for the modulator.
        precision
            As :attr:`precision`.

        Raises
        ------
        CheckpointError
            If there is none, or a file is missing, truncated, altered, foreign or of another format version.
        InvalidInputError
            If torch cannot use the device here.
        """
        folder = _locate(str(source))
        config, tensors = _read(folder)
        try:
            model = _build(config, tensors, precision)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IMRNNError) as exc:
            raise CheckpointError(f"the checkpoint in {folder} does not hold what its format demands: {exc}") from exc
        for name, found in (("space_id", model.space.space_id), ("model_id", model.model_id)):
            if config.get(name) != found:
                raise CheckpointError(
                    f"the checkpoint {folder} was altered: {name} is {config.get(name)!r}, its weights give {found!r}"
                )
        move(model.modulator, device)
        return model


def shipped_checkpoints() -> list[str]:
    """Return the names of the checkpoints in this package."""
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CONFIG_FILE}"))


def move(module: torch.nn.Module, device: str) -> None:
    """Put a modulator, or another module, on a torch device; `InvalidInputError` where torch cannot use it here."""
    try:
        module.to(device)
    except (AssertionError, RuntimeError) as exc:  # torch's own words for a device that is not here
        raise InvalidInputError(f"the device {device!r} cannot be used here: {exc}") from exc


def _build(config: dict[str, Any], tensors: dict[str, npt.NDArray[Any]], precision: Precision) -> IMRNNModel:
    import torch

    from imrnn_vdb.model import Modulator, ModulatorConfig
    from imrnn_vdb.prior import FeedbackPrior

    space = FactorSpace(
        tensors.pop(f"{_SPACE}basis"),
        tuple(config["factor_names"]),
        tensors.pop(f"{_SPACE}quantiles"),
        tensors.pop(f"{_SPACE}added", None),
    )
    others = [name for name in tensors if not name.startswith(_MODULATOR)]
    if others:
        raise CheckpointError(f"tensors that do not belong here: {', '.join(sorted(others))}")
    _check_keys(config["modulator"], ModulatorConfig)
    _check_keys(config["modulator"]["prior"], FeedbackPrior)
    parts = {"prior": FeedbackPrior(**config["modulator"]["prior"]), "adapters": tuple(config["modulator"]["adapters"])}
    settings = ModulatorConfig(**{**config["modulator"], **parts})
    if settings.num_factors != space.num_factors:
        raise CheckpointError(f"the modulator has {settings.num_factors} factors, the space {space.num_factors}")
    modulator = Modulator(settings)
    state = {name.removeprefix(_MODULATOR): torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    modulator.load_state_dict(state, strict=True)
    encoder = None
    if config["encoder"] is not None:
        _check_keys(config["encoder"], EncoderConfig)
        encoder = EncoderConfig(**config["encoder"])
    if not isinstance(config["active"], bool) or not isinstance(config["evidence"], dict):
        raise CheckpointError("'active' must be true or false and 'evidence' an object")
    return IMRNNModel(space, modulator.eval(), encoder, config["evidence"], config["active"], precision)


def _tensors(model: IMRNNModel) -> dict[str, npt.NDArray[Any]]:
    state = {
        _MODULATOR + name: np.ascontiguousarray(value.detach().cpu().numpy())
        for name, value in model.modulator.state_dict().items()
    }
    space = {"basis": model.space.basis, "quantiles": model.space.quantiles, "added": model.space.added}
    return {**{f"{_SPACE}{name}": table for name, table in space.items() if table is not None}, **state}


def _fingerprint(tensors: dict[str, npt.NDArray[Any]], settings: object) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()[:16]


def _check_keys(given: Mapping[str, Any], expected: type) -> None:
    names = {item.name for item in fields(expected)}
    if set(given) != names:
        differing = ", ".join(sorted(set(given) ^ names))
        raise CheckpointError(f"{expected.__name__} has other settings than this version knows: {differing}")


def _locate(source: str) -> Path:
    path = Path(source)
    if source in shipped_checkpoints() and not holds(path, checkpoint=True):
        return _SHIPPED / source
    if path.is_dir():
        return path
    known = ", ".join(shipped_checkpoints())
    missing = f"there is no checkpoint {source!r}: give a folder, a Hugging Face repo id, or one of {known}"
    if path.exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise CheckpointError(missing)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as exc:
        raise CheckpointError(f"{missing}; to load from the hub, pip install 'imrnn-vdb[encoders]'") from exc
    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except Exception as exc:  # the hub client raises many types, some of them its HTTP library's
        raise CheckpointError(f"{missing}; asked for it, the hub's client says: {one_line(exc)}") from exc


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read a configuration and the weights it names, also while a save replaces both or after it was stopped."""
    for name in (WEIGHTS_FILE, _COMING_FILE):
        with suppress(CheckpointError):
            config, tensors = _read_config(folder / CONFIG_FILE), _read_tensors(folder / name)
            if config.get("model_id") == _fingerprint(tensors, config.get("modulator")):
                return config, tensors
    return _read_config(folder / CONFIG_FILE), _read_tensors(folder / WEIGHTS_FILE)  # the save is over, or all is told


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path} is missing: a checkpoint holds {CONFIG_FILE} and {WEIGHTS_FILE}") from exc
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"{path} is not readable JSON: {exc}") from exc
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not belong to an {FORMAT} checkpoint")
    if config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {config.get('format_version')!r}, this release reads {FORMAT_VERSION}: "
            "upgrade imrnn-vdb, or export the checkpoint again"
        )
    return config


def _read_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(path.read_bytes()))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path} is missing: a checkpoint holds {CONFIG_FILE} and {WEIGHTS_FILE}") from exc
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc}") from exc
    except (SafetensorError, ValueError) as exc:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {exc}") from exc
