"""File systems that the tests mount for themselves: FUSE ones, and those of the kernel. What cannot be, skips."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipstream.testing.faulty_fs import FaultyFs, why_unavailable


@contextmanager
def mount_faulty(folder: Path) -> Iterator[tuple[FaultyFs, Path]]:
    """The faulty file system over a new directory; gives both."""
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(f"no FUSE file system can be mounted: {reason}")
    source, mount_point = folder / "source", folder / "faulty"
    source.mkdir()
    mount_point.mkdir()
    with FaultyFs(source, mount_point) as faulty:
        yield faulty, source


@contextmanager
def mount_bindfs(source: Path, mount_point: Path) -> Iterator[None]:
    """`source`, seen a second time through bindfs, a FUSE file system written in C."""
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse cannot be opened")
    made = subprocess.run(["bindfs", str(source), str(mount_point)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"bindfs cannot mount: {made.stderr.strip()}")
    try:
        yield
    finally:
        unmount = ["umount"] if os.geteuid() == 0 else [shutil.which("fusermount3") or "fusermount", "-u"]
        subprocess.run([*unmount, str(mount_point)], check=True)


@contextmanager
def mount_in_memory(filesystem: str, mount_point: Path) -> Iterator[None]:
    """An empty tmpfs or ramfs."""
    command = ["mount", "-t", filesystem, filesystem, str(mount_point)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting a {filesystem} takes root: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)
