"""Asks Amazon which region a bucket is in, for the text of an error: its answer to anyone has it in a header."""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

_WAIT_S = 3.0  # the error has been waited for already


def ask_bucket_region(url: str) -> str | None:
    """The region of the bucket with this URL; None where nothing says so.

    Source: HeadBucket, Amazon S3 API reference: `x-amz-bucket-region`, also in refusals.
    """
    parts = urlsplit(url)
    connection = (
        http.client.HTTPSConnection(parts.netloc, timeout=_WAIT_S, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.netloc, timeout=_WAIT_S)
    )
    try:
        connection.request("HEAD", parts.path or "/")
        return connection.getresponse().getheader("x-amz-bucket-region")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
