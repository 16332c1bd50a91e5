"""The arguments that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import typer

import slipstream
from slipstream import Options
from slipstream.cli.ranks import find_place
from slipstream.errors import UsageError
from slipstream.options import make_options, parse_bytes

_HOW = "How to read"
_STORES = "Object stores and HTTP"
_RANKS = "Many processes"

StorageOptions: TypeAlias = dict[str, "str | StorageOptions"]

Uris = Annotated[
    list[str],
    typer.Argument(
        metavar="URI",
        help="Files, directories or globs, s3://, gs:// or az:// prefixes, or URLs; together they are one checkpoint.",
    ),
]
Device = Annotated[str, typer.Option(help="Where the tensors shall be: cpu, cuda:0, xpu and the like.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Cast floating-point tensors on the way: bfloat16, float16, float32, float64.",
        show_default=False,
    ),
]
Framework = Annotated[
    Literal["torch", "numpy", "jax"] | None,
    typer.Option(help="Whose tensors are made. Where torch is installed, torch.", show_default=False),
]
Names = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only the tensors with such a name. May be given several times."),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="RANK/WORLD[:RULES]",
        help="Only what belongs to one rank of several, by ready rules (llama, qwen, mixtral, qwen-ep, mixtral-ep) or "
        "by PATTERN=DIMENSION and PATTERN=none, separated by commas; head_dim=N is the size of a head. Under torchrun "
        "`torchrun` stands for RANK/WORLD.",
    ),
]
Strategy = Annotated[
    Literal["auto", "mapped", "direct", "buffered", "gds"] | None,
    typer.Option(
        metavar="NAME",
        help="How local files are read: auto, mapped, direct, buffered, or gds (to a GPU). auto decides for each file.",
        rich_help_panel=_HOW,
    ),
]
Concurrency = Annotated[
    str | None,
    typer.Option(metavar="auto|N", help="Reads in flight. auto finds what suits.", rich_help_panel=_HOW),
]
ChunkBytes = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="The largest single read, for example 8MiB.", rich_help_panel=_HOW),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="The most memory for tensors in flight, for example 256MiB.", rich_help_panel=_HOW
    ),
]
Staging = Annotated[
    bool | None,
    typer.Option(
        "--staging/--no-staging",
        help="Whether tensors pass through a ring also on their way to host memory.",
        show_default=False,
        rich_help_panel=_HOW,
    ),
]
RingBytes = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Host memory for that ring at most, for example 256MiB.", rich_help_panel=_HOW),
]
StorageOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="How the store is reached: endpoint, region, anonymous, ca_bundle and others, s3.KEY for S3 alone. May be "
        "given several times. Secrets are better in the environment.",
        rich_help_panel=_STORES,
    ),
]
Retries = Annotated[
    int | None,
    typer.Option(metavar="N", help="How many failed requests may be healed in all.", rich_help_panel=_STORES),
]
Deadline = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="How long it may take in all.", rich_help_panel=_STORES)
]
BandwidthLimit = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Bytes per second at most, for example 500MB.", rich_help_panel=_STORES),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed", help="Share the load between the processes that torchrun has started.", rich_help_panel=_RANKS
    ),
]
ShareAcross = Annotated[
    Literal["world", "node"] | None,
    typer.Option(
        metavar="world|node",
        help="Who shares it: all processes, or those of each host for themselves.",
        rich_help_panel=_RANKS,
    ),
]
ShareThrough = Annotated[
    Literal["host", "device"] | None,
    typer.Option(
        metavar="host|device",
        help="Where bytes are passed round: in host memory by Gloo, or from GPU to GPU by NCCL.",
        rich_help_panel=_RANKS,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

ENVIRONMENT = (
    "How to read can also be set in the environment: SLIPSTREAM_STRATEGY, SLIPSTREAM_CONCURRENCY, "
    "SLIPSTREAM_CHUNK_BYTES, SLIPSTREAM_MEMORY_LIMIT, SLIPSTREAM_RETRIES and others. An argument goes first."
)
CLOUD_ENVIRONMENT = (
    "How stores are reached is also taken from each cloud's own variables: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, "
    "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY and others."
)


def read_options(
    *,
    strategy: str | None,
    concurrency: str | None,
    chunk_bytes: str | None,
    memory_limit: str | None,
    retries: int | None,
    deadline: float | None,
    bandwidth_limit: str | None,
    staging: bool | None = None,
    ring_bytes: str | None = None,
    share_across: str | None = None,
    share_through: str | None = None,
) -> Options:
    """Options of the arguments given; what is left out stays as the environment or the default has it.

    Raises:
        UsageError: one of them cannot work.
    """
    return make_options(
        strategy=strategy,
        concurrency=int(concurrency) if concurrency is not None and concurrency.isdecimal() else concurrency,
        chunk_bytes=None if chunk_bytes is None else parse_bytes(chunk_bytes),
        memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
        retries=retries,
        deadline_s=deadline,
        bandwidth_limit=None if bandwidth_limit is None else parse_bytes(bandwidth_limit),
        staging=staging,
        ring_bytes=None if ring_bytes is None else parse_bytes(ring_bytes),
        share_across=share_across,
        share_through=share_through,
    )


def read_shard(given: str | None) -> slipstream.Shard | None:
    """The shard that RANK/WORLD[:RULES] stands for, or torchrun[:RULES] in a process that torchrun has started.

    Raises:
        UsageError: it is not of that form, or torchrun has not started this process.
    """
    if given is None:
        return None
    place, colon, rules = given.partition(":")
    if place.strip() == "torchrun":
        rank, world_size = find_place()
        place = f"{rank}/{world_size}"
    return slipstream.Shard.parse(place + colon + rules)


def read_storage_options(given: Sequence[str] | None) -> StorageOptions | None:
    """The mapping that KEY=VALUE arguments stand for; a dot in a key begins a mapping in it. The last of a key counts.

    Which keys there are is the library's to say.

    Raises:
        UsageError: an argument of another form. The text does not repeat it: it may be a secret.
    """
    if not given:
        return None
    options: StorageOptions = {}
    for number, argument in enumerate(given, 1):
        key, equals, value = argument.partition("=")
        *scopes, name = key.split(".")
        inner = options
        for scope in scopes:
            found = inner.setdefault(scope, {})
            if not isinstance(found, dict):
                raise UsageError(f"--storage-option gives {scope} a value and options of its own: give one of the two")
            inner = found
        if not equals or not name or not all(scopes):
            raise UsageError(
                f"--storage-option number {number} is not of the form KEY=VALUE; write for example "
                "--storage-option region=eu-central-1"
            )
        if isinstance(inner.get(name), dict):
            raise UsageError(f"--storage-option gives {name} a value and options of its own: give one of the two")
        inner[name] = value
    return options


def read_flat_options(given: Sequence[str] | None) -> dict[str, str]:
    """The same for one store.

    Raises:
        UsageError: an argument of another form, or for one kind of store alone.
    """
    options = read_storage_options(given) or {}
    flat = {name: value for name, value in options.items() if isinstance(value, str)}
    if len(flat) < len(options):
        raise UsageError("--storage-option is for one store here: write endpoint=URL, not s3.endpoint=URL")
    return flat


def one_or_many(uris: Sequence[str]) -> str | list[str]:
    """A single URI as itself: errors then speak of it, not of a list."""
    return uris[0] if len(uris) == 1 else list(uris)
