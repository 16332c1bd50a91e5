"""vLLM's log: how long the weights took, and why it did not start. The logs are vLLM 0.32's own, cut down."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.bench.vllm.log import NOT_REPORTED, explain_failure, parse_weights

LOGS = Path(__file__).parent / "vllm_logs"
TIMED = "slipstream-bench: load_weights took 1.340012 s\nslipstream-bench: load_model took 4.881000 s\n"
# As v1/worker/gpu_model_runner.py of 0.32 words it; there was no GPU to take it from.
ON_GPU = (
    "(EngineCore pid=7) INFO 11-25 03:34:10 [base_loader.py:82] Initializing model took 0.250000 seconds\n"
    "(EngineCore pid=7) INFO 11-25 03:34:12 [gpu_model_runner.py:5149] "
    "Model loading took 14.96 GiB memory and 3.750000 seconds\n"
)


def read(name: str) -> str:
    return (LOGS / f"{name}.log").read_text()


def test_the_default_loader_says_how_long_the_weights_took() -> None:
    weights = parse_weights(read("auto"))
    assert weights.seconds == 1.35
    assert weights.source == "vLLM's log: Loading weights took"
    assert weights.reported == {"loading_weights_s": 1.35, "initializing_model_s": 0.262897, "init_engine_s": 0.81}


def test_the_streamer_does_not_say_it_on_a_cpu_and_so_it_is_not_reported() -> None:
    weights = parse_weights(read("runai_streamer"))
    assert weights.seconds is None
    assert weights.source == NOT_REPORTED
    assert weights.reported["initializing_model_s"] == 0.224112


@pytest.mark.parametrize("log", ["auto", "runai_streamer"])
def test_our_own_clock_comes_before_what_vllm_says(log: str) -> None:
    weights = parse_weights(read(log) + TIMED)
    assert weights.seconds == 1.340012
    assert weights.source == "timed around the loader's load_weights"


def test_a_loader_that_bypasses_load_weights_is_timed_as_a_whole() -> None:
    weights = parse_weights("slipstream-bench: load_model took 0.387500 s\n")
    assert (weights.seconds, weights.source) == (0.3875, "timed around the loader's load_model")


def test_on_a_gpu_the_models_initialisation_is_taken_off() -> None:
    weights = parse_weights(ON_GPU)
    assert weights.seconds == 3.5
    assert "without Initializing model" in weights.source


def test_of_several_ranks_the_slowest_counts() -> None:
    ranks = "".join(f"(Worker_TP{n} pid={n}) slipstream-bench: load_weights took {n}.5 s\n" for n in (1, 3, 2))
    assert parse_weights(ranks).seconds == 3.5


def test_a_log_without_any_of_these_lines_is_no_error() -> None:
    assert parse_weights("").source == parse_weights(read("usage")).source == NOT_REPORTED


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("tensorizer_unreadable", r"TypeError: data type '<V2\x00torch.bfloat16' not understood"),
        ("tensorizer_first_request", "AttributeError: 'QKVParallelLinear' object has no attribute 'cpu_linear'"),
        ("tensorizer_http", "ValueError: Non-HTTPS endpoint URLs are not allowed."),
        ("usage", "api_server.py: error: unrecognized arguments: --no-such-option"),
    ],
)
def test_a_failure_is_explained_by_its_root_cause(log: str, reason: str) -> None:
    assert explain_failure(read(log)) == reason


def test_where_only_the_second_hand_error_was_kept_that_one_is_named() -> None:
    last = read("tensorizer_unreadable").splitlines()[-1]
    assert explain_failure(last).startswith("RuntimeError: Engine core initialization failed.")


def test_without_an_exception_the_last_words_are_given() -> None:
    assert explain_failure("one\ntwo\n\nthree\nfour\n") == "two three four"
    assert explain_failure("\n") == "it wrote nothing"


def test_no_secret_and_no_signed_url_stands_in_an_explanation() -> None:
    log = "ValueError: a-secret-key was refused by https://host/key?X-Amz-Signature=abcdef\n"
    explained = explain_failure(log, {"a-secret-key"})
    assert "a-secret-key" not in explained
    assert "abcdef" not in explained
    assert explained.startswith("ValueError: ")
