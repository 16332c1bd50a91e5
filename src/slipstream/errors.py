"""The whole error tree: one root, and subclasses by what the caller can do about it.

Messages say what failed, where, and what to do next. They never hold a credential or a signed URL.
"""

from __future__ import annotations


class SlipstreamError(Exception):
    """The root of everything slipstream raises on purpose.

    Attributes:
        uri: the blob concerned, without credentials, or None.
        offset: absolute byte offset in the blob where it went wrong, or None.
        length: how many bytes from `offset` on were concerned, or None.
        attempts: how often it was tried.
        endpoint: the server that was asked, without credentials, or None.
        status: of its HTTP answer, or None.
        code: the store's own, e.g. "NoSuchKey", or None.
    """

    endpoint: str | None = None
    status: int | None = None
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        uri: str | None = None,
        offset: int | None = None,
        length: int | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.uri = uri
        self.offset = offset
        self.length = length
        self.attempts = attempts

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(kind: type[SlipstreamError], message: str, state: dict[str, object]) -> SlipstreamError:
    """Unpickles an error with all its attributes, whatever its constructor takes."""
    error = kind(message)
    error.__dict__.update(state)
    return error


class UsageError(SlipstreamError, ValueError):
    """An argument or option that cannot work. Correct the call."""


class MissingDependencyError(SlipstreamError, ImportError):
    """An optional package is needed. The message names the pip command that installs it."""


class BlobNotFoundError(SlipstreamError, FileNotFoundError):
    """A file, directory, glob or shard that is not there. Correct the URI or finish the download."""


class AccessDeniedError(SlipstreamError, PermissionError):
    """It is there and may not be read. Correct its permissions or the credentials."""


class FormatError(SlipstreamError, ValueError):
    """The content is not a valid checkpoint. Download or convert it again.

    Attributes:
        tensor: the name of the tensor concerned, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        uri: str | None = None,
        offset: int | None = None,
        length: int | None = None,
        tensor: str | None = None,
    ) -> None:
        super().__init__(message, uri=uri, offset=offset, length=length)
        self.tensor = tensor


class ShardIndexError(FormatError):
    """An `*.index.json` that is malformed or does not agree with its shards."""


class TensorNotFoundError(SlipstreamError, LookupError):
    """A tensor asked for by name that the checkpoint does not have."""


class ReadError(SlipstreamError, OSError):
    """The storage failed while bytes were read. `uri`, `offset` and `length` say where."""


class BlobChangedError(ReadError):
    """The blob is no longer the one whose header was read. Load again once its writer is done."""


class WriteError(SlipstreamError, OSError):
    """A file could not be written: the disk is full, or its permissions forbid it. `uri` is its path."""


class MemoryLimitError(SlipstreamError, MemoryError):
    """`memory_limit` leaves no way forward. Drop tensors, raise the limit, or select with `names=`."""


class DeviceError(SlipstreamError, RuntimeError):
    """A device has no memory left, or failed while bytes were copied to it. The message says which, and how much."""


class StreamClosedError(SlipstreamError, RuntimeError):
    """The stream was used after it was closed: you closed it, the world did not break it."""


class RankError(SlipstreamError, RuntimeError):
    """Another rank of a load that ranks share has died, has left it early, or is out of reach.

    Attributes:
        rank: which, by its rank in the whole world; None where nobody can tell.
    """

    rank: int | None = None


class ModuleMismatchError(SlipstreamError, ValueError):
    """The checkpoint and the module it is loaded into do not agree in names or shapes."""
