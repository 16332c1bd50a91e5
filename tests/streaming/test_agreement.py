"""inspect, plan, stream, load and the figures of a load agree with one another."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slipstream
from slipstream import Dtype, LoadStats, Options, Progress, ReadPlan, TensorInfo
from slipstream.testing.checkpoints import write_safetensors
from tests.streaming.random_checkpoints import (
    Form,
    forms,
    make_content,
    options,
    selections,
    sharded,
    tensor_bytes,
    write_checkpoint,
    write_flat,
)


def check_covers(plan: ReadPlan, selected: Sequence[TensorInfo]) -> None:
    """Every byte of the selected tensors is in the plan once, and no other."""
    planned = [tensor for op in plan.ops for tensor in op.tensors]
    assert sorted(planned) == sorted(selected)
    for op in plan.ops:
        assert op.tensors
        assert {tensor.blob for tensor in op.tensors} == {op.blob}
        position = op.start
        for tensor in op.tensors:
            assert tensor.start == position
            position = tensor.end
        assert position == op.end
    assert plan.nbytes == sum(tensor.nbytes for tensor in selected)
    assert plan.tensor_count == len(selected)


def check_stats(stats: LoadStats, plan: ReadPlan) -> None:
    """The figures of a finished load agree with its plan and with one another."""
    assert (stats.bytes, stats.tensors) == (plan.nbytes, plan.tensor_count)
    used = [blob for blob, choice in zip(plan.checkpoint.blobs, plan.choices, strict=True) if choice is not None]
    assert [file.uri for file in stats.files] == [blob.uri for blob in used]
    assert sum(file.bytes for file in stats.files) == plan.nbytes
    assert [(file.strategy, file.reason) for file in stats.files] == [
        (choice.strategy, choice.reason) for choice in plan.choices if choice is not None
    ]
    assert stats.reads > 0 or plan.nbytes == 0
    assert stats.seconds > 0
    assert stats.cpu_seconds >= 0
    assert stats.gigabytes_per_second == pytest.approx(stats.bytes / stats.seconds / 1e9)
    assert stats.peak_buffer_bytes >= max((op.nbytes for op in plan.ops), default=0)
    if plan.ops:
        assert stats.first_tensor_seconds is not None
        assert 0 < stats.first_tensor_seconds <= stats.seconds
    else:
        assert stats.first_tensor_seconds is None


def check_progress(reports: Sequence[Progress], plan: ReadPlan) -> None:
    """Nothing goes back, and the last report is of the end."""
    assert reports
    for before, after in itertools.pairwise(reports):
        assert before.bytes_read <= after.bytes_read
        assert before.tensors_delivered <= after.tensors_delivered
        assert before.seconds <= after.seconds
    assert {(report.bytes_total, report.tensors_total) for report in reports} == {(plan.nbytes, plan.tensor_count)}
    assert all(report.bytes_read <= report.bytes_total for report in reports)
    assert (reports[-1].bytes_read, reports[-1].tensors_delivered) == (plan.nbytes, plan.tensor_count)


@given(data=st.data(), shards=sharded(), form=forms(), how=options())
@settings(max_examples=60, deadline=None)
def test_all_views_of_a_load_agree(data: st.DataObject, shards: list[Any], form: Form, how: Options) -> None:
    """For any checkpoint and selection, inspect, plan, stream, load, stats and progress tell the same story."""
    with tempfile.TemporaryDirectory() as folder:
        uri = cast(Any, write_checkpoint(Path(folder), shards, form))
        contents = {name: tensor for shard in shards for name, tensor in shard.items()}
        checkpoint = slipstream.inspect(uri)
        assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in checkpoint.tensors} == {
            name: (dtype, shape) for name, (dtype, shape, _) in contents.items()
        }
        assert [(t.blob, t.start, t.end) for t in checkpoint.tensors] == sorted(
            (t.blob, t.start, t.end) for t in checkpoint.tensors
        )
        assert checkpoint.nbytes == sum(len(tensor[2]) for tensor in contents.values())
        for tensor in checkpoint.tensors:
            with open(checkpoint.blobs[tensor.blob].uri, "rb") as file:
                file.seek(tensor.start)
                assert file.read(tensor.nbytes) == contents[tensor.name][2]

        _, wanted = data.draw(selections(list(contents)))
        plan = slipstream.plan(uri, names=wanted, options=how)
        assert plan.checkpoint == checkpoint
        check_covers(plan, [tensor for tensor in checkpoint.tensors if tensor.name in wanted])

        reports: list[Progress] = []
        with slipstream.stream(uri, names=wanted, options=how, progress=reports.append) as tensors:
            streamed = dict(tensors)
        assert set(tensors.plan.ops) == set(plan.ops)
        check_stats(tensors.stats(), tensors.plan)
        check_progress(reports, tensors.plan)
        loaded = slipstream.load(uri, names=wanted, options=how)
        assert {n: tensor_bytes(t) for n, t in streamed.items()} == {n: tensor_bytes(t) for n, t in loaded.items()}
        assert {n: tensor_bytes(t) for n, t in loaded.items()} == {name: contents[name][2] for name in wanted}


def test_metadata_lies_beside_its_blob(tmp_path: Path) -> None:
    """inspect gives each file's own metadata, empty where a file has none."""
    tensor = (Dtype.U8, (2,), b"ab")
    write_safetensors(tmp_path / "a.safetensors", {"x": tensor}, {"format": "pt", "ключ": "значение"})
    write_safetensors(tmp_path / "b.safetensors", {"y": tensor})
    checkpoint = slipstream.inspect(tmp_path)
    assert [Path(blob.uri).name for blob in checkpoint.blobs] == ["a.safetensors", "b.safetensors"]
    assert [dict(metadata) for metadata in checkpoint.metadata] == [{"format": "pt", "ключ": "значение"}, {}]


def test_stats_of_an_unfinished_stream(tmp_path: Path) -> None:
    """While a stream runs its figures count what was delivered, and they stand still once it is closed."""
    write_flat(tmp_path / "a.safetensors", {f"t{number}": 50_000 for number in range(20)})
    with slipstream.stream(tmp_path, options=Options(chunk_bytes=50_000, memory_limit=100_000)) as tensors:
        before = tensors.stats()
        assert (before.bytes, before.tensors, before.first_tensor_seconds) == (0, 0, None)
        next(tensors)
        during = tensors.stats()
        assert (during.bytes, during.tensors) == (50_000, 1)
        assert during.first_tensor_seconds is not None
        assert during.first_tensor_seconds <= during.seconds
    after = tensors.stats()
    assert (after.bytes, after.tensors) == (50_000, 1)
    assert tensors.stats().bytes == after.bytes


def test_no_tensor_selected(tmp_path: Path) -> None:
    """An empty selection loads nothing and has figures of nothing."""
    write_flat(tmp_path / "a.safetensors", {"a": 10})
    reports: list[Progress] = []
    with slipstream.stream(tmp_path, names=[], progress=reports.append) as tensors:
        assert list(tensors) == []
    stats = tensors.stats()
    assert (stats.bytes, stats.tensors, stats.reads, stats.files) == (0, 0, 0, ())
    assert slipstream.load(tmp_path, names=lambda name: False) == {}


def test_exhausted_stream_stays_exhausted(tmp_path: Path) -> None:
    """A stream that came to its end raises StopIteration again and again, also after it was closed."""
    write_flat(tmp_path / "a.safetensors", {"a": 10})
    with slipstream.stream(tmp_path) as tensors:
        assert len(list(tensors)) == 1
        assert list(tensors) == []
    assert list(tensors) == []


def test_error_in_progress_callable_ends_the_stream(tmp_path: Path) -> None:
    """What the caller's progress function raises reaches the caller."""
    write_flat(tmp_path / "a.safetensors", {"a": 10})

    def fail(progress: Progress) -> None:
        raise LookupError("from the caller")

    with pytest.raises(LookupError, match="from the caller"):
        slipstream.load(tmp_path, progress=fail)


@pytest.mark.parametrize("strategy", ["mapped", "direct", "buffered"])
def test_forced_strategy_is_reported(strategy: str, tmp_path: Path) -> None:
    """A strategy that the options force is the one in plan and stats."""
    content = make_content(Dtype.F32, (5000,), seed=3)
    write_safetensors(tmp_path / "a.safetensors", {"a": (Dtype.F32, (5000,), content)})
    how = Options(strategy=cast(Any, strategy))
    assert [choice and choice.strategy for choice in slipstream.plan(tmp_path, options=how).choices] == [strategy]
    with slipstream.stream(tmp_path, options=how) as tensors:
        assert [tensor_bytes(tensor) for _, tensor in tensors] == [content]
    assert [file.strategy for file in tensors.stats().files] == [strategy]
