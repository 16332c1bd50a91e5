"""What is done once before the first sample: is there a vLLM, does it serve this model at all, and what does it say?

    VllmPlan(model, python)
        .why_not(contender, ...)    "" or why it cannot be measured here
        .first_answer()             of an untimed start by the default loader, from where the model lies: what is
                                    compiled is compiled then, and what it says is what all others must say
        .tensorizer_copy()          made for vLLM, and tried

What was found out lies in the model's cache, so that the next run finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.bench.errors import BenchError
from slipstream.bench.vllm.copies import find_copy
from slipstream.bench.vllm.engine import find_engine
from slipstream.bench.vllm.formats import AUTO, find_format
from slipstream.bench.vllm.served import Served, keep_finding, read_finding
from slipstream.bench.vllm.start import measure_start

if TYPE_CHECKING:
    from slipstream.bench.models import Model, Report

# Nothing is compiled and no graph is captured, which would take longer than the weights; and room for short requests.
ARGUMENTS = ("--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4", "--max-num-batched-tokens", "512")


class VllmPlan:
    """One model and one vLLM. Everything is found out when it is asked for, and once. For one thread."""

    def __init__(self, model: Model, python: Path | None = None, arguments: tuple[str, ...] = ARGUMENTS) -> None:
        """
        Args:
            model: what is served.
            python: the interpreter that has vLLM; None is this one.
            arguments: what vLLM is started with, beside what says which model it is and how it is loaded.
        """
        self._model = model
        self._python = python
        self._arguments = arguments
        self._failures: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<VllmPlan of {self._model.name} for {self._python or 'this interpreter'}>"

    @cached_property
    def served(self) -> Served:
        """The model, and the vLLM of the interpreter.

        Raises:
            BenchError: it has none.
        """
        return Served(self._model, find_engine(self._python), self._arguments)

    def why_not(
        self, contender: str, *, schemes: frozenset[str], destination: str, report: Report | None = None
    ) -> str:
        """Why a contender cannot be measured here, in one line; "" where it can.

        Args:
            contender: whose load format.
            schemes: of the URIs that it would load.
            destination: "cpu", "cuda:0".
            report: shown how it goes: what has to be found out for the answer is found out now.
        """
        load_format = find_format(contender)
        try:
            refusal = self.served.engine.why_not(load_format, schemes, destination)
            if not refusal and load_format.needs_tensorizer:
                self.tensorizer_copy(report)
            elif not refusal:
                self.first_answer(report)
        except BenchError as error:
            return str(error)
        return refusal

    def first_answer(self, report: Report | None = None) -> str:
        """What vLLM says with the default loader, from where the model lies.

        Raises:
            BenchError: it does not serve this model here.
        """
        kept = self.served.folder / "answer.json"
        found = read_finding(kept)
        if found is None:
            self._once("answer", lambda: self._start_first(kept, report))
            found = read_finding(kept)
            assert found is not None
        return str(found["answer"])

    def tensorizer_copy(self, report: Report | None = None) -> Path:
        """The model as vLLM's load format tensorizer reads it; made and tried if need be.

        Raises:
            BenchError: vLLM cannot serve it from such a copy; the message says what was tried.
        """
        answer = self.first_answer(report)
        return find_copy(self.served, answer, report)

    def _start_first(self, kept: Path, report: Report | None) -> None:
        served = self.served
        if report is not None:
            report(f"starting vLLM {served.engine.version} a first time, untimed", 0, 0)
        try:
            started = measure_start(served.start_request(AUTO.contender, served.where_it_lies()))
        except BenchError as error:
            raise BenchError(f"vLLM {served.engine.version} does not serve this model here: {error}") from error
        keep_finding(kept, answer=started.answer, health_s=started.health_s)

    def _once(self, what: str, find_out: Callable[[], None]) -> None:
        """Finds something out; what failed once is not tried again."""
        if what in self._failures:
            raise BenchError(self._failures[what])
        try:
            find_out()
        except BenchError as error:
            self._failures[what] = str(error)
            raise
