"""What is recorded of the machine: facts that the kernel has, and counters that count."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from pathlib import Path

import pytest

from slipstream.bench.machine import (
    block_device,
    describe_machine,
    describe_mount,
    device_read_bytes,
    find_commit,
    package_versions,
    received_bytes,
)
from slipstream.bench.page_cache import make_cold


def test_describes_the_machine() -> None:
    """Processor, cores, memory, kernel and Python stand in it, as JSON values."""
    facts = describe_machine()
    assert facts["kernel"] == platform.release()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert int(facts["memory_bytes"]) > 1 << 28
    assert all(isinstance(value, str | int) and value != "" for value in facts.values())


def test_describes_a_mount(tmp_path: Path) -> None:
    """The innermost mount counts: its file system, and its disk where it has one."""
    found = describe_mount(tmp_path)
    assert os.path.ismount(found["point"])
    assert tmp_path.resolve().is_relative_to(found["point"])
    assert found["filesystem"]
    memory = describe_mount(Path("/proc/self"))
    assert (memory["point"], memory["filesystem"]) == ("/proc", "proc")
    assert "disk" not in memory


def test_counts_what_a_disk_reads(tmp_path: Path) -> None:
    """Reading a cold file adds at least its size to its disk's counter."""
    device = block_device(tmp_path)
    if device is None:
        pytest.skip("temporary files are on no block device")
    size = 4 << 20
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    make_cold([path])
    before = device_read_bytes(device)
    path.read_bytes()
    after = device_read_bytes(device)
    assert before is not None
    assert after is not None
    assert after - before >= size
    assert device_read_bytes("no such device") is None


def test_counts_what_loopback_receives() -> None:
    """Bytes that were sent to loopback are counted there."""
    size = 1 << 20
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = received_bytes(loopback=True)
        with socket.create_connection(server.getsockname()) as sender, server.accept()[0] as receiver:
            sender.settimeout(60)
            received = 0
            while received < size:
                sender.sendall(bytes(1 << 14))
                received += len(receiver.recv(1 << 14))
        assert received_bytes(loopback=True) - before >= size
    assert received_bytes(loopback=False) >= 0


def test_finds_the_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout of slipstream it is the commit at its head."""
    root = Path(__file__).parents[2]
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("these tests are in no checkout")
    monkeypatch.chdir(root)
    find_commit.cache_clear()
    assert head.stdout.startswith(find_commit().removesuffix("+changes"))
    find_commit.cache_clear()


def test_versions_of_what_is_installed() -> None:
    """Distributions that are not installed are left out."""
    found = package_versions("numpy", "no-such-distribution")
    assert set(found) == {"numpy"}
