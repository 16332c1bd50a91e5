"""The commands on s3:// and http:// URIs, with --storage-option."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import slipstream
from slipstream.cli import arguments
from slipstream.cli.main import app
from slipstream.errors import UsageError
from slipstream.testing.range_faults import Status
from slipstream.testing.range_server import Faults, RangeServer, When
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.synthetic import write_checkpoint
from slipstream.testing.uploading import upload_checkpoint
from tests.cli.process import assert_harmless, command, environment, run, run_on_terminal
from tests.testing.s3_uploads import list_uploads

BUCKET = "command-line"
PREFIX = f"s3://{BUCKET}/tiny"
NUMPY = ("--framework", "numpy")


def as_arguments(storage_options: Mapping[str, str]) -> list[str]:
    """The options as one would type them."""
    return [word for key, value in storage_options.items() for word in ("--storage-option", f"{key}={value}")]


@pytest.fixture(scope="module")
def reached(seaweedfs: SeaweedFS) -> list[str]:
    """The arguments with which the store is reached. There is a tiny Llama in three shards at PREFIX."""
    seaweedfs.create_bucket(BUCKET)
    upload_checkpoint("llama-tiny", PREFIX, shards=3, storage_options=seaweedfs.storage_options)
    return as_arguments(seaweedfs.storage_options)


def test_load_shows_what_the_network_did(reached: list[str]) -> None:
    """The summary tells requests and connections; what did not happen, such as retries, is not in it."""
    done = run("load", PREFIX, "-q", *NUMPY, *reached)
    assert (done.returncode, done.stderr) == (0, "")
    facts = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert re.search(r"^requests +\d+ *$", facts["requests"])
    assert re.search(r"^connections +\d+, up to [123] reads? in flight *$", facts["connections"])
    assert "discarded" not in facts
    assert "model-00003-of-00003.safetensors" in done.stdout


def test_json_has_the_network_figures(reached: list[str]) -> None:
    """--json has every figure of the network, and the URIs."""
    stats = json.loads(run("load", PREFIX, "--json", *NUMPY, *reached).stdout)
    assert stats["bytes"] == 8_000_000
    assert stats["requests"] >= 7
    assert set(stats) >= {"retries", "hedged", "connections", "peak_concurrency", "discarded_bytes"}
    assert stats["files"][0]["uri"] == f"{PREFIX}/model-00001-of-00003.safetensors"


def test_local_loads_show_nothing_of_it(tiny: Path) -> None:
    """A load from a file system has no lines about requests and connections."""
    shown = run("load", tiny, "-q", *NUMPY).stdout
    assert "requests" not in shown
    assert "connections" not in shown


def test_retries_are_shown(tmp_path: Path) -> None:
    """A load that healed failures says how many requests were made again."""
    path = write_checkpoint("llama-tiny", tmp_path / "tiny").files[0]
    with RangeServer(path.parent) as server:
        server.set_faults(Faults(Status(503, when=When(first=2))))
        shown = run("load", server.url(path.name), "-q", *NUMPY).stdout
    assert re.search(r"requests +\d+, 2 of them again after a failure", shown)


def test_network_settings_reach_the_load(tmp_path: Path) -> None:
    """With --retries 0 the first failure ends the load; --deadline and --bandwidth-limit are checked by the library."""
    path = write_checkpoint("llama-tiny", tmp_path / "tiny").files[0]
    with RangeServer(path.parent) as server:
        server.set_faults(Faults(Status(503, when=When(first=1))))
        failed = run("load", server.url(path.name), "--retries", "0", *NUMPY)
        assert len(server.requests) == 1
    assert failed.returncode == 1
    assert "503" in failed.stderr
    for setting, name in ((("--deadline", "0"), "deadline_s"), (("--bandwidth-limit", "7"), "bandwidth_limit")):
        refused = run("plan", tmp_path, *setting)
        assert refused.returncode == 2
        assert name in refused.stderr


def test_remote_uris_are_looked_at_once(tmp_path: Path) -> None:
    """One request for the header and one for the tensor: what checks local paths beforehand makes none."""
    path = write_checkpoint("llama-tiny", tmp_path / "tiny").files[0]
    with RangeServer(path.parent) as server:
        assert run("load", server.url(path.name), "-q", *NUMPY, "--names", "lm_head.weight").returncode == 0
        assert len(server.requests) == 2


def test_wrong_path_beside_a_uri(tmp_path: Path) -> None:
    """A path that is not there is told before the network is asked."""
    done = run("load", "http://127.0.0.1:1/a.safetensors", tmp_path / "missing")
    assert done.returncode == 1
    assert "missing" in done.stderr
    assert "127.0.0.1" not in done.stderr


def test_plan_says_how_many_reads(reached: list[str]) -> None:
    """Where the load finds the number of reads by itself, the plan gives its bounds; a number given is one."""
    shown = run("plan", PREFIX, *reached).stdout
    assert re.search(r"in flight +32 reads, growing up to 128 while that is faster", shown)
    assert re.search(r"in flight +up to 3 reads", run("plan", PREFIX, "--concurrency", "3", *reached).stdout)
    plan = json.loads(run("plan", PREFIX, "--json", *reached).stdout)
    assert (plan["concurrency"], plan["most_concurrency"]) == (32, 128)


def test_inspect(reached: list[str]) -> None:
    """It names the objects shortly, and in JSON by their URIs, with their ETags."""
    done = run("inspect", PREFIX, *reached)
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line.startswith("model-00002-of-00003.safetensors") for line in done.stdout.splitlines())
    files = json.loads(run("inspect", PREFIX, "--json", *reached).stdout)["files"]
    assert [file["uri"] for file in files] == [f"{PREFIX}/model-{n:05}-of-00003.safetensors" for n in (1, 2, 3)]
    assert all(file["etag"] for file in files)


def test_environment_instead_of_options(reached: list[str], seaweedfs: SeaweedFS) -> None:
    """The variables that Amazon's tools know are enough."""
    env = {
        "AWS_ENDPOINT_URL": seaweedfs.endpoint,
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
        "AWS_REGION": "us-east-1",
    }
    assert run("inspect", PREFIX, env=env).returncode == 0


@pytest.mark.parametrize("name", ["load", "inspect", "plan"])
def test_refusals_show_no_secret(name: str, reached: list[str], seaweedfs: SeaweedFS) -> None:
    """A wrong secret ends with 1 and one paragraph; not even --debug shows it."""
    wrong = as_arguments({**seaweedfs.storage_options, "secret_access_key": "hush-hush-hush"})
    done = run(name, PREFIX, "--debug", *wrong)
    assert (done.returncode, done.stdout) == (1, "")
    assert "SignatureDoesNotMatch" in done.stderr
    assert "secret access key" in " ".join(done.stderr.split())
    assert "hush-hush-hush" not in done.stderr
    assert_harmless(done.stderr)


def test_signed_url(reached: list[str], seaweedfs: SeaweedFS) -> None:
    """A signed URL is loaded, and its query is shown nowhere; spoilt, it is refused with words about signed URLs."""
    import obstore
    from obstore.store import S3Store

    from slipstream.sources.credentials import Container
    from slipstream.sources.storage_options import parse_storage_options
    from slipstream.sources.stores import open_container

    options = parse_storage_options(seaweedfs.storage_options, "s3")
    store = open_container(Container("s3", BUCKET, f"s3://{BUCKET}/", None, None, options)).store
    assert isinstance(store, S3Store)
    url = obstore.sign(store, "GET", "tiny/model-00001-of-00003.safetensors", timedelta(minutes=5))
    done = run("load", url, "-q", *NUMPY)
    assert (done.returncode, done.stderr) == (0, "")
    spoilt = run("load", f"{url[:-4]}dead", "--debug", *NUMPY)
    assert spoilt.returncode == 1
    assert "signed URL" in " ".join(spoilt.stderr.split())
    for said in (done.stdout, spoilt.stderr):
        assert "X-Amz" not in said
        assert url[-40:-8] not in said


def test_unknown_authority(seaweedfs_tls: SeaweedFS) -> None:
    """A server whose certificate nobody vouches for is refused, with the option that would trust it."""
    options = dict(seaweedfs_tls.storage_options)
    del options["ca_bundle"]
    done = run("inspect", "s3://nothing/here", *as_arguments(options), env={"AWS_CA_BUNDLE": "", "SSL_CERT_FILE": ""})
    assert done.returncode == 1
    assert "ca_bundle" in done.stderr


def test_storage_options_nest() -> None:
    """A dot in a key begins a mapping of its own, and the last value of a key counts."""
    given = ["region=a=b", "s3.endpoint=http://x", "s3.headers.X-Team=1", "region=c", "empty="]
    assert arguments.read_storage_options(given) == {
        "region": "c",
        "s3": {"endpoint": "http://x", "headers": {"X-Team": "1"}},
        "empty": "",
    }
    assert arguments.read_storage_options(None) is None


@pytest.mark.parametrize("given", [["hunter22"], ["=x"], [".a=x"], ["a.=x"], ["s3=1", "s3.key=hunter22"]])
def test_storage_options_of_another_form(given: list[str]) -> None:
    """What is no KEY=VALUE is refused, and not repeated: it may be a secret."""
    with pytest.raises(UsageError) as caught:
        arguments.read_storage_options(given)
    assert "hunter22" not in str(caught.value)


def test_unknown_storage_option_comes_from_the_library() -> None:
    """A misspelt key ends with 2 and the name that may have been meant."""
    result = CliRunner().invoke(app, ["inspect", "s3://x/y", "--storage-option", "s3.endpiont=http://x"])
    assert result.exit_code == 2
    assert '"endpoint"' in result.stderr


def test_storage_options_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command hands on what it was given, for all URIs of the call."""
    seen: list[object] = []

    def refuse(uri: object, **settings: object) -> None:
        seen.append((uri, settings["storage_options"]))
        raise UsageError("enough")

    for name in ("stream", "inspect", "plan"):
        monkeypatch.setattr(slipstream, name, refuse)
    for words in (["load", *NUMPY], ["inspect"], ["plan"]):
        CliRunner().invoke(app, [*words, "s3://a/b", "http://c/d", "--storage-option", "s3.region=e"])
    assert seen == [(["s3://a/b", "http://c/d"], {"s3": {"region": "e"}})] * 3


def test_synth_into_a_bucket(reached: list[str], seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    """What synth uploads is, tensor for tensor, what it writes into a directory; it is kept but with --force."""
    target = f"s3://{BUCKET}/synth"
    how = ("llama-tiny", target, "--layers", "2", "--seed", "7", *reached)
    done = run("synth", *how, "--shards", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "21 tensors and 2 files to s3://" in done.stdout
    write_checkpoint("llama-tiny", tmp_path, layers=2, shards=2, seed=7)
    expected = slipstream.load(tmp_path, framework="numpy")
    found = slipstream.load(target, framework="numpy", storage_options=seaweedfs.storage_options)
    assert found.keys() == expected.keys()
    assert all(np.asarray(found[name]).tobytes() == np.asarray(expected[name]).tobytes() for name in expected)
    refused = run("synth", *how)
    assert refused.returncode == 2
    assert "force" in refused.stderr
    assert run("synth", *how, "--force").returncode == 0


def test_synth_where_nothing_can_be_written(reached: list[str]) -> None:
    """A URL of a web server, an unknown scheme and a bucket that is not there are told at once."""
    for out, code, said in (
        ("https://example.com/models?key=hush", 2, "http"),
        ("ftp://example.com/models", 2, "ftp"),
        ("s3://no-such-bucket/x", 1, "no such bucket"),
    ):
        done = run("synth", "llama-tiny", out, *reached)
        assert done.returncode == code
        assert said in " ".join(done.stderr.split())
        assert "hush" not in done.stderr


def test_synth_shows_a_bar(reached: list[str]) -> None:
    """On a terminal a bar shows the upload."""
    code, screen = run_on_terminal("synth", "llama-tiny", f"s3://{BUCKET}/bar", *reached)
    assert code == 0
    assert "writing" in screen
    assert "━" in screen


@pytest.mark.timeout(60)
def test_ctrl_c_while_uploading(reached: list[str], seaweedfs: SeaweedFS) -> None:
    """Ctrl-C in mid-upload ends with 130, without a traceback; nothing is there, not even a part of an upload."""
    target = f"s3://{BUCKET}/interrupted"
    words = command("synth", "llama-3.2-1b", target, "--layers", "2", "--shards", "2", *reached)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        while not list_uploads(seaweedfs, BUCKET):
            assert process.poll() is None, "it ended before it could be interrupted"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list_uploads(seaweedfs, BUCKET) == []
    with pytest.raises(slipstream.BlobNotFoundError):
        slipstream.inspect(target, storage_options=seaweedfs.storage_options)
