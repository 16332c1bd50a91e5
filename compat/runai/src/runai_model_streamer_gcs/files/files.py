"""Listings of Google Cloud Storage, and files out of it."""

from __future__ import annotations

from collections.abc import Sequence

from runai_model_streamer.stores import list_store, pull_store


def glob(path: str, allow_pattern: Sequence[str] | None = None) -> list[str]:
    """See `runai_model_streamer.stores.list_store`."""
    return list_store(path, allow_pattern)


def pull_files(
    model_path: str,
    dst: str,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
) -> None:
    """See `runai_model_streamer.stores.pull_store`."""
    pull_store(model_path, dst, allow_pattern, ignore_pattern)
