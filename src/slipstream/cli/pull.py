"""`slipstream pull`: copies files from where they are stored into a directory."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

import slipstream
from slipstream.cli import arguments
from slipstream.cli.progress import shown_progress
from slipstream.cli.text import counted, diagnostics, format_bytes, format_seconds, make_facts, output, printable
from slipstream.errors import BlobNotFoundError
from slipstream.types import Progress

_Patterns = list[str] | None


def pull(
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            help="A directory, an s3://, gs:// or az:// prefix, one file or object, or the URL of a file or index.",
            show_default=False,
        ),
    ],
    directory: Annotated[
        str, typer.Argument(metavar="DIRECTORY", help="Where to. It is made if need be.", show_default=False)
    ],
    allow: Annotated[
        _Patterns,
        typer.Option(metavar="PATTERN", help='Only what matches, such as "*.json". May be given several times.'),
    ] = None,
    ignore: Annotated[
        _Patterns, typer.Option(metavar="PATTERN", help="Nothing that matches. May be given several times.")
    ] = None,
    concurrency: arguments.Concurrency = None,
    chunk_bytes: arguments.ChunkBytes = None,
    memory_limit: arguments.MemoryLimit = None,
    storage_option: arguments.StorageOption = None,
    retries: arguments.Retries = None,
    deadline: arguments.Deadline = None,
    bandwidth_limit: arguments.BandwidthLimit = None,
    as_json: arguments.Json = False,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Copy files into a directory: config, tokenizer, weights, or everything.

    What is there already is not fetched again, and what was interrupted goes on where it was.
    """
    options = arguments.read_options(
        strategy=None,
        concurrency=concurrency,
        chunk_bytes=chunk_bytes,
        memory_limit=memory_limit,
        retries=retries,
        deadline=deadline,
        bandwidth_limit=bandwidth_limit,
    )
    last = Progress(0, 0, 0, 0, 0.0)
    begun = time.perf_counter()
    with shown_progress("pulling", quiet=quiet or as_json) as report, _shown_notices(quiet=quiet or as_json):

        def forward(progress: Progress) -> None:
            nonlocal last
            last = progress
            report(progress.bytes_read, progress.bytes_total)

        paths = slipstream.pull(
            uri,
            directory,
            allow=allow,
            ignore=ignore,
            options=options,
            storage_options=arguments.read_storage_options(storage_option),
            progress=forward,
        )
    if not paths and (allow or ignore):
        raise BlobNotFoundError("nothing of what is there is left by --allow and --ignore: correct the patterns")
    pulled = _Pulled(directory, paths, last.tensors_total, last.bytes_total, time.perf_counter() - begun)
    if as_json:
        print(json.dumps(pulled.as_json(), indent=2))
    else:
        output().print(make_facts(pulled.facts()))


class _Pulled(NamedTuple):
    """What a pull did."""

    directory: str
    paths: Sequence[Path]
    fetched_files: int
    fetched_bytes: int
    seconds: float

    def facts(self) -> Iterable[tuple[str, str]]:
        rate = f", {self.fetched_bytes / self.seconds / 1e9:.2f} GB/s" if self.fetched_bytes else ""
        kept = len(self.paths) - self.fetched_files
        yield "pulled", f"{format_bytes(self.fetched_bytes)} in {counted(self.fetched_files, 'file')}"
        if kept:
            yield "there before", counted(kept, "file")
        yield "time", f"{format_seconds(self.seconds)}{rate}"
        yield "directory", printable(self.directory, longest=4096)

    def as_json(self) -> dict[str, object]:
        return {
            "directory": self.directory,
            "files": [str(path) for path in self.paths],
            "fetched_files": self.fetched_files,
            "fetched_bytes": self.fetched_bytes,
            "seconds": self.seconds,
        }


class _Notices(logging.Handler):
    """Shows what the library logs: that another process pulls into the same directory, and is waited for."""

    def emit(self, record: logging.LogRecord) -> None:
        diagnostics().print(printable(record.getMessage(), longest=4096), soft_wrap=True)


@contextmanager
def _shown_notices(*, quiet: bool) -> Iterator[None]:
    logger = logging.getLogger("slipstream")
    handler, level = _Notices(), logger.level
    if quiet:
        yield
        return
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
