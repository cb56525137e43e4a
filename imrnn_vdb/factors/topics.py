"""Topics of a collection: clusters of its stored codes, named by their terms, on two levels (DESIGN.md §3).

Topics live beside a space, not in it: nothing that is stored changes. One that deserves filters and a part in
explanations becomes a factor by :func:`topic_factor`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import InvalidInputError, MissingExtraError, SpaceMismatchError
from imrnn_vdb.factors.own import OwnFactor, add_factor
from imrnn_vdb.factors.terms import Rows, telling_terms
from imrnn_vdb.files import replace_file
from imrnn_vdb.space import FactorSpace

_TERMS_IN_NAME = 3
_FAR = 0.02  # share of the points it was fitted on that count as far from every topic


@dataclass(frozen=True, slots=True)
class Topic:
    """A cluster of codes.

    Attributes
    ----------
    name
        An identifier, from its terms or given by a person.
    terms
        What its texts use and others do not, the most telling first (class-based TF-IDF, Grootendorst 2022).
    centre
        Shape (m,), as a tuple: unit direction from the mean of all codes.
    count
        Points of the sample that belong to it.
    parent
        Name of the coarse topic that it is part of; None for a coarse one.
    """

    name: str
    terms: tuple[str, ...]
    centre: tuple[float, ...]
    count: int
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class TopicMatch:
    """A topic that a code belongs to.

    Attributes
    ----------
    name
        Of the topic.
    similarity
        Cosine of code and centre, both seen from the mean of all codes: −1..1.
    """

    name: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Topics:
    """Coarse topics with finer ones under them.

    Attributes
    ----------
    space_id
        Space of the codes; those of another space have no topics here.
    mean
        Shape (m,), as a tuple: mean of the codes of the sample.
    nearest
        Cosine with the nearest coarse centre below which a code is far from all topics.
    topics
        Coarse and fine ones, in the order in which they were found; later ones are appended.
    """

    space_id: str
    mean: tuple[float, ...]
    nearest: float
    topics: tuple[Topic, ...]

    def checked(self, space: FactorSpace) -> Topics:
        """Return the topics themselves, if they belong to a space.

        Raises
        ------
        SpaceMismatchError
            If their centres are codes of another one.
        """
        if self.space_id != space.space_id:
            raise SpaceMismatchError(
                f"these topics belong to the space {self.space_id}, not to {space.space_id}: find them anew with this "
                "model, by imrnn-vdb factors topics URL --model MODEL --out FILE"
            )
        return self

    def level(self, parent: str | None = None) -> tuple[Topic, ...]:
        """Return the coarse topics, or the finer ones of a coarse topic."""
        return tuple(topic for topic in self.topics if topic.parent == parent)

    def assign(self, directions: npt.ArrayLike) -> list[tuple[str, ...]]:
        """Return the topic of each code, shape (n, m): the coarse name, and the fine one where there are finer."""
        return [tuple(match.name for match in found) for found in self._closest(directions)]

    def members(self, name: str, directions: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Say which codes, shape (n, m), belong to a topic; `InvalidInputError` if there is none of that name."""
        self._known(name)
        return np.array([name in names for names in self.assign(directions)], bool)

    def _known(self, name: str) -> None:
        names = [topic.name for topic in self.topics]
        if name not in names:
            raise InvalidInputError(f"no topic is named {name!r}; there are: {', '.join(names)}")

    def matches(self, directions: npt.ArrayLike) -> list[tuple[TopicMatch, ...]]:
        """Return the topics that each code, shape (n, m), belongs to: a coarse one, and a finer one where there is one.

        None for a code that is far from all topics.
        """
        closest = self._closest(directions)
        return [found if found[0].similarity >= self.nearest else () for found in closest]

    def _closest(self, directions: npt.ArrayLike) -> list[tuple[TopicMatch, ...]]:
        found: list[tuple[TopicMatch, ...]] = []
        coarse = self.level()
        codes = _centred(directions, self.mean)
        for code, first, cosine in zip(codes, *_nearest(codes, coarse), strict=True):
            match = TopicMatch(coarse[first].name, float(cosine))
            if finer := self.level(match.name):
                [second], [closer] = _nearest(code[None], finer)
                found.append((match, TopicMatch(finer[second].name, float(closer))))
            else:
                found.append((match,))
        return found

    def renamed(self, old: str, new: str) -> Topics:
        """Return the topics with another name for one of them.

        Raises
        ------
        InvalidInputError
            If there is no such topic, or the new name is taken or no identifier.
        """
        self._known(old)
        if new in {topic.name for topic in self.topics} or not new.isidentifier():
            raise InvalidInputError(f"{new!r} is taken, or is not made of letters, digits and underscores")
        called = {old: new}
        changed = (
            replace(topic, name=called.get(topic.name, topic.name), parent=called.get(topic.parent or "", topic.parent))
            for topic in self.topics
        )
        return replace(self, topics=tuple(changed))

    def extended(self, directions: npt.ArrayLike, texts: Sequence[str], num_topics: int = 1, seed: int = 0) -> Topics:
        """Append coarse topics for codes that are far from all that are there; those keep names and centres.

        Nothing is appended where no more codes are far away than chance has it in a new sample of the same collection.

        Parameters
        ----------
        directions, texts
            Shape (n, m), and n texts: a new sample.
        num_topics
            New topics at most.
        """
        codes = _centred(directions, self.mean)
        far = np.flatnonzero(_nearest(codes, self.level())[1] < self.nearest)
        usual = _FAR * len(codes)
        if len(far) < usual + max(2 * num_topics, 3 * usual**0.5):
            return self
        rows = [far[part] for part in _cluster(codes[far], num_topics, seed)]
        taken = [topic.name for topic in self.topics]
        new = _describe(codes, texts, [*rows, np.setdiff1d(np.arange(len(codes)), far)], None, taken)[:-1]
        return replace(self, topics=(*self.topics, *new))

    def save(self, path: Path) -> None:
        """Write the topics as JSON; terms are words of the collection's texts. An old file stays if the write fails."""
        replace_file(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Topics:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InvalidInputError
            If the file is missing or holds something else.
        """
        try:
            row: Any = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(row, dict):
                raise TypeError("its JSON is no object")
            topics = tuple(
                Topic(**{**topic, "terms": tuple(topic["terms"]), "centre": tuple(topic["centre"])})
                for topic in row.pop("topics")
            )
            found = cls(**{**row, "mean": tuple(row["mean"])}, topics=topics)
            if not found.level() or {len(topic.centre) for topic in topics} != {len(found.mean)}:
                raise ValueError("its topics have no centres beside their mean")
            return found
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
            raise InvalidInputError(f"{path} does not hold topics: {exc}") from exc


def find_topics(
    space: FactorSpace, directions: npt.ArrayLike, texts: Sequence[str], coarse: int = 12, fine: int = 4, seed: int = 0
) -> Topics:
    """Cluster a sample of codes on two levels, and name the clusters.

    Parameters
    ----------
    space
        Space of the codes.
    directions, texts
        Shape (n, m), and the n texts they stand for.
    coarse
        Coarse topics; fewer where fewer codes differ.
    fine
        Finer topics under each coarse one that has ten points for each; 0 or 1 for none.

    Raises
    ------
    InvalidInputError
        If there are fewer codes than topics, or lengths differ.
    MissingExtraError
        If scikit-learn is not installed.
    """
    table = np.asarray(directions, np.float32)
    if table.ndim != 2 or table.shape[1] != space.num_factors or len(table) != len(texts):
        raise InvalidInputError(f"{len(texts)} texts need codes of shape ({len(texts)}, {space.num_factors})")
    if not 1 <= coarse <= len(table):
        raise InvalidInputError(f"{coarse} topics cannot be found among {len(table)} points")
    mean = table.mean(axis=0)
    codes = _centred(table, mean)
    groups = sorted(_cluster(codes, coarse, seed), key=lambda rows: -len(rows))
    found = _describe(codes, texts, groups, None, [])
    nearest = float(np.quantile(_nearest(codes, found)[1], _FAR))
    finer: list[Topic] = []
    for topic, rows in zip(tuple(found), groups, strict=True):
        if fine > 1 and len(rows) >= 10 * fine:
            parts = [rows[part] for part in _cluster(codes[rows], fine, seed)]
            taken = [other.name for other in (*found, *finer)]
            finer += _describe(codes, texts, parts, topic.name, taken)
    return Topics(space.space_id, tuple(mean.tolist()), nearest, (*found, *finer))


def topic_factor(space: FactorSpace, topics: Topics, name: str, directions: npt.ArrayLike) -> OwnFactor:
    """Make a factor of a topic: its codes of a sample, shape (n, m), against the others.

    Raises
    ------
    SpaceMismatchError
        If the topics belong to another space.
    InvalidInputError
        If there is no such topic.
    """
    table = np.asarray(directions, np.float32)
    inside = topics.checked(space).members(name, table)
    return add_factor(space, name, table[inside], table[~inside], reference=table)


def _describe(
    codes: FloatArray, texts: Sequence[str], groups: Sequence[Rows], parent: str | None, taken: Sequence[str]
) -> list[Topic]:
    """Name groups of rows by what sets them apart from one another."""
    used = set(taken)
    found = []
    for rows, terms in zip(groups, telling_terms(texts, groups), strict=True):
        name = _unused("_".join([term for term in terms if term.isidentifier()][:_TERMS_IN_NAME]) or "topic", used)
        used.add(name)
        centre = codes[rows].mean(axis=0) if len(rows) else np.zeros(codes.shape[1])
        length = np.linalg.norm(centre) or 1.0
        found.append(Topic(name, tuple(terms), tuple((centre / length).tolist()), len(rows), parent))
    return found


def _unused(name: str, used: set[str]) -> str:
    number = 2
    unused = name
    while unused in used:
        unused, number = f"{name}_{number}", number + 1
    return unused


def _cluster(codes: FloatArray, num_clusters: int, seed: int) -> list[Rows]:
    """Return the rows of each cluster, none of them empty: no more than there are different codes."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as exc:
        raise MissingExtraError("scikit-learn", "train") from exc
    count = min(num_clusters, len(np.unique(codes, axis=0)))
    labels = KMeans(count, n_init=3, random_state=seed).fit(codes).labels_
    return [np.flatnonzero(labels == k) for k in range(count)]


def _centred(directions: npt.ArrayLike, mean: npt.ArrayLike) -> FloatArray:
    """Return unit directions from the mean."""
    codes = np.asarray(directions, np.float32) - np.asarray(mean, np.float32)
    return np.asarray(codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12), np.float32)


def _nearest(codes: FloatArray, topics: Sequence[Topic]) -> tuple[Rows, FloatArray]:
    """Return the topic with the nearest centre for each unit code, and the cosine with it."""
    cosines = codes @ np.array([topic.centre for topic in topics], np.float32).T
    return cosines.argmax(axis=1), cosines.max(axis=1)


def as_topics(value: Topics | str | Path) -> Topics:
    """Accept topics, or the path of their file; `InvalidInputError` for anything else."""
    if isinstance(value, str | Path):
        return Topics.load(Path(value))
    if not isinstance(value, Topics):
        raise InvalidInputError(f"topics are Topics, or the path of their file, got {value!r}")
    return value
