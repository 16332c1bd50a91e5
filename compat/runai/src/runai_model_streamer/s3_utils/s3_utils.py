"""Which path is of which store, listings and pulls of each, and the patterns they take.

The functions of each store go through a module of its own, which programs replace in their tests.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType

GCS_PROTOCOL_PREFIX = "gs://"
S3_PROTOCOL_PREFIX = "s3://"
AZURE_PROTOCOL_PREFIX = "az://"
DEFAULT_GCS_ENDPOINT_URL = "https://storage.googleapis.com"
AWS_ENDPOINT_URL_ENV = "AWS_ENDPOINT_URL"
AWS_EC2_METADATA_DISABLED_ENV = "AWS_EC2_METADATA_DISABLED"
DEFAULT_AWS_EC2_METADATA_DISABLED = "true"


class S3Credentials:
    """Keys and place of an S3 server. What is None is found by slipstream: environment, profile, machine."""

    def __init__(
        self,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        region_name: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token
        self.region_name = region_name
        self.endpoint = endpoint


def is_s3_path(path: str) -> bool:
    """Whether it is of S3."""
    return path.startswith(S3_PROTOCOL_PREFIX)


def is_gs_path(path: str) -> bool:
    """Whether it is of Google Cloud Storage."""
    return path.startswith(GCS_PROTOCOL_PREFIX)


def is_azure_path(path: str) -> bool:
    """Whether it is of Azure Blob Storage."""
    return path.startswith(AZURE_PROTOCOL_PREFIX)


def scheme_of(path: str) -> str:
    """What a path begins with, if it is of an object store; empty for a file."""
    prefixes = (S3_PROTOCOL_PREFIX, GCS_PROTOCOL_PREFIX, AZURE_PROTOCOL_PREFIX)
    return next((prefix for prefix in prefixes if path.startswith(prefix)), "")


def s3_glob(
    path: str, allow_pattern: Sequence[str] | None = None, s3_credentials: S3Credentials | None = None
) -> list[str]:
    """See `stores.list_store`."""
    found: list[str] = _present(get_s3_files_module(), "S3").glob(path, allow_pattern, s3_credentials)
    return found


def s3_pull_files(
    model_path: str,
    dst: str,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """See `stores.pull_store`."""
    files = _present(get_s3_files_module(), "S3")
    files.pull_files(model_path, dst, allow_pattern, ignore_pattern, s3_credentials)


def gcs_glob(path: str, allow_pattern: Sequence[str] | None = None) -> list[str]:
    """See `stores.list_store`."""
    found: list[str] = _present(get_gcs_files_module(), "GCS").glob(path, allow_pattern)
    return found


def gcs_pull_files(
    model_path: str,
    dst: str,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """See `stores.pull_store`."""
    _present(get_gcs_files_module(), "GCS").pull_files(model_path, dst, allow_pattern, ignore_pattern)


def azure_glob(path: str, allow_pattern: Sequence[str] | None = None) -> list[str]:
    """See `stores.list_store`."""
    found: list[str] = _present(get_azure_files_module(), "Azure").glob(path, allow_pattern)
    return found


def azure_pull_files(
    model_path: str,
    dst: str,
    allow_pattern: Sequence[str] | None = None,
    ignore_pattern: Sequence[str] | None = None,
) -> None:
    """See `stores.pull_store`."""
    _present(get_azure_files_module(), "Azure").pull_files(model_path, dst, allow_pattern, ignore_pattern)


def get_s3_credentials_module() -> ModuleType | None:
    """The module that resolves S3 credentials."""
    return get_module("runai_model_streamer_s3", "runai_model_streamer_s3.credentials.credentials")


def get_s3_files_module() -> ModuleType | None:
    """The module that lists and pulls from S3."""
    return get_module("runai_model_streamer_s3", "runai_model_streamer_s3.files.files")


def get_gcs_files_module() -> ModuleType | None:
    """The module that lists and pulls from Google Cloud Storage."""
    return get_module("runai_model_streamer_gcs", "runai_model_streamer_gcs.files.files")


def get_azure_files_module() -> ModuleType | None:
    """The module that lists and pulls from Azure Blob Storage."""
    return get_module("runai_model_streamer_azure", "runai_model_streamer_azure.files.files")


def get_module(main_module: str, module_name: str) -> ModuleType | None:
    """A module of a package that may be absent; None where it is."""
    if importlib.util.find_spec(main_module) is None or importlib.util.find_spec(module_name) is None:
        return None
    return importlib.import_module(module_name)


def filter_allow(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Those that match one of the patterns."""
    return [path for path in paths if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]


def filter_ignore(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Those that match none of the patterns."""
    return [path for path in paths if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]


def removeprefix(s: str, prefix: str) -> str:
    """The text without what it begins with."""
    return s.removeprefix(prefix)


def _present(module: ModuleType | None, store: str) -> ModuleType:
    if module is None:
        raise ImportError(f"the {store} files module is not there: pip install --force-reinstall slipstream-runai")
    return module
