"""No key, token or signature is in any output: not in logs at their most talkative, not in reprs, not in errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from slipstream.testing.azurite import Azurite
from slipstream.testing.fake_gcs import FakeGcs
from slipstream.testing.seaweedfs import SeaweedFS

# What follows -c: a kind, a URI, storage options; then the same with options that are refused. Prints all it can.
PROGRAM = """
import faulthandler, gc, json, logging, sys, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from slipstream.sources import stores
from tests.object_stores.opening import open_source

kind, uri, good, bad = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])

def show(*values):
    print(*(f"{value!r} {value!s}" for value in values))

for options in (good, bad):
    source = open_source(kind, options)
    show(source, source.options)
    for at in (uri, uri + "x.safetensors", uri + "none.safetensors", uri + "none/"):
        try:
            listing = source.list_blobs(at)
            show(listing)
            for blob in listing.blobs:
                access = source.access(blob)
                show(access, access.grant(), access.advise(403, "AccessDenied", None), access.endpoint)
        except Exception as error:
            traceback.print_exc()
            show(error, error.args, error.__dict__, error.__cause__, error.__context__)
    show(*stores._opened.values(), *(found.credentials for found in stores._opened.values()))
print("END")
"""


def all_output(kind: str, uri: str, good: dict[str, str], bad: dict[str, str]) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-P", "-c", PROGRAM, kind, uri, json.dumps(good), json.dumps(bad)]
    talkative = {"RUST_LOG": "trace", "RUST_BACKTRACE": "1", "PYTHONDEVMODE": "1"}
    paths = os.pathsep.join([str(root / "src"), str(root)])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **talkative, "PYTHONPATH": paths}
    )
    assert "END" in done.stdout, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_s3(seaweedfs: SeaweedFS) -> None:
    seaweedfs.create_bucket("secrets")
    seaweedfs.upload(b"0123456789", "secrets", "x.safetensors")
    good = seaweedfs.storage_options
    bad = {**good, "secret_access_key": "wJalrXUtnFEMIK7MDENG", "session_token": "FQoGZXIvYXdzEXAMPLE"}
    output = all_output("s3", "s3://secrets/", good, bad)
    assert "x.safetensors" in output
    for secret in (seaweedfs.secret_access_key, "wJalrXUtnFEMIK7MDENG", "FQoGZXIvYXdzEXAMPLE", "X-Amz-Signature="):
        assert secret not in output


def test_azure(azurite: Azurite) -> None:
    azurite.create_bucket("secrets")
    azurite.upload(b"0123456789", "secrets", "x.safetensors")
    good = azurite.storage_options
    bare = {name: value for name, value in good.items() if name != "account_key"}
    bad = {**bare, "sas_token": "sv=2020-12-06&se=2099-01-01T00%3A00%3A00Z&sr=c&sp=rl&sig=c2VjcmV0c2lnbmF0dXJl"}
    output = all_output("az", "az://secrets/", good, bad)
    assert "x.safetensors" in output
    for secret in (good["account_key"], "c2VjcmV0c2lnbmF0dXJl", "sig="):
        assert secret not in output


def test_google(fake_gcs: FakeGcs) -> None:
    fake_gcs.create_bucket("secrets")
    fake_gcs.upload(b"0123456789", "secrets", "x.safetensors")
    bad = {"token": "ya29.secrettoken", "endpoint": fake_gcs.endpoint}
    output = all_output("gs", "gs://secrets/", fake_gcs.storage_options, bad)
    assert "x.safetensors" in output
    key = json.loads(fake_gcs.service_account.read_text())["private_key"]
    for secret in (key, key.splitlines()[1], "ya29.secrettoken", "X-Goog-Signature="):
        assert secret not in output
