"""The published figures as data: all of them, as printed, with where they come from."""

from __future__ import annotations

from collections import Counter

import pytest

from slipstream.bench.report.published import PublishedTable, read_published


def find(experiment: str, storage: str, loader: str) -> PublishedTable:
    table = read_published().table(experiment, storage, loader)
    assert table is not None
    return table


def test_every_cell_is_there() -> None:
    """Each appendix has as many figures as the document's tables, and they add up to the same sum."""
    tables = read_published().tables
    cells = Counter(table.appendix for table in tables for _ in table.cells)
    assert cells == {"A": 12, "B": 11, "C": 9, "D": 8}
    sums = {name: sum(c.seconds for t in tables if t.appendix == name for c in t.cells) for name in "ABCD"}
    assert sums == pytest.approx({"A": 289.89, "B": 214.87, "C": 301.58, "D": 347.61})
    levels = [cell.at for table in tables for cell in table.cells if cell.at is not None]
    assert (len(levels), sum(levels)) == (30, 680)


@pytest.mark.parametrize(
    ("experiment", "storage", "loader", "at", "seconds"),
    [
        ("gp3", "gp3", "runai", 1, 47.56),
        ("gp3", "gp3", "runai", 16, 14.34),
        ("gp3", "gp3", "safetensors", None, 47.99),
        ("gp3", "gp3", "tensorizer", 100, 16.81),
        ("io2", "io2", "runai", 20, 7.62),
        ("io2", "io2", "safetensors", None, 47),
        ("io2", "io2", "tensorizer", 8, 10.36),
        ("s3", "s3", "runai", 32, 4.88),
        ("s3", "s3", "tensorizer", 80, 41.43),
        ("vllm", "gp3", "safetensors", None, 66.13),
        ("vllm", "io2", "runai", None, 28.28),
        ("vllm", "s3", "tensorizer", None, 65.18),
    ],
)
def test_figures(experiment: str, storage: str, loader: str, at: int | None, seconds: float) -> None:
    """A few figures of each table stand where the document has them."""
    assert find(experiment, storage, loader).seconds(at) == seconds


def test_levels_are_the_documents() -> None:
    """The sweeps are those of the document, in its order."""
    assert [cell.at for cell in find("gp3", "gp3", "runai").cells] == [1, 4, 8, 16]
    assert [cell.at for cell in find("gp3", "gp3", "tensorizer").cells] == [1, 4, 8, 16, 32, 64, 100]
    assert [cell.at for cell in find("io2", "io2", "runai").cells] == [1, 4, 8, 16, 20]
    assert [cell.at for cell in find("io2", "io2", "tensorizer").cells] == [1, 4, 8, 16, 32]
    assert [cell.at for cell in find("s3", "s3", "runai").cells] == [4, 16, 32, 64]
    assert [cell.at for cell in find("s3", "s3", "tensorizer").cells] == [8, 16, 32, 64, 80]


def test_what_the_document_left_out_is_absent() -> None:
    """safetensors was not measured from S3, and a level that was not measured has no figure."""
    published = read_published()
    assert published.table("s3", "s3", "safetensors") is None
    assert published.table("vllm", "s3", "safetensors") is None
    assert find("gp3", "gp3", "runai").seconds(32) is None


def test_shown_as_printed() -> None:
    """A figure without decimals gets none."""
    assert [cell.printed for cell in find("io2", "io2", "safetensors").cells] == ["47"]
    assert find("gp3", "gp3", "runai").best.printed == "14.34"


def test_source_is_named() -> None:
    """Hardware, versions and sizes stand beside the figures; a date that the document lacks is not made up."""
    published = read_published()
    assert published.source["title"] == "Run:ai Model Streamer Benchmarks"
    assert published.source["date"] is None
    assert published.hardware["instance"] == "AWS g5.12xlarge"
    assert published.software["Run:ai Model Streamer"] == "0.6.0"
    assert published.software["Tensorizer"] == "2.9.0"
    assert published.storages["gp3"]["throughput_mib_per_s"] == 1000
    assert published.storages["io2"]["iops"] == 100_000


def test_size_fits_the_storages_limit() -> None:
    """With the bytes that the size is taken as, the fastest time on GP3 stays within the volume's throughput."""
    published = read_published()
    seconds = find("gp3", "gp3", "runai").best.seconds
    mib_per_s = published.model["nbytes"] / seconds / 2**20
    assert 990 < mib_per_s <= 1000
