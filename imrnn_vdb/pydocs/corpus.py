"""The documentation strings of the running Python's standard library, as a collection to search.

Every machine that runs this package has them, so the demo and the labelled set need no download. The
texts are read when they are asked for; none is stored in the package.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

# Not documentation for programmers, absent on some machines, or with effects on import.
_SKIPPED = frozenset(
    {
        *("antigravity", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "this", "turtledemo", "venv"),
        *("distutils", "encodings", "msilib", "msvcrt", "nt", "ossaudiodev", "tkinter", "turtle", "winreg", "winsound"),
        *("genericpath", "ntpath", "posix", "posixpath"),
    }
)
# Modules whose functions are documented, and used, under another name.
_HOMES = {"posix": "os", "nt": "os", "posixpath": "os.path", "ntpath": "os.path", "genericpath": "os.path"}
_MIN_CHARS = 25


@dataclass(frozen=True, slots=True)
class DocEntry:
    """One documented object of the standard library.

    Attributes
    ----------
    id
        Qualified name, for example ``"collections.deque.rotate"``.
    title
        Qualified name with the call signature where Python knows it.
    text
        The documentation string, cleaned of indentation.
    module
        Name of the module that documents the object.
    kind
        ``"module"``, ``"class"``, ``"function"`` or ``"method"``.
    """

    id: str
    title: str
    text: str
    module: str
    kind: str


def read_stdlib() -> list[DocEntry]:
    """Read the documentation of every public standard-library module that imports here.

    Returns
    -------
    list of DocEntry
        Sorted by id; of entries with the same text the one with the shortest id. About 5,500 entries.
    """
    by_text: dict[str, DocEntry] = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names - _SKIPPED):
            for module in _modules(name):
                for entry in _entries(module):
                    kept = by_text.setdefault(entry.text, entry)
                    if (len(entry.id), entry.id) < (len(kept.id), kept.id):
                        by_text[entry.text] = entry
    unique = {entry.id: entry for entry in by_text.values()}
    return sorted(unique.values(), key=lambda entry: entry.id)


def _modules(name: str) -> Iterator[types.ModuleType]:
    """Yield a module and its public submodules; those that cannot be imported here are left out."""
    if name.startswith("_") or name.rpartition(".")[2] in {"test", "tests"}:
        return
    try:
        module = importlib.import_module(name)
    except Exception:  # noqa: BLE001 - a module of another platform, or one built without its C library
        return
    yield module
    if name == "os":
        yield importlib.import_module("os.path")
    for child in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not child.name.startswith("_"):
            yield from _modules(f"{name}.{child.name}")


def _entries(module: types.ModuleType) -> Iterator[DocEntry]:
    name = _HOMES.get(module.__name__, module.__name__)
    if (entry := _entry(name, module, name, "module")) is not None:
        yield entry
    for key, value in sorted(vars(module).items()):
        if key.startswith("_") or not _belongs(value, name):
            continue
        if inspect.isclass(value):
            yield from _class_entries(f"{name}.{key}", value, name)
        elif callable(value) and (entry := _entry(f"{name}.{key}", value, name, "function")):
            yield entry


def _class_entries(qualified: str, cls: type, module: str) -> Iterator[DocEntry]:
    if "__doc__" in vars(cls) and (entry := _entry(qualified, cls, module, "class")):
        yield entry
    for key, value in sorted(vars(cls).items()):
        if key.startswith("_"):
            continue
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        home = getattr(value, "__module__", None) or module
        if home.partition(".")[0].lstrip("_") not in sys.stdlib_module_names:
            continue  # added to the class by another package
        if entry := _entry(f"{qualified}.{key}", value, module, "method"):
            yield entry


def _belongs(value: object, module: str) -> bool:
    """Say whether a module's attribute is documented there and not merely imported from elsewhere."""
    home = getattr(value, "__module__", None)
    if home is None or home == "builtins":
        return module == "builtins" or inspect.isbuiltin(value)
    home = _HOMES.get(home, home)
    return bool(home == module or home == f"_{module}" or home.startswith(f"{module}._"))


def _entry(identifier: str, value: object, module: str, kind: str) -> DocEntry | None:
    documentation = getattr(value, "__doc__", None)
    if not isinstance(documentation, str):
        return None
    text = inspect.cleandoc(documentation).strip()
    if len(text) < _MIN_CHARS:
        return None
    signature = _signature(value) if kind in {"function", "method"} else ""
    return DocEntry(identifier, f"{identifier}{signature}", text, module, kind)


def _signature(value: object) -> str:
    try:
        signature = str(inspect.signature(value))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - a C function without one, or with a default that Python cannot evaluate
        return ""
    return "" if " at 0x" in signature else signature  # an address differs in every process
