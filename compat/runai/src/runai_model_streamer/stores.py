"""Listings of object stores, and files out of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import slipstream
from runai_model_streamer.s3_utils.s3_utils import S3Credentials
from runai_model_streamer.settings import read_options, read_storage_options

logger = logging.getLogger(__name__)


def list_store(
    path: str, allow_pattern: Sequence[str] | None = None, s3_credentials: S3Credentials | None = None
) -> list[str]:
    """The URIs of the objects directly under a prefix, sorted; none where nothing has it.

    Args:
        path: the prefix, with or without a slash at its end.
        allow_pattern: only what matches one of these, by its path under the prefix.
        s3_credentials: for S3.

    Raises:
        SlipstreamError: the store refuses, or there is no such bucket.
    """
    try:
        found = slipstream.list_files(
            as_prefix(path),
            recursive=False,
            allow=allow_pattern,
            options=read_options(remote=True),
            storage_options=read_storage_options(s3_credentials),
        )
    except slipstream.BlobNotFoundError as error:
        note_nothing(error)
        return []
    return [blob.uri for blob in found]


def pull_store(
    model_path: str,
    dst: str,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """Makes a directory hold all the objects under a prefix, as `slipstream.pull` does; none where nothing has it.

    Args:
        model_path: the prefix, with or without a slash at its end.
        dst: the directory.
        allow_pattern: only what matches one of these, by its path under the prefix; `*` crosses slashes.
        ignore_pattern: nothing that matches one of these.
        s3_credentials: for S3.

    Raises:
        SlipstreamError: the store refuses, there is no such bucket, or a file cannot be written.
    """
    try:
        slipstream.pull(
            as_prefix(model_path),
            dst,
            allow=allow_pattern,
            ignore=ignore_pattern,
            options=read_options(remote=True),
            storage_options=read_storage_options(s3_credentials),
        )
    except slipstream.BlobNotFoundError as error:
        note_nothing(error)


def note_nothing(error: slipstream.BlobNotFoundError) -> None:
    """Logs that a prefix is empty, which to the original is no error. A bucket that does not exist is one."""
    if error.status is not None:
        raise error
    logger.warning("%s", error)


def as_prefix(path: str) -> str:
    """The same with a slash at its end."""
    return path if path.endswith("/") else f"{path}/"
