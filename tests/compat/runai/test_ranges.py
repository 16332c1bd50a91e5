"""FileStreamer on slipstream: ranges in the older form too, errors, and what is left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import slipstream

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file whose bytes tell where they are from."""
    (tmp_path / "plain.bin").write_bytes(CONTENT)
    return str(tmp_path / "plain.bin")


def read(*requests: Any) -> dict[tuple[int, int], bytes]:
    """All ranges by file id and position, held until the end."""
    from runai_model_streamer import FileStreamer

    with FileStreamer() as streamer:
        streamer.stream_files(requests)
        held = [(number, position, data) for number, position, data in streamer.get_chunks()]
    return {(number, position): data.numpy().tobytes() for number, position, data in held}


@pytest.mark.parametrize(
    "arguments",
    [
        ((5, [3, 0, 4]), {}),
        ((), {"offset": 5, "chunks": [3, 0, 4]}),
        ((5,), {"chunks": [3, 0, 4]}),
        (([5, 8, 8], [3, 0, 4]), {}),
        ((), {"offsets": [5, 8, 8], "sizes": [3, 0, 4]}),
    ],
)
def test_both_forms_of_file_chunks(arguments: tuple[tuple[Any, ...], dict[str, Any]], path: str) -> None:
    """Offset and chunks as up to 0.16, and offsets and sizes as of 0.17, by position and by name, are the same."""
    from runai_model_streamer import FileChunks

    given, named = arguments
    chunks = FileChunks(7, path, *given, **named)
    assert (chunks.id, chunks.path, list(chunks.offsets), list(chunks.sizes)) == (7, path, [5, 8, 8], [3, 0, 4])
    assert (chunks.offset, list(chunks.chunks), chunks.total_size(), chunks.max_chunk_size()) == (5, [3, 0, 4], 7, 4)
    assert "num_ranges=3" in repr(chunks)
    assert read(chunks) == {(7, 0): CONTENT[5:8], (7, 1): b"", (7, 2): CONTENT[8:12]}


@pytest.mark.parametrize("named", [{}, {"offsets": [0]}, {"sizes": [1]}, {"offset": 3}])
def test_half_of_file_chunks_is_a_mistake(named: dict[str, Any]) -> None:
    """Python's own error, as for any argument that is missing."""
    from runai_model_streamer import FileChunks

    with pytest.raises(TypeError, match="offsets and sizes"):
        FileChunks(1, "x", **named)


def test_many_ranges_of_many_files(tmp_path: Path) -> None:
    """Each comes once, under the id and the position that it was asked by."""
    from runai_model_streamer import FileChunks

    requests = []
    expected: dict[tuple[int, int], bytes] = {}
    for number in range(20):
        file = tmp_path / f"{number}.bin"
        file.write_bytes(CONTENT[number:])
        sizes = [(number * 7 + position) % 90 for position in range(50)]
        requests.append(FileChunks.contiguous(100 - number, str(file), number, sizes))
        for position, size in enumerate(sizes):
            start = 2 * number + sum(sizes[:position])
            expected[100 - number, position] = CONTENT[start : start + size]
    assert read(*requests) == expected


def test_ranges_through_the_distributed_streamer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank reads for itself, without torch.distributed, whatever RUNAI_STREAMER_DIST is of what it may be."""
    from runai_model_streamer import DistributedStreamer, FileChunks

    for word in ("0", "1", "auto"):
        monkeypatch.setenv("RUNAI_STREAMER_DIST", word)
        with DistributedStreamer() as streamer:
            streamer.stream_files([FileChunks(1, path, [9], [5])], None, "cpu", True)
            ((number, position, data),) = streamer.get_chunks()
            assert (number, position, data.numpy().tobytes()) == (1, 0, CONTENT[9:14])
            assert (streamer.is_distributed, streamer.ring_info(), streamer.get_group_size()) == (False, None, 1)
    assert not torch.distributed.is_initialized()


def test_what_comes_from_a_range_is_writable_and_independent(path: str) -> None:
    """Ranges that overlap are memory of their own, and the file stays as it is."""
    from runai_model_streamer import FileChunks, FileStreamer

    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, path, [0, 0], [64, 64])])
        (_, _, first), (_, _, second) = streamer.get_chunks()
    first.zero_()
    assert second.numpy().tobytes() == CONTENT[:64] == Path(path).read_bytes()[:64]


def test_an_error_is_slipstreams_with_its_cause(path: str) -> None:
    """A missing file: the text says which, and the cause has its attributes."""
    from runai_model_streamer import FileChunks, FileStreamer

    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, f"{path}.missing", [0], [4])])
        with pytest.raises(ValueError, match=r"plain\.bin\.missing does not exist") as caught:
            list(streamer.get_chunks())
        assert isinstance(caught.value.__cause__, slipstream.BlobNotFoundError)
        streamer.stream_files([FileChunks(1, path, [0], [4])])
        assert len(list(streamer.get_chunks())) == 1


def test_one_streamer_beside_another(path: str) -> None:
    """Streamers are independent of each other, and of listings."""
    from runai_model_streamer import FileChunks, FileStreamer

    with FileStreamer() as first, FileStreamer() as second:
        first.stream_files([FileChunks.contiguous(1, path, 0, [8] * 8)])
        chunks = first.get_chunks()
        found = {position: data.numpy().tobytes() for _, position, data in [next(chunks)]}
        second.stream_files([FileChunks.contiguous(2, path, 0, [8] * 8)])
        assert len(list(second.get_chunks())) == 8
        assert first.list_files(str(Path(path).parent)) == [(path, len(CONTENT))]
        found |= {position: data.numpy().tobytes() for _, position, data in chunks}
    assert found == {n: CONTENT[n * 8 : n * 8 + 8] for n in range(8)}


def test_a_generator_that_outlives_its_block(path: str) -> None:
    """Closing it later is no error, and the streamer can be entered again."""
    from runai_model_streamer import FileChunks, FileStreamer

    streamer = FileStreamer()
    with streamer:
        streamer.stream_files([FileChunks.contiguous(1, path, 0, [8] * 8)])
        chunks = streamer.get_chunks()
        next(chunks)
        assert streamer.outstanding == 7
    assert streamer.outstanding == 0
    chunks.close()
    with streamer:
        streamer.stream_files([FileChunks.contiguous(1, path, 0, [8] * 8)])
        assert len(list(streamer.get_chunks())) == 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slipstream-")]


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)])
def test_every_spelling_of_the_host(device: Any, path: str) -> None:
    """Is the host, and nothing is copied on the way there."""
    from runai_model_streamer import FileChunks, FileStreamer

    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(1, path, [0], [4])], device=device)
        assert streamer.device_str == "cpu"
        assert len(list(streamer.get_chunks())) == 1
