"""A sample of every contender that needs no GPU: from disk, from S3, and over HTTP; each verified byte for byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.bench.contenders import check_availability, find_contender, schemes_of
from slipstream.bench.errors import SampleError
from slipstream.bench.models import Model, find_model
from slipstream.bench.page_cache import make_cold
from slipstream.bench.records import Setting
from slipstream.bench.sampling import SampleRequest, SampleResult, take_sample
from slipstream.bench.storages.base import PlacedModel
from slipstream.bench.storages.object_store import aws_variables
from slipstream.testing.checkpoints import tensor_nbytes, write_safetensors
from slipstream.testing.presigning import presign
from slipstream.testing.range_server import RangeServer
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.types import Dtype

Settings = dict[str, Setting]

FROM_DISK: list[tuple[str, Settings]] = [
    ("slipstream", {}),
    ("slipstream", {"framework": "numpy"}),
    ("slipstream", {"strategy": "direct", "concurrency": 4}),
    ("runai", {}),
    ("runai", {"concurrency": 4}),
    ("safetensors", {}),
    ("safetensors", {"backend": "pread"}),
    ("safetensors", {"method": "get_tensors"}),
    ("tensorizer", {}),
    ("tensorizer", {"num_readers": 8}),
    ("fastsafetensors", {}),
    ("fastsafetensors", {"max_threads": 4, "bbuf_size_kb": 4096}),
    ("floor", {"method": "direct", "threads": 4}),
    ("floor", {"method": "populate", "threads": 2}),
]
FROM_S3: list[tuple[str, Settings]] = [
    ("slipstream", {}),
    ("slipstream", {"concurrency": 4}),
    ("runai", {}),
    ("runai", {"concurrency": 4}),
    ("tensorizer", {"num_readers": 1}),
    ("tensorizer", {"num_readers": 8}),
    ("floor", {"method": "receive", "connections": 2}),
]
# What an adapter opens beyond a plain S3 endpoint.
OVER_TLS: list[tuple[str, Settings]] = [
    ("slipstream", {}),
    ("runai", {}),
    ("tensorizer", {"num_readers": 4}),
    ("floor", {"method": "receive"}),
]
OVER_HTTP: list[tuple[str, Settings]] = [("slipstream", {}), ("tensorizer", {"num_readers": 4}), ("floor", {})]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A synthetic model of 8 MB."""
    return find_model("llama-tiny", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def copy(model: Model) -> Path | None:
    """Its copy for tensorizer, where that is installed."""
    return model.tensorizer_copy() if check_availability(find_contender("tensorizer")).ok else None


def _take(name: str, settings: Settings, placed: PlacedModel) -> SampleResult:
    contender = find_contender(name)
    available = check_availability(contender, settings=settings, schemes=schemes_of(placed.uris))
    if available.reason.startswith("not installed"):
        pytest.skip(f"{name}: {available.reason}")
    assert available.ok, available.reason

    def prepare(pid: int) -> None:
        if placed.is_local:
            make_cold([*placed.files, *([placed.tensorizer_file] if placed.tensorizer_file else [])])

    return take_sample(SampleRequest(contender=contender, settings=settings, placed=placed), prepare)


def _assert_complete(taken: SampleResult, name: str, placed: PlacedModel) -> None:
    """All of the model came, and was compared."""
    assert taken.verified
    assert taken.checksum
    if name != "floor":
        assert (taken.figures.tensors, taken.figures.nbytes) == (placed.model.facts.tensors, placed.model.nbytes)
    assert taken.figures.peak_memory_bytes is not None
    assert taken.figures.peak_memory_bytes > placed.model.nbytes / 2  # what its imports had freed is used again


@pytest.mark.parametrize(("name", "settings"), FROM_DISK, ids=lambda value: str(value))
def test_from_disk(model: Model, copy: Path | None, name: str, settings: Settings) -> None:
    """Every tensor comes from a cold disk, and those that read past the page cache leave it alone."""
    placed = PlacedModel(
        model=model,
        uris=tuple(map(str, model.files)),
        files=model.files,
        tensorizer_uri=str(copy) if copy else None,
        tensorizer_file=copy,
    )
    taken = _take(name, settings, placed)
    _assert_complete(taken, name, placed)
    growth = taken.figures.page_cache_growth_bytes
    assert growth is not None
    if settings.get("method") == "direct" or settings.get("strategy") == "direct":
        assert growth < model.nbytes / 4
    elif name in ("slipstream", "safetensors", "tensorizer"):
        assert growth >= model.nbytes


def _upload(server: SeaweedFS, bucket: str, model: Model, copy: Path | None) -> PlacedModel:
    server.create_bucket(bucket)
    server.upload(model.files[0], bucket, "tiny/model.safetensors")
    if copy:
        server.upload(copy, bucket, "tiny/model.tensors")
    uris = (f"s3://{bucket}/tiny/model.safetensors",)
    return PlacedModel(
        model=model,
        uris=uris,
        urls=presign(uris, server.storage_options),
        tensorizer_uri=f"s3://{bucket}/tiny/model.tensors" if copy else None,
        storage_options=server.storage_options,
        environment=aws_variables(server.storage_options),
    )


@pytest.fixture(scope="module")
def in_s3(seaweedfs: SeaweedFS, model: Model, copy: Path | None) -> PlacedModel:
    """The model in a bucket."""
    return _upload(seaweedfs, "bench-samples", model, copy)


@pytest.mark.parametrize(("name", "settings"), FROM_S3, ids=lambda value: str(value))
def test_from_s3(in_s3: PlacedModel, name: str, settings: Settings) -> None:
    """Every tensor comes from a real S3 server, which checks signatures."""
    taken = _take(name, settings, in_s3)
    _assert_complete(taken, name, in_s3)
    assert taken.figures.page_cache_growth_bytes is None  # the files are the server's


@pytest.mark.parametrize(("name", "settings"), OVER_TLS, ids=lambda value: str(value))
def test_from_s3_over_tls(
    seaweedfs_tls: SeaweedFS, model: Model, copy: Path | None, name: str, settings: Settings
) -> None:
    """An endpoint with a certificate of one's own is trusted by way of AWS_CA_BUNDLE."""
    placed = _upload(seaweedfs_tls, "bench-samples", model, copy)
    _assert_complete(_take(name, settings, placed), name, placed)


@pytest.mark.parametrize(("name", "settings"), OVER_HTTP, ids=lambda value: str(value))
def test_over_http(model: Model, copy: Path | None, name: str, settings: Settings) -> None:
    """Those that take URLs load from any server of ranges."""
    with RangeServer(model.cache) as server:
        urls = tuple(server.url(str(file.relative_to(model.cache))) for file in model.files)
        tensorizer_uri = server.url(str(copy.relative_to(model.cache))) if copy else None
        placed = PlacedModel(model=model, uris=urls, urls=urls, tensorizer_uri=tensorizer_uri)
        _assert_complete(_take(name, settings, placed), name, placed)


def test_ranges_to_nowhere(in_s3: PlacedModel) -> None:
    """The floor that keeps nothing has read every byte, by programs whose time counts."""
    taken = _take("floor", {"method": "discard", "connections": 4, "processes": 2}, in_s3)
    assert taken.figures.nbytes == in_s3.model.files[0].stat().st_size
    assert taken.figures.cpu_s is not None
    assert taken.figures.cpu_s > 0
    assert not taken.verified


@pytest.mark.parametrize("name", ["slipstream", "runai", "tensorizer"])
def test_an_object_that_is_not_there(in_s3: PlacedModel, name: str) -> None:
    """It is a failed sample with the contender's reason, and without credentials."""
    nowhere = replace(
        in_s3, uris=("s3://bench-samples/none.safetensors",), tensorizer_uri="s3://bench-samples/none.tensors"
    )
    with pytest.raises(SampleError, match=f"^{name} failed: ") as raised:
        _take(name, {}, nowhere)
    for secret in (in_s3.storage_options["secret_access_key"], "Signature=" + "0", "X-Amz-Credential=s"):
        assert secret not in str(raised.value)


def test_tensorizer_without_its_copy(in_s3: PlacedModel) -> None:
    """It is a failed sample that says what is missing."""
    with pytest.raises(SampleError, match="no copy of the model in tensorizer's format"):
        _take("tensorizer", {}, replace(in_s3, tensorizer_uri=None))


@pytest.mark.parametrize("name", ["runai", "tensorizer", "fastsafetensors"])
def test_whole_files_only(model: Model, copy: Path | None, name: str) -> None:
    """Those that cannot select tensors say so, and do not load everything instead."""
    contender = find_contender(name)
    if not check_availability(contender).ok:
        pytest.skip(f"{name} is not installed")
    placed = PlacedModel(model=model, uris=tuple(map(str, model.files)), files=model.files, tensorizer_uri=str(copy))
    with pytest.raises(SampleError, match="selection of names"):
        take_sample(SampleRequest(contender=contender, placed=placed, names="model.*"), lambda pid: None)


@pytest.mark.parametrize("name", ["slipstream", "safetensors"])
def test_a_selection(model: Model, name: str) -> None:
    """Those that can select tensors hand out exactly these."""
    placed = PlacedModel(model=model, uris=tuple(map(str, model.files)), files=model.files)
    request = SampleRequest(contender=find_contender(name), placed=placed, names="*.0.*.weight")
    taken = take_sample(request, lambda pid: None)
    assert taken.verified
    assert taken.figures.tensors is not None
    assert 0 < taken.figures.tensors < model.facts.tensors


@pytest.mark.parametrize(
    ("name", "settings"),
    [("slipstream", {}), ("slipstream", {"framework": "numpy"}), ("safetensors", {}), ("floor", {})],
    ids=lambda value: str(value),
)
def test_every_dtype(tmp_path: Path, name: str, settings: Settings) -> None:
    """Each dtype of the format is told by its name, and compared."""
    absent = {Dtype.F4, Dtype.F6_E2M3, Dtype.F6_E3M2}  # numpy and torch have them in other shapes, or not at all
    dtypes = [dtype for dtype in Dtype if dtype not in absent]
    write_safetensors(
        tmp_path / "model.safetensors",
        {f"{dtype}": (dtype, [2, 4], bytes(range(1, 1 + tensor_nbytes(dtype, [2, 4])))) for dtype in dtypes},
    )
    model = find_model(str(tmp_path / "model.safetensors"), tmp_path / "cache")
    placed = PlacedModel(model=model, uris=tuple(map(str, model.files)), files=model.files)
    taken = take_sample(
        SampleRequest(contender=find_contender(name), settings=settings, placed=placed), lambda pid: None
    )
    assert taken.verified
