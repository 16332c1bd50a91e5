"""S3 credentials, which slipstream resolves by itself."""

from __future__ import annotations

from runai_model_streamer.s3_utils.s3_utils import S3Credentials

__all__ = [
    "AWS_CA_BUNDLE_ENV",
    "RUNAI_STREAMER_NO_BOTO3_SESSION_ENV_VAR",
    "RUNAI_STREAMER_S3_UNSIGNED_ENV_VAR",
    "S3Credentials",
    "get_credentials",
]

AWS_CA_BUNDLE_ENV = "AWS_CA_BUNDLE"
RUNAI_STREAMER_S3_UNSIGNED_ENV_VAR = "RUNAI_STREAMER_S3_UNSIGNED"
RUNAI_STREAMER_NO_BOTO3_SESSION_ENV_VAR = "RUNAI_STREAMER_NO_BOTO3_SESSION"


def get_credentials(credentials: S3Credentials | None = None) -> tuple[None, S3Credentials]:
    """No session, and what was given: what is None in it is found where the store is asked."""
    return None, credentials or S3Credentials()
