"""slipstream: streams model weights from where they are stored into the memory where they are used.

import slipstream

weights = slipstream.load("model/")
with slipstream.stream("model/") as tensors:
    for name, tensor in tensors:
        ...
"""

from slipstream.errors import (
    AccessDeniedError,
    BlobChangedError,
    BlobNotFoundError,
    FormatError,
    MemoryLimitError,
    MissingDependencyError,
    ModuleMismatchError,
    RankError,
    ReadError,
    ShardIndexError,
    SlipstreamError,
    StreamClosedError,
    TensorNotFoundError,
    UsageError,
)
from slipstream.options import Options
from slipstream.streaming import inspect, load, load_into, plan, stream
from slipstream.tensor_stream import TensorStream
from slipstream.types import Blob, Checkpoint, Dtype, LoadStats, Progress, ReadPlan, TensorInfo

__version__ = "0.1.0"

__all__ = [
    "AccessDeniedError",
    "Blob",
    "BlobChangedError",
    "BlobNotFoundError",
    "Checkpoint",
    "Dtype",
    "FormatError",
    "LoadStats",
    "MemoryLimitError",
    "MissingDependencyError",
    "ModuleMismatchError",
    "Options",
    "Progress",
    "RankError",
    "ReadError",
    "ReadPlan",
    "ShardIndexError",
    "SlipstreamError",
    "StreamClosedError",
    "TensorInfo",
    "TensorNotFoundError",
    "TensorStream",
    "UsageError",
    "inspect",
    "load",
    "load_into",
    "plan",
    "stream",
]
