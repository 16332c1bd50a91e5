"""tensorizer. It reads a format of its own, to which the model was converted before."""

from __future__ import annotations

import os
from typing import Any

from ..job import Job, Tensors


def load(job: Job) -> Tensors:
    """Deserializes, not lazily: all tensors are in memory when the constructor returns.

    Settings: `num_readers`; without it tensorizer chooses.
    """
    from tensorizer import TensorDeserializer
    from tensorizer.stream_io import open_stream

    job.refuse_names()
    if job.tensorizer_uri is None:
        raise ValueError("there is no copy of the model in tensorizer's format at this storage")
    source = open_stream(job.tensorizer_uri, **_how(job.tensorizer_uri)) if "://" in job.tensorizer_uri else None
    # A file is best opened by tensorizer itself, which has its own way with them.
    readers = {"num_readers": job.settings["num_readers"]} if "num_readers" in job.settings else {}
    with TensorDeserializer(
        source or job.tensorizer_uri, device=job.destination, lazy_load=False, **readers
    ) as deserializer:
        yield from deserializer.items()


def _how(uri: str) -> dict[str, Any]:
    """The arguments of `open_stream` for what the environment says to other S3 clients.

    Left to itself it takes an endpoint of a third party, and refuses plain http in one that it is given. Temporary
    credentials have a token, for which it has no argument: then botocore finds them in the environment.
    """
    how: dict[str, Any] = {}
    if "AWS_CA_BUNDLE" in os.environ:
        from tensorizer.stream_io import CAInfo

        how["certificate_handling"] = CAInfo(cacert=os.environ["AWS_CA_BUNDLE"])
    if not uri.startswith("s3://"):
        return how
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = given or f"https://s3.{region or 'us-east-1'}.amazonaws.com"
    how.update(s3_endpoint=endpoint, s3_region_name=region, force_http=endpoint.startswith("http://"))
    if "AWS_ACCESS_KEY_ID" in os.environ and "AWS_SESSION_TOKEN" not in os.environ:
        how.update(
            s3_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            s3_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        )
    return how
