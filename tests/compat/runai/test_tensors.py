"""SafetensorsStreamer on slipstream: what it promises beyond the original, and what it leaves behind."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import slipstream
from slipstream.testing.range_server import RangeServer
from tests.compat.runai.files import BROKEN, encode, entry

TENSORS = 12
ELEMENTS = 50_000  # 200 kB each


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of tensors that tell where they are from."""
    path = tmp_path / "large.safetensors"
    save_file({f"w{n}": torch.arange(ELEMENTS, dtype=torch.float32) + n * ELEMENTS for n in range(TENSORS)}, path)
    return path


@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("limit", ["0", "500000", "-1", ""])
def test_tensors_that_are_kept_stay_valid(
    owned: bool, limit: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the limit, and whatever `owned` says: each has memory of its own, also when the stream is closed."""
    from runai_model_streamer import SafetensorsStreamer

    if limit:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(large), owned=owned)
        kept = dict(streamer.get_tensors())
    assert len({tensor.data_ptr() for tensor in kept.values()}) == TENSORS
    expected = load_file(large)
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in kept)


def test_nothing_is_copied(model: Path) -> None:
    """On the host a tensor is the very one that slipstream hands out."""
    from runai_model_streamer.safetensors_streamer import loads, safetensors_streamer

    made: list[int] = []
    tensors_of = loads._tensors

    class Noted:
        def __init__(self, stream: slipstream.TensorStream) -> None:
            self._stream = tensors_of(stream)

        def __iter__(self) -> Noted:
            return self

        def __next__(self) -> tuple[str, torch.Tensor]:
            name, tensor = next(self._stream)
            made.append(tensor.data_ptr())
            return name, tensor

    with pytest.MonkeyPatch.context() as patch, safetensors_streamer.SafetensorsStreamer() as streamer:
        patch.setattr(loads, "_tensors", Noted)
        streamer.stream_files([str(path) for path in sorted(model.glob("*.safetensors"))])
        held = [tensor for _, tensor in streamer.get_tensors()]
    assert [tensor.data_ptr() for tensor in held] == made


def test_only_the_bytes_that_are_named_are_read(large: Path, tmp_path: Path) -> None:
    """With tensor_names nothing else is asked of the store."""
    from runai_model_streamer.safetensors_streamer.loads import Load

    with RangeServer(tmp_path) as server:
        load = Load([server.url(large.name)], frozenset(["w3", "w7"]), None)
        found = dict(load.tensors)
        load.close()
        asked = sum(request.body_bytes for request in server.requests)
    assert found.keys() == {"w3", "w7"}
    assert asked < 3 * ELEMENTS * 4


@pytest.mark.parametrize("limit", [0, 3 * ELEMENTS * 4 + 1])
def test_a_limit_bounds_what_is_read_ahead(
    limit: int, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server too: no more than the limit is in flight, while the caller keeps everything."""
    from runai_model_streamer.safetensors_streamer.loads import Load

    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(limit))
    with RangeServer(tmp_path) as server:
        load = Load([server.url(large.name)], None, None)
        stream: Any = load.tensors
        kept = dict(stream)
        load.close()
    assert stream.stats().peak_buffer_bytes <= (limit or ELEMENTS * 4)
    expected = load_file(large)
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in kept)


def test_another_device_than_the_host(large: Path) -> None:
    """Gets each tensor as it comes; here the one that needs no hardware."""
    from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(large), device="meta")
        found = dict(streamer.get_tensors())
        assert streamer.device_str == "meta"
    assert {name: (tensor.is_meta, tensor.shape) for name, tensor in found.items()} == {
        f"w{n}": (True, (ELEMENTS,)) for n in range(TENSORS)
    }
    with FileStreamer() as ranges:
        ranges.stream_files([FileChunks(1, str(large), [0], [8])], device=torch.device("meta"))
        ((number, position, data),) = ranges.get_chunks()
    assert (number, position, data.is_meta, data.shape) == (1, 0, True, (1, 8))


@pytest.mark.parametrize("count", [1, 3])
def test_files_that_share_names_are_streamed_one_after_the_other(count: int, large: Path, tmp_path: Path) -> None:
    """Copies of a file, and one named twice, are read as often as they are named, as by the original."""
    from runai_model_streamer import SafetensorsStreamer

    copies = [large, *(tmp_path / f"copy-{n}.safetensors" for n in range(1, count)), large]
    for copy in copies[1:-1]:
        copy.write_bytes(large.read_bytes())
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in copies])
        assert sorted(streamer.files_to_tensors_metadata) == list(range(len(copies)))
        assert streamer.total_size == len(copies) * TENSORS * ELEMENTS * 4
        names = [name for name, _ in streamer.get_tensors()]
    assert sorted(names) == sorted(f"w{n}" for n in range(TENSORS) for _ in copies)


@pytest.mark.parametrize("problem", BROKEN)
def test_errors_say_what_slipstream_says(problem: str, tmp_path: Path) -> None:
    """The text names the file; the cause, or the error itself, is slipstream's with all its attributes."""
    from runai_model_streamer import SafetensorsStreamer

    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN[problem])
    with SafetensorsStreamer() as streamer, pytest.raises(ValueError, match=r"broken\.safetensors") as caught:
        streamer.stream_file(str(path))
    assert isinstance(caught.value, slipstream.FormatError)
    assert caught.value.uri == str(path)


def test_one_broken_file_among_others_is_named(model: Path) -> None:
    """Also where a name is in two files, so that each is read for itself."""
    from runai_model_streamer import SafetensorsStreamer

    good = sorted(map(str, model.glob("*.safetensors")))
    (model / "zz.safetensors").write_bytes(encode({"a": entry(0, 100)}, bytes(10)))
    with SafetensorsStreamer() as streamer:
        for paths in ([*good, str(model / "zz.safetensors")], [good[0], *good, str(model / "zz.safetensors")]):
            with pytest.raises(ValueError, match=r"zz\.safetensors"):
                streamer.stream_files(paths)


def test_a_missing_file_keeps_its_cause(tmp_path: Path) -> None:
    """A ValueError, as in the original, whose cause is slipstream's error."""
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer, pytest.raises(ValueError, match="does not exist") as caught:
        streamer.stream_file(str(tmp_path / "missing.safetensors"))
    assert isinstance(caught.value.__cause__, slipstream.BlobNotFoundError)


@pytest.mark.parametrize("end", ["consumed", "block", "generator", "forgotten", "failed"])
def test_nothing_is_left_running(end: str, large: Path) -> None:
    """However a stream ends, its threads end with it, and the streamer can be used again."""
    from runai_model_streamer import SafetensorsStreamer

    def workers() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("slipstream-")}

    streamer = SafetensorsStreamer()
    with streamer:
        if end == "failed":
            with pytest.raises(ValueError, match="unknown"):
                streamer.stream_file(str(large), tensor_names=["unknown"])
        else:
            streamer.stream_file(str(large))
            coming = streamer.get_tensors()
            if end == "consumed":
                assert len(list(coming)) == TENSORS
            else:
                next(coming)
            if end == "generator":
                coming.close()
            if end == "forgotten":
                del coming
                gc.collect()
        if end != "block":
            assert workers() == set()
    assert workers() == set()
    with streamer:
        streamer.stream_file(str(large))
        assert len(dict(streamer.get_tensors())) == TENSORS


def test_a_stream_given_up_in_the_middle_of_apart_files(large: Path) -> None:
    """Files that are streamed one after the other are closed as well."""
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(large)] * 3)
        coming = streamer.get_tensors()
        next(coming)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slipstream-")]


def test_the_end_of_a_load_is_logged(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line at INFO, with sizes and seconds."""
    from runai_model_streamer import SafetensorsStreamer

    with caplog.at_level("INFO", logger="runai_model_streamer"), SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in model.glob("*.safetensors")])
        assert len(list(streamer.get_tensors())) == 9
    (record,) = caplog.records
    assert "of 2 files to cpu in" in record.getMessage()


def test_four_bits_and_six(tmp_path: Path) -> None:
    """Types that the original cannot read: metadata has the shape of the file, and tensors are slipstream's."""
    from runai_model_streamer import SafetensorsStreamer

    path = tmp_path / "packed.safetensors"
    path.write_bytes(encode({"f4": entry(0, 4, "F4", [2, 4]), "f6": entry(4, 7, "F6_E2M3", [4])}, bytes(range(7))))
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        four, six = streamer.files_to_tensors_metadata[0]
        found = dict(streamer.get_tensors())
    assert (four.shape, four.get_bytesize(), four.get_torch_dtype()) == ([2, 4], 4, torch.float4_e2m1fn_x2)
    assert (six.get_bytesize(), six.get_torch_dtype()) == (3, torch.uint8)
    expected = slipstream.load(path, framework="torch")
    assert all(
        found[name].dtype == tensor.dtype and found[name].shape == tensor.shape for name, tensor in expected.items()
    )


def test_metadata_and_bytes_make_a_tensor(model: Path) -> None:
    """safetensors_pytorch: a header's entries, and a FileStreamer's bytes, put together by hand."""
    from runai_model_streamer import FileChunks, FileStreamer
    from runai_model_streamer.safetensors_streamer import safetensors_pytorch

    path = str(min(model.glob("*.safetensors")))
    ((offset, tensors, sizes),) = safetensors_pytorch.prepare_request(None, [path], None)
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks.contiguous(0, path, offset, sizes)])
        found = {
            tensors[position].name: safetensors_pytorch.create_torch_tensor(
                data.clone() if safetensors_pytorch.requires_alignment_copy(data, tensors[position]) else data,
                tensors[position],
            )
            for _, position, data in streamer.get_chunks()
        }
    expected = load_file(path)
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name].view(torch.uint8), expected[name].view(torch.uint8))
        for name in expected
        if expected[name].dim()
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": "ALIEN", "shape": [1], "data_offsets": [0, 4]}, "ALIEN"),
        ({"dtype": "F32", "shape": [10], "data_offsets": [0, 4]}, "takes 40"),
    ],
)
def test_metadata_that_cannot_be_is_refused(given: dict[str, object], said: str) -> None:
    """As in the original, by ValueError."""
    from runai_model_streamer.safetensors_streamer.safetensors_pytorch import SafetensorMetadata

    with pytest.raises(ValueError, match=said):
        SafetensorMetadata("w", given)


def test_every_type_of_slipstream_has_metadata() -> None:
    """The table of types knows each that slipstream reads, and gives it the type of slipstream's tensors."""
    from runai_model_streamer.safetensors_streamer.safetensors_pytorch import (
        element_size_of,
        safetensors_to_torch_dtype,
    )

    assert safetensors_to_torch_dtype.keys() == set(slipstream.Dtype)
    for dtype in slipstream.Dtype:
        if dtype.bits >= 8:
            assert element_size_of(safetensors_to_torch_dtype[dtype]) * 8 == dtype.bits
