"""The tables: the document's layout, our figures beside the published ones, and nothing that vanishes."""

from __future__ import annotations

from dataclasses import replace

from slipstream.bench.report.appendix import appendix_tables, ready_table
from slipstream.bench.report.choices import choices_table
from slipstream.bench.report.conditions import storages_table, warnings
from slipstream.bench.report.document import Table
from slipstream.bench.report.extended import extended_table, failures_table
from slipstream.bench.report.headline import against, headline_card
from slipstream.bench.report.results import Place, group_records
from slipstream.bench.report.story import tell_story
from tests.bench.synthetic_results import (
    GP3,
    IO2,
    S3,
    WHOLE,
    awkward,
    gp3,
    lost,
    make_record,
    s3,
    vllm,
)

TEN_GB = replace(WHOLE, nbytes=10_000_000_000)


def only(*records: object) -> Place:
    (place,) = group_records(records)  # type: ignore[arg-type]
    return place


def cells(table: Table, row: str) -> dict[str, str]:
    """One row by its first cell: column titles and texts."""
    (found,) = [each for each in table.rows if each.cells[0] == row]
    return dict(zip([column.title for column in table.columns], found.cells, strict=True))


def level(contender: str, concurrency: int, seconds: float) -> object:
    name = "num_readers" if contender == "tensorizer" else "concurrency"
    label = f"{concurrency} readers" if contender == "tensorizer" else f"concurrency {concurrency}"
    return make_record(contender, label, seconds=seconds, model=TEN_GB, settings={name: concurrency})


def test_streamers_beside_the_published_figure() -> None:
    """slipstream and Run:ai stand beside the document's figure, and ratios are of seconds per GB."""
    table = appendix_tables(only(level("slipstream", 4, 8.0), level("runai", 4, 10.0)))[0]
    row = cells(table, "4")
    assert (row["slipstream (s)"], row["Run:ai (s)"], row["Run:ai published (s)"]) == ("8.00", "10.00", "14.43")
    assert (row["slipstream (s/GB)"], row["Run:ai (s/GB)"], row["Published (s/GB)"]) == ("0.800", "1.000", "0.962")
    assert row["slipstream ÷ Run:ai"] == "0.80"
    assert row["Run:ai ÷ published"] == "1.04"  # 10 s for 10 GB beside 14.43 s for 15 GB
    assert row["slipstream ÷ published"] == "0.83"


def test_levels_of_either_side_have_a_row() -> None:
    """A level that only the document has, or only we have, stands in the table with a dash for the other."""
    table = appendix_tables(only(level("slipstream", 4, 8.0), level("slipstream", 24, 7.0)))[0]
    assert [row.cells[0] for row in table.rows] == ["1", "4", "8", "16", "24"]
    assert cells(table, "24")["Run:ai published (s)"] == "–"
    assert cells(table, "16")["slipstream (s)"] == "–"
    assert cells(table, "16")["Run:ai published (s)"] == "14.34"


def test_layout_of_each_appendix() -> None:
    """Each experiment has the document's tables, named after its appendix; S3 has none of safetensors."""
    captions = {place.experiment: [table.caption for table in appendix_tables(place)] for place in group_records(
        [*gp3(rounds=1), *s3(rounds=1)])}  # fmt: skip
    assert captions["gp3"] == [
        "Appendix A, GP3 SSD: slipstream and Run:ai Model Streamer by concurrency",
        "Appendix A, GP3 SSD: Hugging Face safetensors loader",
        "Appendix A, GP3 SSD: Tensorizer",
        "Loaders that the document does not have",
    ]
    assert captions["s3"] == [
        "Appendix C, Amazon S3: slipstream and Run:ai Model Streamer by concurrency",
        "Appendix C, Amazon S3: Tensorizer",
    ]


def test_published_loader_that_was_not_measured_stays() -> None:
    """Where we did not measure tensorizer and safetensors, the document's figures stand there alone."""
    tables = appendix_tables(only(make_record("slipstream")))
    tensorizer = next(table for table in tables if "Tensorizer" in table.caption)
    assert len(tensorizer.rows) == 7
    assert cells(tensorizer, "64")["Published (s)"] == "16.44"
    safetensors = next(table for table in tables if "safetensors" in table.caption)
    assert [row.cells for row in safetensors.rows] == [("as published", "47.99", "3.20")]


def test_safetensors_settings_stand_beside_the_one_figure() -> None:
    """The document's single figure is beside each of our settings, as its cell spans all rows there."""
    place = only(
        make_record("safetensors", "get_tensor", seconds=32.0, model=TEN_GB),
        make_record("safetensors", "pread", seconds=16.0, model=TEN_GB, settings={"backend": "pread"}),
    )
    table = appendix_tables(place)[1]
    assert cells(table, "get_tensor")["÷ published"] == "1.00"
    assert cells(table, "pread")["÷ published"] == "0.50"


def test_model_and_destination_are_named() -> None:
    """A table with published figures says which model went where, ours and theirs."""
    (note,) = appendix_tables(only(level("runai", 4, 8.0)))[0].notes
    assert "Ours 10.00 GB to cpu, published 15 GB to a GPU" in note


def test_unknown_experiment_has_no_published_columns() -> None:
    """An experiment of one's own has the same tables without figures of the document."""
    tables = appendix_tables(
        only(make_record("slipstream", experiment="nvme"), make_record("runai", experiment="nvme"))
    )
    assert [table.caption for table in tables] == ["slipstream and Run:ai Model Streamer by concurrency"]
    assert not any("ublished" in column.title for column in tables[0].columns)


def test_failed_and_unavailable_stand_in_the_table() -> None:
    """A loader that failed or cannot run is in its table with that word, and its reason in the table of reasons."""
    failed = lost(make_record("tensorizer", "8 readers", settings={"num_readers": 8}), "failed", "it\nstopped")
    absent = lost(make_record("instanttensor"), "unavailable", "needs CUDA")
    place = only(make_record("slipstream"), failed, absent)
    tables = appendix_tables(place)
    assert cells(next(each for each in tables if "Tensorizer" in each.caption), "8")["Time to load (s)"] == "failed"
    assert cells(tables[-1], "InstantTensor, defaults")["Time to load (s)"] == "cannot run"
    reasons = failures_table(place)
    assert reasons is not None
    assert cells(reasons, "Tensorizer, 8 readers")["Why"] == "it stopped"
    assert cells(reasons, "InstantTensor, defaults")["Why"] == "needs CUDA"
    assert cells(extended_table(place), "8 readers")["Samples"] == "0 of 1"


def test_partly_failed_counts_its_samples() -> None:
    """Where one of three samples failed, the table has the medians of two and says so."""
    records = [make_record("runai", seconds=s, round_=n) for n, s in enumerate((1.0, 2.0))]
    place = only(*records, lost(make_record("runai", round_=2), "failed", "reset by peer"))
    row = cells(extended_table(place), "defaults")
    assert (row["Samples"], row["Median (s)"]) == ("2 of 3", "1.50")
    reasons = failures_table(place)
    assert reasons is not None
    assert cells(reasons, "Run:ai Model Streamer, defaults")["Samples"] == "1 of 3"


def test_extended_figures() -> None:
    """Throughput, fraction of the floor, CPU and memory are worked out from the medians."""
    figures = {
        "cpu_s": 4.0,
        "peak_memory_bytes": TEN_GB.nbytes + 64 * 2**20,
        "first_tensor_s": 0.25,
        "device_read_bytes": 10_100_000_000,
    }
    samples = [make_record("slipstream", seconds=s, model=TEN_GB, figures=figures, round_=n)
               for n, s in enumerate((5.0, 4.0, 8.0))]  # fmt: skip
    floor = make_record("floor", "direct, 8 threads", seconds=4.5, model=TEN_GB)
    row = cells(extended_table(only(*samples, floor)), "defaults")
    assert row == {
        "Setting": "defaults",
        "Samples": "3",
        "Median (s)": "5.00",
        "Lowest to highest (s)": "4.00 to 8.00",
        "GB/s": "2.00",
        "Of the floor": "90 %",
        "First tensor (s)": "0.250",
        "CPU (s/GB)": "0.40",
        "Memory above the model (MiB)": "64",
        "Page cache growth (GB)": "0.00",
        "Read from the device (GB)": "10.10",
        "Verified": "yes",
    }


def test_memory_on_a_gpu_is_the_hosts() -> None:
    """Where the model goes to a GPU, the host's peak is shown whole, and a note says so."""
    record = make_record("slipstream", destination="cuda:0", figures={"peak_memory_bytes": 512 * 2**20})
    table = extended_table(only(record))
    assert cells(table, "defaults")["Memory above the model (MiB)"] == "512"
    assert any("Memory is the host's" in note for note in table.notes)


def test_many_tensors_show_tensors_a_second() -> None:
    """Where a model has very many tensors, the table says how many were handed out in a second."""
    small = replace(WHOLE, tensors=90_000)
    table = extended_table(only(make_record("slipstream", seconds=0.5, model=small)))
    assert cells(table, "defaults")["Tensors/s"] == "180,000"
    assert "Tensors/s" not in [column.title for column in extended_table(only(make_record("slipstream"))).columns]


def test_vllm_by_loader() -> None:
    """Appendix D's table has our times beside the document's, and both as multiples of the default loader's."""
    places = group_records(vllm(rounds=1))
    table = ready_table(places[0])
    assert table.caption == "Appendix D, for GP3 SSD storage: vLLM with different loaders"
    row = cells(table, "Run:ai Model Streamer")
    assert row["Published (s)"] == "35.08"
    assert row["÷ safetensors, published"] == "0.53"
    assert cells(table, "safetensors")["÷ safetensors"] == "1.00"
    assert cells(table, "Tensorizer")["Total time until vLLM is ready (s)"] == "cannot run"
    from_s3 = ready_table(places[1])
    assert cells(from_s3, "Tensorizer")["÷ Run:ai Model Streamer, published"] == "2.81"


def test_vllm_has_no_throughput() -> None:
    """vLLM's seconds are mostly not loading, so no bytes a second are made of them; how they scatter is shown."""
    table = extended_table(group_records(vllm())[0])
    titles = [column.title for column in table.columns]
    assert "GB/s" not in titles
    assert "Of the floor" not in titles
    assert "Lowest to highest (s)" in titles


def test_headline_is_the_defaults_beside_the_best_peer() -> None:
    """slipstream's defaults are held against each peer's best setting, by bytes where sizes differ."""
    records = [make_record("slipstream", seconds=2.0 + n / 100, round_=n) for n in range(3)]
    records += [make_record("slipstream", "concurrency 4", seconds=1.0, settings={"concurrency": 4})]
    records += [make_record("runai", seconds=9.0), make_record("tensorizer", "8 readers", seconds=4.0 + 0.01,
                settings={"num_readers": 8})]  # fmt: skip
    records += [make_record("tensorizer", "8 readers", seconds=4.0 + n / 100, round_=n, settings={"num_readers": 8})
                for n in (1, 2)]  # fmt: skip
    card = headline_card(only(*records))
    assert card is not None
    assert (card.figure, card.unit) == ("2.01", "s")
    assert card.lines[1] == "2.00 × as fast as the fastest other loader, Tensorizer, 8 readers (4.01 s)."


def test_headline_claims_no_more_than_the_samples_allow() -> None:
    """Few samples, overlapping samples and slower samples are each called what they are."""

    def place(ours: tuple[float, ...], theirs: tuple[float, ...]) -> Place:
        return only(
            *(make_record("slipstream", seconds=s, round_=n) for n, s in enumerate(ours)),
            *(make_record("runai", seconds=s, round_=n) for n, s in enumerate(theirs)),
        )

    def words(ours: tuple[float, ...], theirs: tuple[float, ...]) -> str:
        found = place(ours, theirs)
        return against(found.of("slipstream")[0], found.best_peer)

    assert "may be noise" in words((1.0,), (2.0,))
    assert "within the scatter" in words((1.0, 1.2, 0.9), (1.1, 1.0, 1.3))
    assert words((2.0, 2.01, 1.99), (1.0, 1.01, 0.99)).startswith("Slower than the fastest other loader: 2.00 ×")
    assert words((1.0, 1.01, 0.99), (1.0, 1.01, 0.99)).startswith("As fast as")
    assert "2.00 × as fast as" in words((1.0, 1.01, 0.99), (2.0, 2.01, 1.99))


def test_throttle_that_did_not_hold_is_said() -> None:
    """A storage that was faster than its limit, slower, or never measured is told in a warning and in the table."""
    faster = replace(GP3, held={"bytes_per_s": 2 * GP3.limits["bytes_per_s"]})
    unmeasured = replace(GP3, held={})
    for storage, words in ((faster, "did not hold"), (IO2, "slower than the limit"), (unmeasured, "not measured")):
        record = make_record("slipstream", storage=storage)
        places = group_records([record])
        assert any(words in warning for warning in warnings(places, [record])), words
    held = storages_table([make_record("slipstream")]).rows[0].cells
    assert held[3].startswith("yes: 1,000 MiB/s, 100 % of the limit")
    late = replace(S3, held={"first_byte_s": 0.001})
    assert any("sooner" in each for each in warnings(group_records([make_record("slipstream", storage=late)]), []))


def test_storages_of_all_runs_are_listed() -> None:
    """Of two runs each has its own row of what its throttle held, and one that did not hold is warned of."""
    loose = replace(GP3, held={**GP3.held, "device_bytes_per_s": 2.5e9, "bytes_per_s": 2e9})
    records = [make_record("slipstream"), make_record("slipstream", run="run-2", round_=1, storage=loose)]
    held = [row.cells[3] for row in storages_table(records).rows]
    assert [text.partition(":")[0] for text in held] == ["yes", "no"]
    assert "without it 2,384 MiB/s" in held[1]
    assert any("did not hold" in warning for warning in warnings(group_records(records), records))


def test_what_slipstream_chose() -> None:
    """Strategies and their reasons, fallbacks and healed failures stand in the report, the same ones once."""
    notes = {"strategies": ["mapped: it is local"], "fallbacks": ["O_DIRECT was refused"], "retries": 2}
    records = [make_record("slipstream", notes=notes, round_=n) for n in range(2)]
    (place,) = group_records([*records, make_record("runai")])
    table = choices_table(place)
    assert table is not None
    assert cells(table, "defaults") == {
        "Setting": "defaults",
        "How it read, and why": "mapped: it is local",
        "Fallbacks": "O_DIRECT was refused",
        "Retries": "2",
    }
    assert choices_table(group_records([make_record("slipstream")])[0]) is None


def test_warnings_name_what_weakens_a_figure() -> None:
    """A missing floor, unverified tensors, single samples, mixed commits and mixed versions are warned of."""
    records = [
        make_record("slipstream", verified=False),
        make_record("slipstream", round_=1, commit="another+changes"),
        make_record("runai"),
        make_record("runai", round_=1, versions={"runai-model-streamer": "0.16.0"}),
        make_record("safetensors"),
        make_record("slipstream", model=replace(WHOLE, nbytes=8_000_000)),
    ]
    found = " ".join(warnings(group_records(records), records))
    for words in (
        "no raw floor",
        "not verified",
        "one sample only",
        "2 commits",
        "several versions (runai-model-streamer 0.16.0 and 0.17.0)",
        "in no commit",
        "8.0 MB shows what starting up takes",
    ):
        assert words in found, words
    assert warnings(group_records(gp3()), gp3()) == []


def test_commits_of_different_rows_are_not_mixed() -> None:
    """Where each row is of one commit, no median mixes any, though the report holds several."""
    records = [
        make_record("slipstream", round_=n, commit=commit, label=commit, settings={"strategy": commit})
        for commit in ("a", "b")
        for n in range(2)
    ]
    assert not any("commit" in warning for warning in warnings(group_records(records), records))


def test_every_entry_and_reason_is_in_the_report() -> None:
    """Whatever was measured or lost, by whatever name, stands in a table of the report."""
    records = [*awkward(), *vllm(rounds=1), *gp3(rounds=1)]
    document = tell_story(sorted(records, key=lambda record: record.taken_at))
    texts = {cell for table in document.tables for row in table.rows for cell in row.cells}
    for record in records:
        assert any(record.label in text for text in texts), record.label
        if record.reason:
            assert " ".join(record.reason.split()) in texts


def test_rows_fit_their_columns() -> None:
    """No table of any report has a row with more or fewer cells than columns, also without optional columns."""
    for records in (awkward(), gp3(rounds=1), s3(), vllm(), [make_record("floor", "direct, 8 threads")]):
        for table in tell_story(sorted(records, key=lambda record: record.taken_at)).tables:
            assert {len(row.cells) for row in table.rows} <= {len(table.columns)}
