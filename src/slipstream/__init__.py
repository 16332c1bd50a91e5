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
    DeviceError,
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
    WriteError,
)
from slipstream.options import Options
from slipstream.planning.divide import Cut
from slipstream.planning.shard import Shard
from slipstream.planning.shard_rules import shard_rules
from slipstream.pulling.listing import list_files, read_file
from slipstream.pulling.pull import pull
from slipstream.ranges import RangeStream
from slipstream.streaming import inspect, load, load_into, plan, plan_ranks, stream, stream_ranges
from slipstream.tensor_stream import TensorStream
from slipstream.types import Blob, ByteRange, Checkpoint, Dtype, LoadStats, Progress, ReadPlan, TensorInfo

__version__ = "0.1.0"

__all__ = [
    "AccessDeniedError",
    "Blob",
    "BlobChangedError",
    "BlobNotFoundError",
    "ByteRange",
    "Checkpoint",
    "Cut",
    "DeviceError",
    "Dtype",
    "FormatError",
    "LoadStats",
    "MemoryLimitError",
    "MissingDependencyError",
    "ModuleMismatchError",
    "Options",
    "Progress",
    "RangeStream",
    "RankError",
    "ReadError",
    "ReadPlan",
    "Shard",
    "ShardIndexError",
    "SlipstreamError",
    "StreamClosedError",
    "TensorInfo",
    "TensorNotFoundError",
    "TensorStream",
    "UsageError",
    "WriteError",
    "inspect",
    "list_files",
    "load",
    "load_into",
    "plan",
    "plan_ranks",
    "pull",
    "read_file",
    "shard_rules",
    "stream",
    "stream_ranges",
]
