"""The factor space: an orthonormal basis whose first columns have human names (DESIGN.md §2, §3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import SPACE_ID_CHARS, Codes, FloatArray
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError

LATENT_PREFIX = "latent_"
"""A factor without a name is called by this and the number of its coordinate."""
UNMEASURABLE = "holds NaN or infinity, or is longer than 1.8e19"
"""Said of a vector that is not :func:`measurable`."""
_ORTHONORMAL_TOLERANCE = 1e-4
_TINY = np.finfo(np.float32).tiny
_MIN_KEPT = 0.2  # share of a direction's length that the shipped names must leave of a factor that is added


@dataclass(frozen=True, eq=False)
class FactorSpace:
    """An m-dimensional subspace of the encoder's d dimensions, with names and calibration for its first axes.

    Parameters
    ----------
    basis
        Shape (d, m), float32, orthonormal columns: ``U``.
    names
        Names of the first columns, followed by those of the added factors. The other factors are latent.
    quantiles
        Shape (len(names), Q), float32, non-decreasing along each row: the Q evenly spaced quantiles (0 … 1) of each
        named coordinate over a reference corpus. They turn a coordinate into a factor score in 0..1.
    added
        Shape (m, a), float32, orthonormal columns: directions inside the code space that were named after the codes
        were stored, orthogonal to the p = len(names) − a columns with names. They are read from the same codes, so the
        space id does not know them. None for none.

    Raises
    ------
    InvalidInputError
        If the basis is not orthonormal, a name repeats, is not an identifier or is that of a latent factor, or a shape
        does not fit.
    """

    basis: FloatArray
    names: tuple[str, ...]
    quantiles: FloatArray
    added: FloatArray | None = None

    def __post_init__(self) -> None:
        basis = np.ascontiguousarray(self.basis, np.float32)
        quantiles = np.ascontiguousarray(self.quantiles, np.float32)
        object.__setattr__(self, "basis", basis)
        object.__setattr__(self, "quantiles", quantiles)
        object.__setattr__(self, "names", tuple(self.names))
        _check_basis(basis)
        _check_names(self.names, basis.shape[1])
        if self.added is not None:
            object.__setattr__(self, "added", _checked_added(self.added, basis.shape[1], len(self.names)))
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

    @property
    def num_columns(self) -> int:
        """Number p of basis columns that have a name; the names after them are of added factors."""
        return len(self.names) - (0 if self.added is None else self.added.shape[1])

    @cached_property
    def space_id(self) -> str:
        """Fingerprint of basis, and of names and calibration of its columns: 8 hex digits, stored with every code.

        Added factors do not enter: they are read from the codes that are stored already.
        """
        quantiles = self.quantiles[: self.num_columns]
        digest = hashlib.sha256(
            json.dumps([self.basis.shape, quantiles.shape, self.names[: self.num_columns]]).encode()
        )
        digest.update(self.basis.astype("<f4").tobytes())
        digest.update(quantiles.astype("<f4").tobytes())
        return digest.hexdigest()[:SPACE_ID_CHARS]

    @cached_property
    def score_ids(self) -> dict[str, str]:
        """Fingerprint of each added factor's score, 8 hex digits; those of the columns need none beside the space id.

        Stored scores are keyed by it, so that scores of two factors that share a name never mix.
        """
        found = {}
        for j, name in enumerate(self.names[self.num_columns :]):
            assert self.added is not None  # noqa: S101 - only then are there more names than columns
            digest = hashlib.sha256(json.dumps([self.space_id, name]).encode())
            digest.update(self.added[:, j].astype("<f4").tobytes())
            digest.update(self.quantiles[self.num_columns + j].astype("<f4").tobytes())
            found[name] = digest.hexdigest()[:SPACE_ID_CHARS]
        return found

    @property
    def named_axes(self) -> FloatArray:
        """Shape (d, len(names)), orthonormal: directions of all named factors among base vectors."""
        columns = self.basis[:, : self.num_columns]
        return columns if self.added is None else np.concatenate([columns, self.basis @ self.added], axis=1)

    @cached_property
    def _rest(self) -> FloatArray | None:
        """Shape (m, m − p): added factors, then an orthonormal basis of the latent factors that they leave."""
        if self.added is None:
            return None
        p, m = self.num_columns, self.num_factors
        start = np.concatenate([np.eye(m)[:, :p], self.added], axis=1)
        return complete_basis(start, np.eye(m)[:, p:], m)[:, p:]

    def turn(self, directions: FloatArray) -> FloatArray:
        """Turn codes so that the added factors are coordinates too; inner products and norms stay as they are.

        Parameters
        ----------
        directions
            Shape (…, m): codes.

        Returns
        -------
        numpy.ndarray
            Shape (…, m): the p named coordinates to the bit, those of the added factors, then latent ones. The same
            array where there are no added factors.
        """
        if self._rest is None:
            return directions
        return np.concatenate([directions[..., : self.num_columns], directions @ self._rest], axis=-1)

    def coordinates(self, directions: npt.ArrayLike) -> FloatArray:
        """Return the coordinates of codes, shape (n, m), on all named factors: shape (n, len(names))."""
        table = np.asarray(directions, np.float32)
        if self.added is None:
            return table[:, : len(self.names)]
        # in double precision: no coordinate depends on how many rows are multiplied at once
        added: FloatArray = (table.astype(np.float64) @ self.added).astype(np.float32)
        return np.concatenate([table[:, : self.num_columns], added], axis=1)

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
        return self.project(check_vectors(vectors, self.dim))

    def project(self, table: FloatArray) -> Codes:
        """Return what :meth:`encode` does, of vectors that :func:`check_vectors` has let through."""
        wide = table.astype(np.float64)  # squares of single floats vanish long before the floats do
        norms = np.sqrt(np.einsum("nd,nd->n", wide, wide)).astype(np.float32)
        directions: FloatArray = (table @ self.basis) / np.maximum(norms, _TINY)[:, None]
        return Codes(directions, norms, np.zeros(len(table), np.uint8))

    def factor_scores(self, directions: npt.ArrayLike, names: Sequence[str] | None = None) -> FloatArray:
        """Calibrate the named coordinates of codes to 0..1.

        A score of 0.9 means: higher on this factor than 90 % of the reference corpus. It is that of the code in half
        floats, however the code is kept: so what is stored beside a point, and what is computed from its code later,
        are the same number, and a filter gives the same answer in the database and here.

        Parameters
        ----------
        directions
            Shape (n, m): directions of codes.
        names
            Factors whose scores are wanted; None for all that have a name.

        Returns
        -------
        numpy.ndarray
            Shape (n, len(names)), float32, each in 0..1.

        Raises
        ------
        InvalidInputError
            If there is no factor of that name.
        """
        quantiles, line, offsets = self._calibration
        columns = np.arange(len(self.names))
        if names is not None:
            columns = np.array([self.index(name) for name in names], np.intp)
        if not len(columns):
            return np.zeros((len(np.asarray(directions)), 0), np.float32)
        steps, lowest = quantiles.shape[1] - 1, quantiles[columns, 0]
        kept = np.asarray(directions, np.float32).astype(np.float16)
        named = self.coordinates(kept)[:, columns].astype(np.float64).clip(lowest - 0.5, quantiles[columns, -1])
        found = np.searchsorted(line, named + offsets[columns], side="right") - 1 - columns * (steps + 1)
        below = found.clip(0, steps - 1)
        lower, upper = quantiles[columns, below], quantiles[columns, below + 1]
        within = np.divide(named - lower, upper - lower, out=np.ones_like(named), where=upper > lower)
        return np.where(named < lowest, 0.0, (below + within) / steps).astype(np.float32)

    @cached_property
    def _usual(self) -> FloatArray:
        """The median of each named coordinate over the reference corpus."""
        usual: FloatArray = np.quantile(self.quantiles, 0.5, axis=1).astype(np.float32)
        return usual

    @cached_property
    def _calibration(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The quantiles; all of them on one ascending line, so that one search serves all; where each factor begins."""
        quantiles = self.quantiles.astype(np.float64)
        width = float(np.ptp(quantiles)) + 1 if quantiles.size else 1.0
        offsets: npt.NDArray[np.float64] = width * np.arange(len(quantiles), dtype=np.float64)
        return quantiles, (quantiles + offsets[:, None]).ravel(), offsets

    def prominence(self, query: FloatArray, directions: npt.ArrayLike) -> FloatArray:
        """Say how much of a factor query and documents share beyond what is usual, by named factor.

        ``max(z_q[j] − c_j, 0)·max(z_d[j] − c_j, 0)``, c_j the median of the reference corpus, where the factor score is
        0.5. What everything carries is no reason for a match, and neither is what both sides lack.

        Parameters
        ----------
        query
            Shape (m,): direction of the query's code.
        directions
            Shape (n, m): directions of the documents' codes.

        Returns
        -------
        numpy.ndarray
            Shape (n, len(names)), float32, 0 or above; larger is more telling.
        """
        above = (self.coordinates(table) - self._usual for table in (query[None], directions))
        asked, found = (table.clip(0) for table in above)
        return np.asarray(asked * found, np.float32)

    def with_factor(self, name: str, direction: npt.ArrayLike, quantiles: npt.ArrayLike) -> FactorSpace:
        """Add a named factor that stored codes can be read for; codes, named axes and their scores stay as they are.

        Parameters
        ----------
        name
            An identifier that is new here.
        direction
            Shape (m,): a direction among codes. What it shares with the named factors is taken out.
        quantiles
            Shape (Q,): evenly spaced quantiles of the new coordinate over a reference corpus, as many as the other
            factors have; see `added_axis`.

        Raises
        ------
        InvalidInputError
            If the name is taken or no identifier, the number of quantiles differs, or the named factors leave too
            little of the direction.
        """
        axis = self.added_axis(direction)[:, None]
        added = axis if self.added is None else np.concatenate([self.added, axis], axis=1)
        row = np.asarray(quantiles, np.float32)
        if row.shape != self.quantiles.shape[1:]:
            raise InvalidInputError(f"an added factor has {self.quantiles.shape[1]} quantiles, as the others have")
        return FactorSpace(self.basis, (*self.names, name), np.concatenate([self.quantiles, row[None]]), added)

    def added_axis(self, direction: npt.ArrayLike) -> FloatArray:
        """Return the unit axis, shape (m,), that a direction of that shape becomes when it is added.

        Raises
        ------
        InvalidInputError
            If less than a fifth of its length lies outside the named factors.
        """
        whole = np.asarray(direction, np.float64)
        if whole.shape != (self.num_factors,) or not np.isfinite(whole).all() or not whole.any():
            raise InvalidInputError(f"a factor's direction has {self.num_factors} finite numbers, not all zero")
        rest = whole / np.linalg.norm(whole)
        rest[: self.num_columns] = 0
        for _ in range(0 if self.added is None else 2):  # the second pass removes what rounding left of the first
            rest -= self.added @ (self.added.T @ rest)  # type: ignore[union-attr]
        length = float(np.linalg.norm(rest))
        if length < _MIN_KEPT:
            raise InvalidInputError(
                f"the named factors leave {length:.2f} of this direction: it is a mixture of them; filter by those"
            )
        return np.asarray(rest / length, np.float32)

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
        If they are not a table of finite numbers, or the square of a length is beyond single precision.
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
    usable = measurable(table)
    if not usable.all():
        row = int(np.flatnonzero(~usable)[0])
        raise InvalidInputError(f"vector {row} {UNMEASURABLE}; nothing was sent")
    return table


def measurable(table: FloatArray) -> npt.NDArray[np.bool_]:
    """Say which rows of a float32 table have a finite length: no NaN, no infinity, no square that overflows."""
    return np.asarray(np.isfinite(np.einsum("nd,nd->n", table, table)))


def oriented(columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return eigenvectors (d, r), which have no sign of their own, with the largest entry of each column positive."""
    largest = np.abs(columns).argmax(axis=0)
    signs = np.sign(columns[largest, np.arange(columns.shape[1])])
    return np.asarray(columns * signs, np.float64)


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

    Raises
    ------
    InvalidInputError
        If ``num_factors`` is below p, or above the number of independent directions.
    """
    columns = list(np.asarray(named, np.float64).T)
    if num_factors < len(columns):
        raise InvalidInputError(f"{num_factors} columns were asked for, but the {len(columns)} named ones stay")
    for direction in np.asarray(directions, np.float64).T:
        if len(columns) >= num_factors:
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


def _checked_added(added: FloatArray, num_factors: int, num_names: int) -> FloatArray | None:
    table = np.ascontiguousarray(added, np.float32)
    if table.ndim != 2 or table.shape[0] != num_factors or table.shape[1] > num_names:
        raise InvalidInputError(f"added factors have the shape ({num_factors}, a), got {table.shape}")
    if not table.shape[1]:
        return None
    _check_basis(table)
    if np.abs(table[: num_names - table.shape[1]]).max(initial=0) > _ORTHONORMAL_TOLERANCE:
        raise InvalidInputError("an added factor must be orthogonal to the named columns")
    return table


def _check_names(names: tuple[str, ...], num_factors: int) -> None:
    if len(names) > num_factors:
        raise InvalidInputError(f"{len(names)} names for {num_factors} factors")
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise InvalidInputError(f"the name {twice!r} is taken: factor names must differ from one another")
    for name in names:
        if not name.isidentifier():
            raise InvalidInputError(f"a factor name is letters, digits and underscores, got {name!r}")
        if name.startswith(LATENT_PREFIX) and name.removeprefix(LATENT_PREFIX).isdecimal():
            raise InvalidInputError(f"{name!r} is what a factor without a name is called: choose another")
