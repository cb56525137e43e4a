"""The factor space: an orthonormal basis whose first columns have human names (DESIGN.md §2, §3)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import SPACE_ID_CHARS, Codes, FloatArray
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError

_ORTHONORMAL_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class FactorSpace:
    """An m-dimensional subspace of the encoder's d dimensions, with names and calibration for its first axes.

    Parameters
    ----------
    basis
        Shape (d, m), float32, orthonormal columns: ``U``.
    names
        Names of the first ``len(names)`` columns, at most m. The other columns are latent factors.
    quantiles
        Shape (len(names), Q), float32, non-decreasing along each row: the Q evenly spaced quantiles (0 … 1) of each
        named coordinate over a reference corpus. They turn a coordinate into a factor score in 0..1.

    Raises
    ------
    InvalidInputError
        If the basis is not orthonormal, a name repeats or is not an identifier, or a shape does not fit.
    """

    basis: FloatArray
    names: tuple[str, ...]
    quantiles: FloatArray

    def __post_init__(self) -> None:
        basis = np.ascontiguousarray(self.basis, np.float32)
        quantiles = np.ascontiguousarray(self.quantiles, np.float32)
        object.__setattr__(self, "basis", basis)
        object.__setattr__(self, "quantiles", quantiles)
        object.__setattr__(self, "names", tuple(self.names))
        _check_basis(basis)
        _check_names(self.names, basis.shape[1])
        if quantiles.ndim != 2 or quantiles.shape[0] != len(self.names) or quantiles.shape[1] < 2:
            raise InvalidInputError(
                f"quantiles need the shape ({len(self.names)}, Q) with Q of at least 2, got {quantiles.shape}"
            )
        if not np.isfinite(quantiles).all() or (np.diff(quantiles, axis=1) < 0).any():
            raise InvalidInputError("the quantiles of each factor must be finite and in ascending order")

    @property
    def dim(self) -> int:
        """Number of dimensions d of the base vectors."""
        return int(self.basis.shape[0])

    @property
    def num_factors(self) -> int:
        """Number of factors m."""
        return int(self.basis.shape[1])

    @cached_property
    def space_id(self) -> str:
        """Fingerprint of basis, names and calibration: 8 hex digits, stored with every code."""
        digest = hashlib.sha256(json.dumps([self.basis.shape, self.quantiles.shape, self.names]).encode())
        digest.update(self.basis.astype("<f4").tobytes())
        digest.update(self.quantiles.astype("<f4").tobytes())
        return digest.hexdigest()[:SPACE_ID_CHARS]

    def encode(self, vectors: npt.ArrayLike) -> Codes:
        """Compute the factor codes of vectors.

        Parameters
        ----------
        vectors
            Shape (n, d); any norm. A zero vector gets a zero code.

        Returns
        -------
        Codes
            n current codes: directions ``Uᵀx / ‖x‖`` and norms ``‖x‖``.

        Raises
        ------
        SpaceMismatchError
            If the vectors do not have d dimensions.
        InvalidInputError
            If a vector holds NaN or infinity.
        """
        table = check_vectors(vectors, self.dim)
        norms = np.linalg.norm(table, axis=1).astype(np.float32)
        directions = (table @ self.basis) / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
        return Codes(directions.astype(np.float32), norms, np.zeros(len(table), np.uint8))

    def factor_scores(self, directions: npt.ArrayLike) -> FloatArray:
        """Calibrate the named coordinates of codes to 0..1.

        A score of 0.9 means: higher on this factor than 90 % of the reference corpus.

        Parameters
        ----------
        directions
            Shape (n, m): directions of codes.

        Returns
        -------
        numpy.ndarray
            Shape (n, len(names)), float32, each in 0..1.
        """
        coordinates = np.asarray(directions, np.float32)
        levels = np.linspace(0.0, 1.0, self.quantiles.shape[1])
        columns = [np.interp(coordinates[:, j], row, levels) for j, row in enumerate(self.quantiles)]
        scores = np.stack(columns, axis=1) if columns else np.zeros((len(coordinates), 0))
        return scores.astype(np.float32)

    def index(self, name: str) -> int:
        """Return the column of a named factor.

        Raises
        ------
        InvalidInputError
            If there is no factor of that name; the message lists those there are.
        """
        try:
            return self.names.index(name)
        except ValueError:
            known = ", ".join(self.names) or "none"
            raise InvalidInputError(f"no factor is named {name!r}; this space has: {known}") from None


def check_vectors(vectors: npt.ArrayLike, dim: int) -> FloatArray:
    """Return vectors as a float32 table of shape (n, dim), or say what is wrong with them.

    Raises
    ------
    SpaceMismatchError
        If they do not have ``dim`` dimensions.
    InvalidInputError
        If they are not a table of finite numbers.
    """
    try:
        table = np.ascontiguousarray(vectors, np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"vectors must be a table of numbers, one row a vector: {exc}") from exc
    if table.ndim != 2:
        raise InvalidInputError(f"vectors must have the shape (n, {dim}), got {table.shape}")
    if table.shape[1] != dim:
        raise SpaceMismatchError(
            f"the vectors have {table.shape[1]} dimensions, but the model was made for {dim}: "
            "use the encoder the model was trained with, or a model for this encoder"
        )
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise InvalidInputError(f"vector {row} holds NaN or infinity; nothing was sent")
    return table


def complete_basis(named: npt.ArrayLike, directions: npt.ArrayLike, num_factors: int) -> FloatArray:
    """Extend orthonormal named columns to an orthonormal basis.

    Parameters
    ----------
    named
        Shape (d, p), orthonormal columns that stay as they are.
    directions
        Shape (d, r), candidate directions in order of preference, for example principal components; what they have in
        the span of ``named`` is removed.
    num_factors
        Number of columns m of the result, p <= m <= p + r.

    Returns
    -------
    numpy.ndarray
        Shape (d, m), float32, orthonormal, its first p columns equal to ``named``.
    """
    columns = list(np.asarray(named, np.float64).T)
    for direction in np.asarray(directions, np.float64).T:
        if len(columns) == num_factors:
            break
        rest = direction
        for _ in range(2):  # the second pass removes what rounding left of the first
            for column in columns:
                rest = rest - column * (column @ rest)
        length = np.linalg.norm(rest)
        if length > 1e-6 * np.linalg.norm(direction):
            columns.append(rest / length)
    if len(columns) < num_factors:
        raise InvalidInputError(f"only {len(columns)} independent directions are there, {num_factors} were asked for")
    return np.stack(columns, axis=1).astype(np.float32)


def _check_basis(basis: FloatArray) -> None:
    if basis.ndim != 2 or not 1 <= basis.shape[1] <= basis.shape[0]:
        raise InvalidInputError(f"a basis has the shape (d, m) with 1 <= m <= d, got {basis.shape}")
    error = np.abs(basis.T @ basis - np.eye(basis.shape[1], dtype=np.float32)).max()
    if not error < _ORTHONORMAL_TOLERANCE:
        raise InvalidInputError(f"the basis is not orthonormal: UᵀU differs from the identity by {error:.2g}")


def _check_names(names: tuple[str, ...], num_factors: int) -> None:
    if len(names) > num_factors:
        raise InvalidInputError(f"{len(names)} names for {num_factors} factors")
    if len(set(names)) != len(names):
        raise InvalidInputError("factor names must differ from one another")
    for name in names:
        if not (name.isascii() and name.isidentifier()):
            raise InvalidInputError(f"a factor name is letters, digits and underscores, got {name!r}")
