"""What the commands share: options, errors as exit codes, and output for people or for programs."""

from __future__ import annotations

import errno
import functools
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from rich.console import Console

from imrnn_vdb.errors import AuditError, IMRNNError, InvalidInputError, SpaceMismatchError, StoreError
from imrnn_vdb.model_files import foreign, saved_id
from imrnn_vdb.payloads import finite, keys_of

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.options import OpenOptions
    from imrnn_vdb.points import Payload, PointId
    from imrnn_vdb.results import SearchResponse

_WIDTH_OF_FILES = 120
FAILED, WRONG_INPUT, NO_DATABASE = 1, 2, 3
CONNECTION = ("api_key", "tls", "timeout", "vector_name")
"""The options of a connection, as :func:`connection_options` adds them."""

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class OutFile(click.Path):
    """A file to write: refused before any work is done, where it could not be written at its end."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, if a file can be written there."""
        path = cast("Path", super().convert(value, param, ctx))
        if reason := unwritable(path):
            self.fail(reason, param, ctx)
        return path


class OutFolder(click.Path):
    """A folder to write, made with its parents if it is not there: refused before any work is done, if it cannot be.

    Parameters
    ----------
    cache
        Whether one that is there already may be read-only, for what is kept there may be all that is needed.
    """

    def __init__(self, *, cache: bool = False) -> None:
        super().__init__(file_okay=False, path_type=Path)
        self._cache = cache

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, if a folder is or can be made there."""
        path = cast("Path", super().convert(value, param, ctx))
        try:
            if not (self._cache and path.is_dir()):
                whole = path.absolute()
                _write_into(next(folder for folder in (whole, *whole.parents) if folder.exists()))
        except OSError as exc:
            self.fail(f"{path} cannot be written: {_told(exc)}", param, ctx)
        return path


class ModelFolder(OutFolder):
    """A folder for a checkpoint: refused, too, where it holds something else, such as an encoder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, if a checkpoint can be written there."""
        path = super().convert(value, param, ctx)
        if reason := foreign(path):
            self.fail(reason, param, ctx)
        return path


def save_model(model: IMRNNModel, folder: Path) -> None:
    """Write a checkpoint; another one that it replaces is named on standard error."""
    former = saved_id(folder)
    model.save_pretrained(folder)
    if former not in ("", model.model_id):
        click.echo(f"{folder} held another model, {former}, which is replaced", err=True)


def unwritable(path: Path) -> str:
    """Say why a file cannot be written; "" if it can be."""
    try:
        if path.exists() and not os.access(path, os.W_OK):
            return f"{path} cannot be written: it is read-only"
        if path.is_file() or not path.exists():  # else it is a device or a pipe
            _write_into(path.resolve().parent)
    except OSError as exc:
        return f"{path} cannot be written: {_told(exc)}"
    return ""


def _write_into(folder: Path) -> None:
    """Make something in a folder that is gone at once; `OSError` if that cannot be."""
    try:
        tempfile.TemporaryDirectory(prefix=".imrnn-", dir=folder).cleanup()
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(folder)) from exc


model_option = click.option(
    "--model", default="minilm", show_default=True, help="Checkpoint: a shipped name, a folder or a hub repo id."
)

topics_option = click.option(
    "--topics",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of `factors topics --out`: say which topics query and results belong to.",
)


def url_options(command: Command) -> Command:
    """Add the argument URL, which may be an attachment's file, and the options of a connection."""
    command = click.argument("url")(_with_attachment(command))
    attached = "Open as attach --in-collection recorded it in the collection."
    return connection_options(click.option("--attached", is_flag=True, help=attached)(command))


def connection_options(command: Command) -> Command:
    """Add the options of a connection to a collection."""
    for decorate in (
        click.option("--api-key", envvar="IMRNN_API_KEY", help="Secret for the server; better in IMRNN_API_KEY."),
        click.option("--tls/--no-tls", default=None, help="Encrypt the connection, or not."),
        click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds for one operation."),
        click.option("--vector-name", default="", help="The base vector, where several fit the model."),
    ):
        command = decorate(command)
    return command


def connection_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a connection; a name of the vector only if one was typed, as an attachment may have one."""
    return {name: options[name] for name in CONNECTION if name != "vector_name" or given(name)}


def is_attachment(source: str | None) -> bool:
    """Say whether what stands for a collection's URL is an attachment's file; an error if it can be neither."""
    if source is None or Path(source).is_file():
        return source is not None
    if ":" not in source:
        raise InvalidInputError(
            f"there is no file {source!r}; a collection URL starts with a scheme: qdrant://localhost:6334/articles"
        )
    return False


def located(
    source: str, model: IMRNNModel | str | None, **options: Any
) -> tuple[str, IMRNNModel | str, dict[str, Any]]:
    """Return the URL of a collection, the model and the options that open it.

    Parameters
    ----------
    source
        The URL, or the path of an attachment, whose options lie under those that are given.
    model
        A model, or the name of one; None for that of the attachment, or else for ``minilm``.
    options
        As for :meth:`IMRNNCollection.open`.
    """
    from imrnn_vdb.attach import find_attachment
    from imrnn_vdb.options import Settings
    from imrnn_vdb.shell import attached

    if not is_attachment(source):
        return source, model or "minilm", options
    if model is None:
        attachment, found, merged = attached(source, cast("OpenOptions", options))
        return attachment.url, found, {**merged}
    attachment = find_attachment(source, Settings(**options))
    return attachment.url, model, attachment.merged(options)


def _with_attachment(command: Command) -> Command:
    """Take what an attachment says, where URL is its file or --attached reads it from the collection.

    What stands on the command line goes first. The attachment's model is refused if its space is not the attached one.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        is_file = is_attachment(options["url"])
        if options.pop("attached") or is_file:
            from imrnn_vdb.attach import find_attachment
            from imrnn_vdb.options import Settings

            how = {name: options[name] for name in ("api_key", "tls", "timeout")}
            attachment = find_attachment(options["url"], Settings(**how))
            names = given("vector_name", "text_field", "guard")
            own: dict[str, Any] = {name: options[name] for name in names if name in options}
            options = {**options, **attachment.merged(own), "url": attachment.url}
            if not given("model"):
                options["model"] = attachment.model
                command_name = click.get_current_context().info_name
                if command_name == "doctor":  # which says it among the rest, as it does of a collection's own record
                    options["attachment"] = attachment if is_file else None
                elif command_name != "attach":  # which makes it anew
                    options["model"] = Settings().load(attachment.model)
                    attachment.check(options["model"].space)
        return command(*args, **options)

    return exit_codes(wrapped)  # type: ignore[return-value]


def exit_codes(command: Command) -> Command:
    """Turn our errors, and those of files, into one line on standard error and an exit code, without a stack trace."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
        if isinstance(sys.stdout, io.TextIOWrapper):  # where it is not UTF-8, a bar is a question mark and no error
            sys.stdout.reconfigure(errors="replace")
        try:
            return command(*args, **kwargs)
        except IMRNNError as exc:
            click.echo(f"error: {exc}", err=True)
            sys.exit(_exit_code(exc))
        except OSError as exc:
            if exc.errno == errno.EPIPE:  # whoever read our output has read enough; click ends without a word
                raise
            click.echo(f"error: {_told(exc)}", err=True)
            sys.exit(WRONG_INPUT)
        except UnicodeError as exc:
            click.echo(f"error: {exc}", err=True)
            sys.exit(WRONG_INPUT)

    return wrapped  # type: ignore[return-value]


def given(*names: str) -> list[str]:
    """Return those of these parameters that stand on the command line, be it with their default value.

    A default does not, nor a key in the environment.
    """
    source = click.get_current_context().get_parameter_source
    return [name for name in names if source(name) is click.core.ParameterSource.COMMANDLINE]


def flags(names: Iterable[str]) -> str:
    """Return parameters as they are typed."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def typed_ids(known: Iterable[PointId], ids: Iterable[str]) -> list[PointId]:
    """Return the ids that are meant by what is typed, when a number may be one or a text; others stay as typed.

    Where a collection has both, the text is meant.
    """
    meant = {str(value): value for value in sorted(known, key=lambda value: isinstance(value, str))}
    return [meant.get(value, value) for value in ids]


def without_text(collection: IMRNNCollection, payloads: Sequence[Payload]) -> str:
    """Say what to do where no point has a text; "" where one has."""
    if any(collection.text_of(payload) for payload in payloads):
        return ""
    return (
        f"none of {len(payloads)} points has a text under {collection.text_field!r}; they have: {keys_of(payloads)}. "
        "Record the field by imrnn-vdb attach URL --text-field, and give its file in place of the URL"
    )


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output; NaN and infinity, which JSON does not have, as null."""
    value = finite(value)
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # escaped rather than replaced
        text = json.dumps(value, indent=2, default=str)
    click.echo(text)


def print_unmodulated(out: Console, response: SearchResponse) -> None:
    """Say why scores are the database's own, where they are, and what to do about it."""
    if response.reason:
        out.print(f"not modulated: {response.reason}", style="dim", markup=False)
    if response.unusable:
        counts = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in response.unusable.items())
        way = ": imrnn-vdb backfill writes them" if response.unusable.keys() - {"zero"} else ""
        told = f"{sum(response.unusable.values())} of {response.candidates} candidates have no usable code ({counts})"
        out.print(f"not modulated: {told}{way}", style="dim", markup=False)


def console() -> Console:
    """Return a console on standard output: colours only on a terminal, room for tables elsewhere."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=_WIDTH_OF_FILES)


def _told(error: OSError) -> str:
    """Name the file first, where the error has one."""
    name = error.filename2 or error.filename
    return f"{os.fsdecode(name)}: {error.strerror}" if isinstance(name, str | bytes) else str(error)


def _exit_code(error: IMRNNError) -> int:
    if isinstance(error, InvalidInputError | SpaceMismatchError | AuditError):  # the last, of a file
        return WRONG_INPUT
    return NO_DATABASE if isinstance(error, StoreError) else FAILED
