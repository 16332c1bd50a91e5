"""The environment variables of the original, in slipstream's words. The only place that reads them.

    RUNAI_STREAMER_CONCURRENCY, _OBJ_CONCURRENCY           Options.concurrency
    RUNAI_STREAMER_CHUNK_BYTESIZE, _FS_CHUNK_BYTESIZE      Options.chunk_bytes
    RUNAI_STREAMER_MEMORY_LIMIT                            Options.memory_limit, with count_held=False
    RUNAI_STREAMER_S3_MAX_RETRIES                          Options.attempts
    RUNAI_STREAMER_S3_ENDPOINT, _S3_UNSIGNED,
    _S3_USE_VIRTUAL_ADDRESSING, _GCS_CREDENTIAL_FILE,
    AZURE_STORAGE_ENDPOINT_SUFFIX                          storage_options
    RUNAI_STREAMER_LOG_LEVEL, _LOG_TO_STDERR               the logger runai_model_streamer
    RUNAI_STREAMER_DIST, _DIST_GLOBAL                      distributed=, Options.share_across

They are read at each call, as there. What is not set is slipstream's default, its own variables included.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypedDict

import torch.distributed as dist

import slipstream
from runai_model_streamer.s3_utils.s3_utils import S3Credentials

MEMORY_LIMIT_VARIABLE = "RUNAI_STREAMER_MEMORY_LIMIT"
DEFAULT_MEMORY_LIMIT = 40_000_000_000
UNLIMITED = -1
LARGEST = 0

_MOST_CONCURRENCY = 1024
_LEAST_CHUNK_BYTES = {True: 5 << 20, False: 2 << 20}
_MOST_ATTEMPTS = 100

logger = logging.getLogger(__package__)


class Transfer(TypedDict, total=False):
    """Those fields of Options that say how to read."""

    concurrency: int
    chunk_bytes: int
    attempts: int


def read_options(*, remote: bool) -> slipstream.Options:
    """How to list and to pull.

    Args:
        remote: whether from an object store.

    Raises:
        UsageError: a variable that cannot work.
    """
    return slipstream.Options(**_read_transfer(remote=remote))


def read_stream_options(
    *, remote: bool, memory_limit: int | None, find_largest: Callable[[], int], shared: bool = False
) -> slipstream.Options:
    """How to stream. The limit is on what is read ahead, as in the original: what is handed out does not count.

    Args:
        remote: whether from an object store.
        memory_limit: bytes, `UNLIMITED` or `LARGEST`; None is what the environment says.
        find_largest: tells how many bytes the largest tensor or range has. Only asked for `LARGEST`.
        shared: whether ranks share the load; then the limit is for each of them.

    Raises:
        UsageError: a variable that cannot work.
    """
    transfer = _read_transfer(remote=remote)
    limit = _read_number(MEMORY_LIMIT_VARIABLE) if memory_limit is None else memory_limit
    if limit is None:
        limit = slipstream.Options(**transfer).memory_limit or DEFAULT_MEMORY_LIMIT
    elif limit == UNLIMITED:
        limit = None
    elif limit == LARGEST:
        limit = find_largest() or None
    options = slipstream.Options(**transfer, memory_limit=limit, count_held=False)
    return replace(options, share_across=_read_share_across()) if shared else options


def read_storage_options(credentials: S3Credentials | None = None) -> Mapping[str, Mapping[str, Any]]:
    """How the stores are reached, for each scheme.

    Args:
        credentials: for S3; what is None in them is found by slipstream.
    """
    s3 = {
        "access_key_id": getattr(credentials, "access_key_id", None),
        "secret_access_key": getattr(credentials, "secret_access_key", None),
        "session_token": getattr(credentials, "session_token", None),
        "region": getattr(credentials, "region_name", None),
        "endpoint": getattr(credentials, "endpoint", None) or os.environ.get("RUNAI_STREAMER_S3_ENDPOINT") or None,
        "virtual_hosted_style": {"0": False, "1": True}.get(
            os.environ.get("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "")
        ),
        "anonymous": True if os.environ.get("RUNAI_STREAMER_S3_UNSIGNED") == "1" else None,
    }
    gs = {"service_account": os.environ.get("RUNAI_STREAMER_GCS_CREDENTIAL_FILE") or None}
    return {"s3": s3, "gs": gs, "az": {"endpoint": _read_azure_endpoint()}}


def is_shared(wanted: bool, device: str) -> bool:
    """Whether all ranks of torch.distributed share a load. They do where those of the original would, and only there.

    So no rank waits for others that load for themselves.

    Args:
        wanted: the caller's `is_distributed`.
        device: where the tensors are wanted.

    Raises:
        ValueError: `RUNAI_STREAMER_DIST` is none of 0, 1 and auto.
    """
    if not wanted:
        return False
    word = os.environ.get("RUNAI_STREAMER_DIST", "auto")
    if word not in ("0", "1", "auto"):
        raise ValueError(f"the environment variable RUNAI_STREAMER_DIST is {word!r}; it is 0, 1 or auto")
    if word == "0" or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return False
    backend = dist.get_backend()
    if backend == ("nccl" if device == "cpu" else "gloo"):
        logger.info("every rank reads for itself: with the backend %s none is asked to for %s", backend, device)
        return False
    if word == "auto" and backend != "nccl":
        logger.info("every rank reads for itself: with the backend %s, set RUNAI_STREAMER_DIST=1 to share", backend)
        return False
    return True


def set_up_logging() -> None:
    """The level of our logger, and a handler of its own if that is asked for. Safe to call again."""
    logger.setLevel(os.environ.get("RUNAI_STREAMER_LOG_LEVEL", "INFO").upper())
    if os.environ.get("RUNAI_STREAMER_LOG_TO_STDERR") == "1" and not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def _read_share_across() -> Literal["world", "node"]:
    """The ranks of a host share among themselves, as in the original, unless all of them are to."""
    return "world" if _read_number("RUNAI_STREAMER_DIST_GLOBAL") == 1 else "node"


def _read_transfer(*, remote: bool) -> Transfer:
    transfer = Transfer()
    names = ("RUNAI_STREAMER_OBJ_CONCURRENCY",) if remote else ()
    concurrency = _read_number(*names, "RUNAI_STREAMER_CONCURRENCY")
    if concurrency is not None:
        transfer["concurrency"] = min(concurrency, _MOST_CONCURRENCY)
    names = () if remote else ("RUNAI_STREAMER_FS_CHUNK_BYTESIZE",)
    chunk_bytes = _read_number(*names, "RUNAI_STREAMER_CHUNK_BYTESIZE")
    if chunk_bytes is not None:
        transfer["chunk_bytes"] = max(chunk_bytes, _LEAST_CHUNK_BYTES[remote])
    retries = _read_number("RUNAI_STREAMER_S3_MAX_RETRIES")
    if retries:  # 0 is the default of theirs, and so of ours
        transfer["attempts"] = min(retries + 1, _MOST_ATTEMPTS)
    return transfer


def _read_number(*names: str) -> int | None:
    """The first of these variables that is set."""
    for name in names:
        text = os.environ.get(name)
        if text is not None:
            try:
                return int(text)
            except ValueError as error:
                raise slipstream.UsageError(
                    f"the environment variable {name} is {text!r}; it is a whole number"
                ) from error
    return None


def _read_azure_endpoint() -> str | None:
    """Of an account in another cloud than the public one, where nothing says more."""
    account, suffix = (os.environ.get(f"AZURE_STORAGE_{name}") for name in ("ACCOUNT_NAME", "ENDPOINT_SUFFIX"))
    if not account or not suffix or os.environ.get("AZURE_STORAGE_ENDPOINT"):
        return None
    return f"https://{account}.{suffix}"
