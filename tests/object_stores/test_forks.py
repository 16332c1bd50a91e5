"""A process that used a store and then forks: the child lists, signs and reads, though its obstore is dead."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.testing.seaweedfs import SeaweedFS

BUCKET = "forks"

# What follows -c: the storage options. Each line of output is one thing that worked.
PROGRAM = """
import json, os, signal, sys
from slipstream.errors import SlipstreamError
from tests.object_stores.opening import get_plainly, open_source

options = json.loads(sys.argv[1])

def use(who):
    source = open_source("s3", options)
    listing = source.list_blobs("s3://forks/model")
    shard = source.find_blob(listing, "one.safetensors")
    assert get_plainly(source.access(shard).grant(), {})[1] == b"0123456789"
    assert source.read_range(shard, 2, 5) == b"234"
    assert source.read_range_by_store(shard, 2, 5) == b"234"
    try:
        source.list_blobs("s3://nobucket/")
    except SlipstreamError as error:
        assert "NoSuchBucket" in str(error), error
    print(who, flush=True)

def in_child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "it hung"

use("parent")
in_child(lambda: (use("child"), use("child again"), in_child(lambda: use("grandchild"))))
use("parent again")
"""


def run(program: str, server: SeaweedFS, **environment: str) -> list[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-P", "-c", program, json.dumps(server.storage_options)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]), **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def server(seaweedfs: SeaweedFS) -> SeaweedFS:
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(b"{}", BUCKET, "model/model.safetensors.index.json")
    seaweedfs.upload(b"0123456789", BUCKET, "model/one.safetensors")
    return seaweedfs


def test_children_and_grandchildren_list_sign_and_read(server: SeaweedFS) -> None:
    assert run(PROGRAM, server) == ["parent", "child", "child again", "grandchild", "parent again"]


def test_a_child_whose_parent_used_no_store_does_everything_itself(server: SeaweedFS) -> None:
    program = PROGRAM.partition('use("parent")')[0] + (
        'in_child(lambda: use("child"))\n'
        "from slipstream.sources import store_requests\n"
        "assert not store_requests._processes\n"
        'use("parent")\n'
    )
    assert run(program, server) == ["child", "parent"]


def test_the_helping_process_ends_with_its_child(server: SeaweedFS) -> None:
    program = PROGRAM.partition('use("parent")')[0] + (
        "use('parent')\n"
        "def work():\n"
        "    use('child')\n"
        "    from slipstream.sources import store_requests\n"
        "    print(store_requests._processes[os.getpid()]._process.pid, flush=True)\n"
        "in_child(work)\n"
    )
    pid = int(run(program, server)[-1])
    with contextlib.suppress(ProcessLookupError):  # gone already
        descriptor = os.pidfd_open(pid)
        with open(descriptor, "rb"):
            assert select.select([descriptor], [], [], 10)[0], "it is still there"


def test_a_helping_process_that_was_killed_is_an_error_and_then_started_anew(server: SeaweedFS) -> None:
    program = PROGRAM.partition('use("parent")')[0] + (
        "use('parent')\n"
        "def work():\n"
        "    use('child')\n"
        "    from slipstream.sources import store_requests\n"
        "    process = store_requests._processes[os.getpid()]._process\n"
        "    process.kill()\n"
        "    process.wait()\n"
        "    try:\n"
        "        open_source('s3', options).list_blobs('s3://forks/model')\n"
        "    except SlipstreamError as error:\n"
        "        print(type(error).__name__, flush=True)\n"
        "    use('child again')\n"
        "in_child(work)\n"
    )
    assert run(program, server) == ["parent", "child", "ReadError", "child again"]
