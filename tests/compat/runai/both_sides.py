"""Says what runai_model_streamer does, whichever it is: the original or the drop-in. Runs as a program.

    both_sides.py CASE ARGUMENT ...       prints {"module": where it lies, "said": what CASE returned} as JSON

It knows the public interface only, and imports nothing of slipstream.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import runai_model_streamer
from runai_model_streamer import FileChunks, FileStreamer, ObjectStorageModel, SafetensorsStreamer


def attempt(do: Callable[[], Any]) -> Any:
    """What it returns, or what its error can be caught by: the first class that is Python's or Run:ai's."""
    try:
        return do()
    except Exception as error:
        classes = [
            kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins" or "Runai" in kind.__name__
        ]
        return {"raised": classes[0]}


def describe(tensor: torch.Tensor) -> list[Any]:
    """Everything a caller can see of a tensor."""
    content = tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    digest = hashlib.sha256(content.numpy().tobytes()).hexdigest()[:16]
    aligned = tensor.data_ptr() % tensor.element_size() == 0
    return [str(tensor.dtype), list(tensor.shape), str(tensor.device), digest, tensor.is_contiguous(), aligned]


def stream(paths: Sequence[str], **settings: Any) -> Any:
    """All tensors, held until the end, and what is said of them before."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(paths), **settings)
        told = {
            number: [
                [
                    tensor.name,
                    list(tensor.shape),
                    tensor.dtype,
                    [tensor.offsets.start, tensor.offsets.end, tensor.offsets.get_diff()],
                    tensor.get_bytesize(),
                    tensor.get_item_count(),
                    tensor.get_element_size(),
                    str(tensor.get_torch_dtype()),
                ]
                for tensor in tensors
            ]
            for number, tensors in streamer.files_to_tensors_metadata.items()
        }
        total = streamer.total_size
        held = list(streamer.get_tensors())
        again = list(streamer.get_tensors())
    return {
        "told": told,
        "total": total,
        "tensors": sorted([name, *describe(tensor)] for name, tensor in held),
        "again": len(again),
    }


def tensors(*paths: str) -> Any:
    """Each file for itself, and all together."""
    return [*(attempt(partial(stream, [path])) for path in paths), attempt(partial(stream, paths))]


def settings(path: str, other: str, store: str) -> Any:
    """What the arguments of stream_files may be, and which are refused."""
    names = stream([path])["told"][0]
    first, last = names[0][0], names[-1][0]
    tries: dict[str, Callable[[], Any]] = {
        "one file": lambda: one_file(path),
        "nothing": lambda: stream([]),
        "names": lambda: stream([path, other], tensor_names=[last, first, first]),
        "names as a set": lambda: stream([path], tensor_names={first}),
        "no names": lambda: stream([path], tensor_names=[]),
        "one str": lambda: stream([path], tensor_names=first),
        "unknown name": lambda: stream([path], tensor_names=[first, "unknown"]),
        "not owned": lambda: counted(stream([path], owned=False)),
        "distributed": lambda: stream([path], is_distributed=True),
        "no device": lambda: stream([path], device=None),
        "a device": lambda: stream([path], device=torch.device("cpu", 0)),
        "unknown device": lambda: stream([path], device="abacus:1"),
        "twice": lambda: stream([path, path]),
        "twice, by name": lambda: stream([path, path], tensor_names=[first]),
        "mixed": lambda: stream([path, store]),
        "missing": lambda: stream([f"{path}.missing"]),
        "one is missing": lambda: stream([path, f"{path}.missing"]),
        "a directory": lambda: stream([os.path.dirname(path)]),
        "missing object": lambda: stream([f"{store}.missing"]),
        "limit for the largest": lambda: limited("0", path, other),
        "no limit": lambda: limited("-1", path, other),
        "a limit": lambda: limited("480", path, other),
        "too small a limit": lambda: limited("16", path, other),
        "no number": lambda: limited("much", path, other),
        "word for DIST": lambda: worded("RUNAI_STREAMER_DIST", "perhaps", path),
        "unconsumed": lambda: unconsumed(path),
        "abandoned": lambda: abandoned(path),
        "without streaming": lambda: list(SafetensorsStreamer().files_to_tensors_metadata),
    }
    return {name: attempt(do) for name, do in tries.items()}


def one_file(path: str) -> Any:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path, None, "cpu", False, None, True)
        return sorted(name for name, _ in streamer.get_tensors())


def counted(found: Any) -> Any:
    """Without the values, which the original has overwritten by then."""
    return [tensor[:3] for tensor in found["tensors"]]


def limited(limit: str, *paths: str) -> Any:
    return worded("RUNAI_STREAMER_MEMORY_LIMIT", limit, *paths)


def worded(variable: str, word: str, *paths: str) -> Any:
    os.environ[variable] = word
    try:
        return stream(paths, is_distributed="DIST" in variable)
    finally:
        del os.environ[variable]


def unconsumed(path: str) -> Any:
    """A second call while tensors of the first are still to come."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        coming = streamer.get_tensors()
        next(coming)
        return [attempt(lambda: streamer.stream_files([path])), len(list(coming))]


def abandoned(path: str) -> Any:
    """A second call after the first was given up."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        coming = streamer.get_tensors()
        next(coming)
        coming.close()
        streamer.stream_files([path])
        return len(list(streamer.get_tensors()))


def read(requests: Iterable[FileChunks], **settings: Any) -> Any:
    """All ranges, held until the end."""
    with FileStreamer() as streamer:
        streamer.stream_files(list(requests), **settings)
        held = list(streamer.get_chunks())
    return sorted(
        [number, position, str(data.dtype), list(data.shape), data.numpy().tobytes().hex()]
        for number, position, data in held
    )


def ranges(path: str, other: str, store: str, missing_store: str) -> Any:
    """What FileStreamer makes of ranges."""
    tries: dict[str, Callable[[], Any]] = {
        "contiguous": lambda: read([FileChunks.contiguous(17, path, 1, [10, 0, 9, 10])]),
        "scattered": lambda: read([FileChunks(3, path, [20, 0, 20, 5], [7, 1, 7, 0])]),
        "several files": lambda: read([FileChunks.contiguous(n, p, 3, [4, 5]) for n, p in ((8, path), (2, other))]),
        "one file twice": lambda: read([FileChunks(1, path, [0], [4]), FileChunks(2, path, [2], [4])]),
        "of a store": lambda: read([FileChunks(1, store, [5, 0], [4, 3])]),
        "nothing": lambda: read([]),
        "no ranges": lambda: read([FileChunks(1, path, [], []), FileChunks(2, other, [0], [2])]),
        "empty ranges alone": lambda: read([FileChunks(1, path, [0, 0], [0, 0])]),
        "limit for the largest": lambda: read([FileChunks.contiguous(1, path, 0, [9, 3, 5])], memory_limit=0),
        "no limit": lambda: read([FileChunks.contiguous(1, path, 0, [9, 3, 5])], memory_limit=-1),
        "a limit": lambda: read([FileChunks.contiguous(1, path, 0, [9, 3, 5])], memory_limit=9),
        "too small a limit": lambda: read([FileChunks.contiguous(1, path, 0, [9, 3, 5])], memory_limit=8),
        "no device": lambda: read([FileChunks(1, path, [0], [4])], device=None),
        "unknown device": lambda: read([FileChunks(1, path, [0], [4])], device="abacus"),
        "mixed": lambda: read([FileChunks(1, path, [0], [4]), FileChunks(2, store, [0], [4])]),
        "beyond the end": lambda: begun([FileChunks(1, path, [0], [1 << 20])]),
        "missing": lambda: begun([FileChunks(1, f"{path}.missing", [0], [4])]),
        "missing object": lambda: begun([FileChunks(1, missing_store, [0], [4])]),
        "unconsumed": lambda: ranges_unconsumed(path),
        "not as many": lambda: FileChunks(1, path, [0, 1], [4]),
        "sums": lambda: [
            FileChunks(1, path, [5, 2], [4, 9]).total_size(),
            FileChunks(1, path, [5, 2], [4, 9]).max_chunk_size(),
        ],
        "fields": lambda: [vars_of(FileChunks.contiguous(1, path, 7, [4, 9]))],
    }
    return {name: attempt(do) for name, do in tries.items()}


def vars_of(chunks: FileChunks) -> Any:
    return [chunks.id, os.path.basename(chunks.path), list(chunks.offsets), list(chunks.sizes)]


def begun(requests: Sequence[FileChunks]) -> Any:
    """Where an error comes."""
    with FileStreamer() as streamer:
        began = attempt(lambda: streamer.stream_files(list(requests)))
        return [
            began,
            attempt(lambda: len(list(streamer.get_chunks()))),
            attempt(lambda: len(list(streamer.get_chunks()))),
        ]


def ranges_unconsumed(path: str) -> Any:
    with FileStreamer() as streamer:
        request = [FileChunks.contiguous(1, path, 0, [4] * 5)]
        streamer.stream_files(request)
        chunks = streamer.get_chunks()
        next(chunks)
        refused = attempt(lambda: streamer.stream_files(request))
        owed = streamer.outstanding
        chunks.close()
        streamer.stream_files(request)
        return [refused, owed, streamer.outstanding, len(list(streamer.get_chunks())), streamer.outstanding]


def listings(folder: str, store: str) -> Any:
    """What is listed, and by which names."""
    os.chdir(os.path.dirname(folder))
    relative = os.path.basename(folder)
    places = [folder, f"{folder}/", relative, f"{relative}/", f"{folder}/missing"]
    places += [store, store.rstrip("/"), f"{store}missing"]
    found = {place: attempt(partial(list_safetensors, place)) for place in places}
    for place in (folder, f"{folder}/", relative, store, f"{folder}/missing", f"{store}missing/"):
        for deep in (True, False):
            patterns: tuple[Any, Any]
            for patterns in ((None, None), (["*.json"], None), (None, ["*.json"]), ([], [])):
                name = f"files of {place} {deep} {patterns}"
                found[name] = attempt(partial(list_files, place, deep, *patterns))
    return found


def list_safetensors(place: str) -> Any:
    return sorted(runai_model_streamer.list_safetensors(place))


def list_files(*arguments: Any) -> Any:
    return sorted(map(list, FileStreamer().list_files(*arguments)))


def pulls(folder: str, store: str, to: str) -> Any:
    """What is pulled, and where to."""
    tries: dict[str, Callable[[], Any]] = {
        "all": lambda: pulled(store, f"{to}/all", None, None),
        "allowed": lambda: pulled(store, f"{to}/allowed", ["*.json"], None),
        "not ignored": lambda: pulled(store, f"{to}/not-ignored", None, ["*.safetensors"]),
        "both": lambda: pulled(store, f"{to}/both", ["*.json"], ["*.bin", "*token*"]),
        "without a slash": lambda: pulled(store.rstrip("/"), f"{to}/slash", ["*.json"], None),
        "nothing matches": lambda: pulled(store, f"{to}/none", ["*.xyz"], None),
        "missing prefix": lambda: pulled(f"{store}missing/", f"{to}/missing", None, None),
        "local": lambda: pulled(folder, f"{to}/local", None, None),
        "a model": lambda: model(store, f"{to}/model"),
        "a model again": lambda: model(store, f"{to}/model"),
        "a model with a slash": lambda: model(store, f"{to}/slashed/"),
        "no model": lambda: model(f"{store}missing", f"{to}/no-model"),
        "a local model": lambda: model(folder, f"{to}/local-model"),
    }
    found = {name: attempt(do) for name, do in tries.items()}
    return {**found, "beside": sorted(os.listdir(to))}


def pulled(uri: str, to: str, allow: Any, ignore: Any) -> Any:
    runai_model_streamer.pull_files(uri, to, allow, ignore)
    return tree(to)


def model(uri: str, to: str) -> Any:
    with ObjectStorageModel(model_path=uri, dst=to) as model:
        model.pull_files(allow_pattern=["*.safetensors"])
        model.pull_files(ignore_pattern=["*.safetensors"])
        before = tree(to)
    return model.dir, before, tree(to), model.SENTINEL_NAME


def tree(folder: str) -> Any:
    """Every file by its path and content, except what slipstream keeps for itself."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and ".slipstream" not in path.parts)
    return [[str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()[:16]] for path in files]


CASES: dict[str, Callable[..., Any]] = {
    "tensors": tensors,
    "settings": settings,
    "ranges": ranges,
    "listings": listings,
    "pulls": pulls,
}

if __name__ == "__main__":
    said = CASES[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"module": runai_model_streamer.__file__, "said": said}))
