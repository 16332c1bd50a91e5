"""What an S3 server has of multipart uploads that are neither complete nor aborted. A listing does not show them."""

from __future__ import annotations

import re

from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.signed_s3 import SignedS3


def list_uploads(server: SeaweedFS, bucket: str) -> list[str]:
    """The keys of uploads under way.

    Source: ListMultipartUploads, Amazon S3 API reference.
    """
    client = SignedS3(server.endpoint, server.access_key_id, server.secret_access_key)
    answer = client.request("GET", bucket, query={"uploads": ""})
    assert answer.status == 200, answer.body
    return re.findall(r"<Key>(.*?)</Key>", answer.body.decode())
