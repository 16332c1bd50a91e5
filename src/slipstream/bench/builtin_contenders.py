"""The contenders that come with slipstream: itself, its peers, and the plain readers that are the floor."""

from __future__ import annotations

from dataclasses import replace

from slipstream.bench.contenders import Contender, Need, SettingRule

_BENCH = "pip install 'slipstream[bench]'"
_OBJECT_STORES = frozenset({"s3", "gs", "az"})
_WEB = frozenset({"http", "https"})
_FILES = frozenset({"file"})
_CUDA = Need(destination="cuda")

SLIPSTREAM = Contender(
    name="slipstream",
    title="slipstream",
    role="slipstream",
    adapter=".adapters.slipstream:load",
    modules=("slipstream", "torch"),
    distributions=("slipstream", "obstore"),
    install="pip install 'slipstream[torch]'",
    schemes=_FILES | _OBJECT_STORES | _WEB,
    settings={
        "concurrency": SettingRule(kinds=(int, str), words="concurrency {}"),
        "strategy": SettingRule(kinds=(str,), choices=("auto", "mapped", "direct", "buffered")),
        "chunk_bytes": SettingRule(kinds=(int,), words="chunks of {}", unit="bytes"),
        "memory_limit": SettingRule(kinds=(int,), words="{} limit", unit="bytes"),
        "hedge": SettingRule(kinds=(bool,), words="hedge {}"),
        "framework": SettingRule(kinds=(str,), choices=("torch", "numpy")),
        "staging": SettingRule(kinds=(bool,), words="staging {}"),
        "ring_bytes": SettingRule(kinds=(int,), words="a ring of {}", unit="bytes"),
    },
)
RUNAI = Contender(
    name="runai",
    title="Run:ai Model Streamer",
    adapter=".adapters.runai:load",
    modules=("torch", "runai_model_streamer"),
    scheme_modules={
        "s3": ("runai_model_streamer_s3",),
        "gs": ("runai_model_streamer_gcs",),
        "az": ("runai_model_streamer_azure",),
    },
    distributions=("runai-model-streamer", "runai-model-streamer-s3"),
    install="pip install 'runai-model-streamer[s3]'",
    schemes=_FILES | _OBJECT_STORES,
    settings={
        "concurrency": SettingRule(kinds=(int,), words="concurrency {}", variable="RUNAI_STREAMER_CONCURRENCY"),
        "chunk_bytes": SettingRule(
            kinds=(int,), words="chunks of {}", unit="bytes", variable="RUNAI_STREAMER_CHUNK_BYTESIZE"
        ),
        "memory_limit": SettingRule(
            kinds=(int,), words="{} limit", unit="bytes", variable="RUNAI_STREAMER_MEMORY_LIMIT"
        ),
    },
)
SAFETENSORS = Contender(
    name="safetensors",
    title="HuggingFace safetensors",
    adapter=".adapters.safetensors:load",
    modules=("torch", "safetensors"),
    distributions=("safetensors",),
    install=_BENCH,
    default_label="get_tensor",
    settings={
        "method": SettingRule(
            kinds=(str,),
            choices=("get_tensor", "get_tensors", "prefetch"),
            needs={"get_tensors": Need(version="0.8"), "prefetch": Need(version="0.9", destination="cuda")},
        ),
        "backend": SettingRule(kinds=(str,), choices=("mmap", "pread"), needs={"": Need(version="0.8")}),
        "threads": SettingRule(kinds=(int,), words="{} threads", needs={"": Need(version="0.9", destination="cuda")}),
        "framework": SettingRule(kinds=(str,), choices=("torch", "numpy")),
    },
)
SAFETENSORS_NEXT = replace(
    SAFETENSORS,
    name="safetensors-next",
    title="HuggingFace safetensors, a later release",
    install="pip install --pre 'safetensors>=0.9.0rc1', in an environment of its own: --python safetensors-next=PATH",
)
"""The same for another interpreter, so that two releases are measured in one run."""
TENSORIZER = Contender(
    name="tensorizer",
    title="Tensorizer",
    adapter=".adapters.tensorizer:load",
    modules=("torch", "tensorizer"),
    programs=dict.fromkeys(("s3", "http", "https"), ("curl",)),
    distributions=("tensorizer",),
    install=_BENCH,
    schemes=_FILES | _WEB | {"s3"},
    needs_tensorizer=True,
    settings={"num_readers": SettingRule(kinds=(int,), words="{} readers")},
)
FASTSAFETENSORS = Contender(
    name="fastsafetensors",
    title="fastsafetensors",
    adapter=".adapters.fastsafetensors:load",
    modules=("torch", "fastsafetensors"),
    distributions=("fastsafetensors",),
    install=_BENCH,
    settings={
        "max_threads": SettingRule(kinds=(int,), words="{} threads"),
        "bbuf_size_kb": SettingRule(kinds=(int,), words="buffers of {} KiB"),
        "gds": SettingRule(kinds=(bool,), words="GPUDirect Storage {}", needs={True: _CUDA}),
    },
)
INSTANTTENSOR = Contender(
    name="instanttensor",
    title="InstantTensor",
    adapter=".adapters.instanttensor:load",
    modules=("torch", "instanttensor"),
    distributions=("instanttensor",),
    install="pip install instanttensor",
    destinations=frozenset({"cuda"}),
    settings={
        "backend": SettingRule(
            kinds=(str,), choices=("AIO", "AIO_BUFFERED", "URING", "URING_BUFFERED", "CUFILE", "MMAP")
        ),
        "concurrency": SettingRule(kinds=(int,), words="concurrency {}"),
        "io_depth": SettingRule(kinds=(int,), words="depth {}"),
        "chunk_size": SettingRule(kinds=(int,), words="chunks of {}", unit="bytes"),
        "buffer_size": SettingRule(kinds=(int,), words="a buffer of {}", unit="bytes"),
    },
)
_LOCAL, _RANGES = Need(schemes=_FILES), Need(schemes=_WEB | _OBJECT_STORES)
FLOOR = Contender(
    name="floor",
    title="plain reads",
    role="floor",
    adapter=".adapters.floor:load",
    modules=("numpy",),
    programs=dict.fromkeys(_WEB | _OBJECT_STORES, ("curl",)),
    schemes=_FILES | _OBJECT_STORES | _WEB,
    destinations=frozenset({"cpu"}),
    default_label="plain reads",
    settings={
        "method": SettingRule(
            kinds=(str,),
            choices=("direct", "populate", "receive", "discard"),
            needs={"direct": _LOCAL, "populate": _LOCAL, "receive": _RANGES, "discard": _RANGES},
        ),
        "threads": SettingRule(kinds=(int,), words="{} threads", needs={"": _LOCAL}),
        "connections": SettingRule(kinds=(int,), words="{} connections", needs={"": _RANGES}),
        "processes": SettingRule(kinds=(int,), words="{} processes", needs={"": _RANGES}),
    },
)
BUILTIN = (SLIPSTREAM, RUNAI, SAFETENSORS, TENSORIZER, FASTSAFETENSORS, INSTANTTENSOR, SAFETENSORS_NEXT, FLOOR)
