"""`slipstream synth`: writes a synthetic checkpoint with the layout of a known model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli import arguments
from slipstream.cli.progress import shown_progress
from slipstream.cli.text import counted, format_bytes, format_seconds, output, printable
from slipstream.testing.layouts import LAYOUTS, find_layout

LAYOUT_LIST = "\n\n".join(f"{name}: {layout.summary}" for name, layout in LAYOUTS.items())


def synth(
    layout: Annotated[
        str, typer.Argument(metavar="LAYOUT", help="The name of a known model; see below.", show_default=False)
    ],
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="The directory, or the s3://, gs:// or az:// prefix, to write it to.",
            show_default=False,
        ),
    ],
    layers: Annotated[int | None, typer.Option(help="Only the first so many layers.")] = None,
    shards: Annotated[int, typer.Option(help="Into how many files.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed, other contents.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint that is there.")] = False,
    storage_option: arguments.StorageOption = None,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Write a checkpoint with the exact layout of a known model, and random contents that the seed reproduces."""
    known = find_layout(layout)  # before numpy is loaded
    storage_options = arguments.read_storage_options(storage_option)
    begun = time.perf_counter()
    with shown_progress("writing", quiet=quiet) as report:
        if "://" in out:
            from slipstream.testing.uploading import upload_checkpoint

            uploaded = upload_checkpoint(
                known,
                out,
                storage_options=storage_options,
                layers=layers,
                shards=shards,
                seed=seed,
                force=force,
                progress=report,
            )
            where, tensors, files, nbytes = uploaded.uri, uploaded.tensors, len(uploaded.files), uploaded.nbytes
        else:
            from slipstream.testing.synthetic import write_checkpoint

            written = write_checkpoint(
                known, Path(out), layers=layers, shards=shards, seed=seed, force=force, progress=report
            )
            where, tensors, files, nbytes = out, written.tensors, len(written.files), written.nbytes
    seconds = time.perf_counter() - begun
    output().print(
        f"wrote {format_bytes(nbytes)} in {counted(tensors, 'tensor')} and {counted(files, 'file')} to "
        f"{printable(where, longest=4096)} in {format_seconds(seconds)}",
        soft_wrap=True,
    )
