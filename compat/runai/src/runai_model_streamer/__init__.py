"""The interface of Run:ai Model Streamer 0.17, on slipstream: signatures and translation, and nothing else.

    SafetensorsStreamer   stream_files, get_tensors          slipstream.stream
    FileStreamer          stream_files, get_chunks           slipstream.stream_ranges
                          list_files                         slipstream.list_files
    list_safetensors      what lies directly under a prefix  slipstream.list_files
    pull_files            files into a directory             slipstream.pull
    ObjectStorageModel    the same, once for many processes  slipstream.pull

What works with the original works here. A tensor belongs to whoever got it, whatever `owned` says. The environment
variables `RUNAI_STREAMER_*` mean what they mean there, where slipstream has such a setting (settings.py).
"""

from pathlib import Path

from runai_model_streamer.distributed_streamer.distributed_streamer import DistributedStreamer
from runai_model_streamer.file_streamer.file_streamer import FileStreamer
from runai_model_streamer.file_streamer.requests_iterator import FileChunks
from runai_model_streamer.installation import refuse_mixture
from runai_model_streamer.safetensors_streamer.safetensors_streamer import (
    ObjectStorageModel,
    SafetensorsStreamer,
    list_safetensors,
    pull_files,
)
from runai_model_streamer.settings import set_up_logging

__all__ = [
    "DistributedStreamer",
    "FileChunks",
    "FileStreamer",
    "ObjectStorageModel",
    "SafetensorsStreamer",
    "list_safetensors",
    "pull_files",
]

set_up_logging()
refuse_mixture(Path(__file__).resolve().parents[1])
