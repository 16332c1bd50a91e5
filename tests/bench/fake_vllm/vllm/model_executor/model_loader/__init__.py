"""Loaders by load format. Each makes a checksum of the files that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path


class Loader:
    def load_model(self, files: Iterable[Path]) -> str:
        return self.load_weights(files)

    def load_weights(self, files: Iterable[Path]) -> str:
        return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


class TensorizerLoader(Loader):
    """Its copies are the checksum and padding: see `tensorizer.tensorize_vllm_model`."""

    def load_weights(self, files: Iterable[Path]) -> str:
        (file,) = files
        return file.read_text().rstrip(".")


_LOAD_FORMAT_TO_MODEL_LOADER: dict[str, type[Loader]] = {
    "auto": Loader,
    "runai_streamer": Loader,
    "tensorizer": TensorizerLoader,
}


def register_model_loader(name: str) -> Callable[[type[Loader]], type[Loader]]:
    def register(loader: type[Loader]) -> type[Loader]:
        _LOAD_FORMAT_TO_MODEL_LOADER[name] = loader
        return loader

    return register


def get_model_loader(name: str) -> Loader:
    return _LOAD_FORMAT_TO_MODEL_LOADER[name]()
