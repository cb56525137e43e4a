"""The command line ``imrnn-vdb``: one module a command, loaded when it is called.

Exit codes: 0 done, 1 failed, 2 wrong use or input, 3 the database could not be reached or refused, 130 interrupted.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from imrnn_vdb._version import __version__

INTERRUPTED = 130
_COMMANDS = {
    "attach": "record how a collection is opened; fit a model to it",
    "audit": "check whether what an audit log says still holds",
    "backfill": "write, check or remove the factor codes of points that are there already",
    "ablate": "measure what each part of the model is worth",
    "bench": "measure what a modulated search costs beside a plain one",
    "demo": "search the Python standard library's documentation, plain and modulated side by side",
    "doctor": "say what works with a collection, and why",
    "evaluate": "measure a model against the base ranking",
    "explain": "say why a point stands where it stands, and why above another",
    "factors": "say how good factors are, add one's own, find topics",
    "fit": "fit a factor space with named factors to an encoder",
    "index": "put a JSONL corpus into a collection",
    "pydocs": "export the labelled set over the standard library's documentation",
    "search": "search a collection",
    "serve": "serve collections by gRPC",
    "train": "train a model on labelled queries",
}


class _LazyGroup(click.Group):
    """Imports a command's module only when it is used, so that ``--help`` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"imrnn_vdb.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; interrupted, be it while it is imported, it says so in a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="imrnn-vdb")
def main() -> None:
    """Exact, explainable and trainable re-scoring of Qdrant and Milvus search results."""
