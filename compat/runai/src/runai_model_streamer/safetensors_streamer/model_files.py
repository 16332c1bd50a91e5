"""Files of a model: which there are, and the same in a directory."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from runai_model_streamer.s3_utils.s3_utils import (
    S3Credentials,
    azure_glob,
    azure_pull_files,
    gcs_glob,
    gcs_pull_files,
    is_azure_path,
    is_gs_path,
    is_s3_path,
    s3_glob,
    s3_pull_files,
    scheme_of,
)
from runai_model_streamer.stores import as_prefix

SAFETENSORS_PATTERN = "*.safetensors"

_OWN_FOLDER = ".slipstream"  # where slipstream.pull keeps what it knows of a directory


def list_safetensors(path: str, s3_credentials: S3Credentials | None = None) -> list[str]:
    """The safetensors files directly in a directory, or the URIs of those directly under a prefix, sorted.

    Args:
        path: the directory or prefix, with or without a slash at its end.
        s3_credentials: for S3.

    Returns:
        `path` and the name of each; none where there is no such directory or prefix.

    Raises:
        SlipstreamError: the store refuses, or there is no such bucket.
    """
    if is_s3_path(path):
        return s3_glob(path, [SAFETENSORS_PATTERN], s3_credentials)
    if is_gs_path(path):
        return gcs_glob(path, [SAFETENSORS_PATTERN])
    if is_azure_path(path):
        return azure_glob(path, [SAFETENSORS_PATTERN])
    return [os.path.join(path, name) for name in sorted(glob.glob(SAFETENSORS_PATTERN, root_dir=path))]


def pull_files(
    model_path: str,
    dst: str,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """Makes a directory hold the objects under a prefix, as `slipstream.pull` does. Nothing is written outside it.

    Args:
        model_path: the prefix.
        dst: the directory.
        allow_pattern: fnmatch patterns of the path under the prefix: only what matches one.
        ignore_pattern: likewise: nothing that matches one.
        s3_credentials: for S3.

    Raises:
        NotImplementedError: it is no object store's.
        SlipstreamError: as `slipstream.pull`. That nothing is there is none.
    """
    if is_s3_path(model_path):
        s3_pull_files(model_path, dst, allow_pattern, ignore_pattern, s3_credentials)
    elif is_gs_path(model_path):
        gcs_pull_files(model_path, dst, allow_pattern, ignore_pattern)
    elif is_azure_path(model_path):
        azure_pull_files(model_path, dst, allow_pattern, ignore_pattern)
    else:
        raise NotImplementedError(f"{model_path} is no object store's: pull_files takes s3://, gs:// and az://")


class ObjectStorageModel:
    """Pulls the files of a model into a directory, once for all processes of a machine.

        with ObjectStorageModel("s3://models/llama", "/cache/llama") as model:
            model.pull_files(ignore_pattern=["*.safetensors"])

    The first process to come empties the directory, pulls, and leaves `.runai_complete` in it when its block ends well;
    the others wait for it and pull nothing. The lock is flock(2) on `DIRECTORY.lock`, beside the directory, so the
    kernel takes it back from a process that is killed. After a failure, or a kill, the next process pulls anew.

    Attributes:
        dir: the directory.
    """

    SENTINEL_NAME = ".runai_complete"

    def __init__(self, model_path: str, dst: str, s3_credentials: S3Credentials | None = None) -> None:
        """Waits for the lock.

        Args:
            model_path: the prefix of the model in an object store.
            dst: the directory.
            s3_credentials: for S3.

        Raises:
            ValueError: it is no object store's. Nothing is made then.
        """
        if not scheme_of(model_path):
            raise ValueError(f"{model_path!r} is no object store's: it begins with s3://, gs:// or az://")
        self.dir = dst.rstrip("/") or "/"
        self._model_path = as_prefix(model_path)
        self._s3_credentials = s3_credentials
        self._sentinel = os.path.join(self.dir, self.SENTINEL_NAME)
        self._lock_file = open(f"{self.dir}.lock", "a")  # noqa: SIM115, held until the block ends
        try:
            self._skip = self._is_complete(fcntl.LOCK_SH) or self._is_complete(fcntl.LOCK_EX)
            if self._skip:
                fcntl.flock(self._lock_file, fcntl.LOCK_SH)  # others may go on at the same time
            else:
                if os.path.lexists(self.dir):
                    shutil.rmtree(self.dir)
                os.makedirs(self.dir)
        except BaseException:
            self._release()
            raise

    def pull_files(
        self, allow_pattern: Sequence[str] | None = None, ignore_pattern: Sequence[str] | None = None
    ) -> None:
        """Pulls the files that match, unless the directory is complete. Arguments and errors as `pull_files`."""
        if not self._skip:
            pull_files(self._model_path, self.dir, allow_pattern, ignore_pattern, self._s3_credentials)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Marks the directory as complete, unless the block failed, and lets the others go on.

        Raises:
            RuntimeError: nothing was pulled, or the mark cannot be written.
        """
        try:
            if exc_type is None and not self._skip:
                self._mark_complete()
        finally:
            self._release()

    def __del__(self) -> None:
        self._release()

    def _is_complete(self, lock: int) -> bool:
        """Takes the lock, and tells whether somebody has pulled.

        It is let go first: two processes that hold it and want more would wait for each other.
        """
        fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        fcntl.flock(self._lock_file, lock)
        return os.path.exists(self._sentinel)

    def _mark_complete(self) -> None:
        if not set(os.listdir(self.dir)) - {self.SENTINEL_NAME, _OWN_FOLDER}:
            raise RuntimeError(f"no files were pulled from {self._model_path} into {self.dir}: check the model's path")
        try:
            with open(self._sentinel, "w"):
                pass
        except OSError as error:
            raise RuntimeError(f"{self._sentinel} cannot be written: {error}") from error

    def _release(self) -> None:
        lock_file = getattr(self, "_lock_file", None)
        if lock_file is not None and not lock_file.closed:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_UN)
            finally:
                lock_file.close()
