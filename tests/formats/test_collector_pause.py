"""Pausing the cycle collector leaves it as it was, whoever else pauses it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from slipstream.formats.collector_pause import collector_paused


@pytest.fixture(autouse=True)
def collector_on() -> Iterator[None]:
    """Each test begins, and leaves others, with the collector on."""
    gc.enable()
    yield
    gc.enable()


def test_overlapping_blocks() -> None:
    """Of two blocks that overlap, as in two threads, the last to end turns the collector on again."""
    first, second = collector_paused(), collector_paused()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_off_before() -> None:
    """A collector that the application turned off stays off."""
    gc.disable()
    with collector_paused():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_error_in_the_block() -> None:
    """An error ends the pause as well."""
    with pytest.raises(ValueError, match="inside"), collector_paused():
        raise ValueError("inside")
    assert gc.isenabled()


def test_fork_in_the_block() -> None:
    """A process forked while another thread parses has its collector on, and can pause it."""
    with collector_paused():
        child = os.fork()
        if child == 0:
            found = gc.isenabled()
            with collector_paused():
                paused = not gc.isenabled()
            os._exit(0 if found and paused and gc.isenabled() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gc.isenabled()
