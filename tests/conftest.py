"""What tests of more than one folder use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.testing.faulty_fs import FaultyFs
from tests.fuse.mounts import mount_faulty
from tests.server_fixtures import authority as authority
from tests.server_fixtures import azurite as azurite
from tests.server_fixtures import bare_environment as bare_environment
from tests.server_fixtures import fake_gcs as fake_gcs
from tests.server_fixtures import nginx as nginx
from tests.server_fixtures import seaweedfs as seaweedfs
from tests.server_fixtures import seaweedfs_tls as seaweedfs_tls

# A shell starts what it is told to run in the background with Ctrl-C ignored, nohup with SIGHUP ignored, and programs
# hand that on to those they start: the tests of signals would send them to programs that are deaf to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def faulty_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyFs, Path]]:
    with mount_faulty(tmp_path_factory.mktemp("fuse")) as mounted:
        yield mounted


@pytest.fixture
def faulty_fs(faulty_mount: tuple[FaultyFs, Path]) -> Iterator[tuple[FaultyFs, Path]]:
    """The faulty file system without a fault yet, and the directory behind it."""
    yield faulty_mount
    faulty_mount[0].reset()
