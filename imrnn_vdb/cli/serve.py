"""``imrnn-vdb serve``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from imrnn_vdb.cli.common import exit_codes


@click.command()
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), required=True, help="TOML file; see docs/service.md."
)
@click.option("--check", is_flag=True, help="Check the configuration and the files it names, and end.")
@exit_codes
def serve(config: Path, check: bool) -> None:
    """Serve collections by gRPC until SIGTERM; SIGHUP loads them anew."""
    from imrnn_vdb.serving.config import load_config
    from imrnn_vdb.serving.server import serve as run

    if check:
        from imrnn_vdb.serving.checking import check_config

        read = load_config(config)
        check_config(read)
        click.echo(f"{config}: {', '.join(read.collections)} on {read.listen}")
        return
    asyncio.run(run(config))
