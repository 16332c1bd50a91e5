"""streamer_mock: a directory in the place of a bucket, as vLLM's tests use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compat.runai.test_model_files import files_in

URIS = pytest.mark.parametrize("bucket", ["s3://any-bucket", "gs://other"])


@pytest.fixture
def patcher(model: Path) -> Any:
    """For the directory above the model."""
    from runai_model_streamer.safetensors_streamer.streamer_mock import StreamerPatcher

    return StreamerPatcher(str(model.parent))


@URIS
def test_tensors_of_a_bucket_that_is_not_there(bucket: str, patcher: Any, model: Path) -> None:
    """Listed under the bucket's name, and streamed from the directory, with all arguments."""
    listed = patcher.shim_list_safetensors(f"{bucket}/model")
    assert sorted(listed) == [f"{bucket}/model/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    with patcher.create_mock_streamer() as streamer:
        streamer.stream_files(listed, device="cpu", is_distributed=False)
        assert sum(map(len, streamer.files_to_tensors_metadata.values())) == 9
        assert len(dict(streamer.get_tensors())) == 9
    with patcher.create_mock_streamer() as streamer:
        streamer.stream_file(
            listed[0],
            None,
            "cpu",
            tensor_names=["empty"] if "empty" in first(patcher, listed[0]) else first(patcher, listed[0])[:1],
        )
        assert len(list(streamer.get_tensors())) == 1


def first(patcher: Any, uri: str) -> list[str]:
    with patcher.create_mock_streamer() as streamer:
        streamer.stream_file(uri)
        return sorted(name for name, _ in streamer.get_tensors())


@URIS
@pytest.mark.parametrize(
    ("allow", "ignore", "expected"),
    [
        (None, None, {"config.json", "sub/tokenizer.json", *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))}),
        (["*.json"], None, {"config.json", "sub/tokenizer.json"}),
        ([], ["*.safetensors", "sub/*"], {"config.json"}),
        (["*.xyz"], None, set()),
    ],
)
def test_files_of_a_bucket_that_is_not_there(
    bucket: str, allow: Any, ignore: Any, expected: set[str], patcher: Any, tmp_path: Path
) -> None:
    """Pulled from the directory, by patterns; where none matches nothing is made."""
    patcher.shim_pull_files(f"{bucket}/model", str(tmp_path / "to"), allow, ignore)
    assert files_in(tmp_path / "to").keys() == expected
    assert (tmp_path / "to").exists() is bool(expected)


def test_what_is_no_bucket(patcher: Any, model: Path, tmp_path: Path) -> None:
    """Local paths are streamed as they are, and are not pulled; a prefix with nothing in it is empty."""
    assert patcher.convert_remote_path_to_local_path("/some/path") == "/some/path"
    assert not patcher.is_remote_path("az://container/m")
    assert patcher.convert_local_path_to_mocked_remote_path("/elsewhere/x", "s3://b/m") == "/elsewhere/x"
    with pytest.raises(NotImplementedError):
        patcher.shim_pull_files(str(model), str(tmp_path / "to"))
    patcher.shim_pull_files("s3://bucket/none", str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()
