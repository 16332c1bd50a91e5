"""What an S3 server answers to ListObjectsV2, made beforehand from files, for a server that cannot list: nginx.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"""


def known_prefixes(keys: Iterable[str]) -> set[str]:
    """The prefixes that are worth an answer: none, each folder with and without its slash, each whole key."""
    prefixes = {""}
    for key in keys:
        folders = [str(folder) for folder in PurePosixPath(key).parents if folder.name]
        prefixes.update([key, *folders, *(f"{folder}/" for folder in folders)])
    return prefixes


def list_bucket_result(bucket: str, objects: Mapping[str, Path], prefix: str = "", delimiter: str = "") -> str:
    """The answer that lists the objects whose keys start with `prefix`, all on one page.

    Args:
        bucket: the bucket's name.
        objects: each key with its file, whose times and entity tags are told as nginx tells them.
        prefix: as asked for.
        delimiter: as asked for; the keys that hold it after the prefix become common prefixes.
    """
    contents: list[str] = []
    folders: dict[str, None] = {}
    for key, path in sorted(objects.items(), key=lambda item: item[0].encode()):
        if not key.startswith(prefix):
            continue
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        if found:
            folders[prefix + head + delimiter] = None
        else:
            contents.append(_contents(key, path))
    lines = [
        _HEAD,
        f"<Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix><Delimiter>{escape(delimiter)}</Delimiter>",
        f"<KeyCount>{len(contents) + len(folders)}</KeyCount><MaxKeys>{max(1000, len(objects))}</MaxKeys>",
        "<IsTruncated>false</IsTruncated>",
        *contents,
        *(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders),
        "</ListBucketResult>",
    ]
    return "\n".join(lines)


def _contents(key: str, path: Path) -> str:
    status = path.stat()
    seconds = int(status.st_mtime)
    modified = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>&quot;{seconds:x}-{status.st_size:x}&quot;</ETag><Size>{status.st_size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )
