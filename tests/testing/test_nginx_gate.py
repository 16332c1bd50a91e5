"""The gate of nginx: no answer before what stands there has said yes."""

from __future__ import annotations

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipstream.testing.nginx import Nginx, why_unavailable
from slipstream.testing.range_faults import Hold
from slipstream.testing.range_server import Faults, RangeServer


def test_answers_wait_for_the_gate(tmp_path: Path) -> None:
    """While the gate holds back nothing is answered; then the file comes, whole, at the rate that was set."""
    if (reason := why_unavailable()) is not None:
        pytest.skip(reason)
    content = bytes(range(256)) * 4000
    (tmp_path / "file").write_bytes(content)
    with RangeServer(tmp_path) as gate, ThreadPoolExecutor(1) as pool:
        gate.put("go", b"")
        gate.set_faults(Faults(Hold()))
        with Nginx(tmp_path, gate_port=gate.port, limit_rate="500m", piece_bytes=100_000) as server:
            answer = pool.submit(lambda: urllib.request.urlopen(server.url("file")).read())
            gate.wait_held(1)
            assert not answer.done()
            gate.release()
            assert answer.result(timeout=60) == content
        assert [request.path for request in gate.requests] == ["go"]
