"""The servers that other tests rely on: they serve, they check, and they leave nothing."""

from __future__ import annotations

import importlib
import os
import random
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient
from botocore.exceptions import ClientError

from slipstream.testing import servers
from slipstream.testing.azurite import AZURITE_VARIABLE, Azurite
from slipstream.testing.azurite import why_unavailable as why_no_azurite
from slipstream.testing.certificates import CertificateAuthority, ServerCertificate
from slipstream.testing.fake_gcs import FakeGcs
from slipstream.testing.nginx import Nginx
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.servers import Server, ServerError
from tests.testing.others_clients import get, read_range, s3_client

CONTENTS = random.Random(1).randbytes(5_000_000)
RANGES = [(0, 1), (999_999, 3_000_001), (len(CONTENTS) - 1, len(CONTENTS))]
KEY = "llama 3/model-00001.safetensors"
KINDS: dict[str, Callable[..., Any]] = {
    "seaweedfs": SeaweedFS,
    "azurite": Azurite,
    "fake_gcs": FakeGcs,
    "nginx": Nginx,
}
_GONE_TIMEOUT_S = 20.0


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of a server whose program is here."""
    name: str = request.param
    reason = importlib.import_module(f"slipstream.testing.{name}").why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    return name


@pytest.fixture
def start(kind: str, tmp_path: Path) -> Callable[[], Any]:
    """Starts another server of this kind, with its files below `tmp_path / "files"`."""
    root, directory = tmp_path / "root", tmp_path / "files"
    root.mkdir()
    directory.mkdir()
    served = [root] if kind == "nginx" else []
    return lambda: KINDS[kind](*served, directory=directory)


def test_a_file_goes_up_and_comes_back_in_ranges(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server = request.getfixturevalue(kind)
    file = tmp_path / "model"
    file.write_bytes(CONTENTS)
    server.create_bucket("ranges")
    server.create_bucket("ranges")
    server.upload(file, "ranges", KEY)
    server.upload(b"few bytes", "ranges", "small")
    assert read_range(server, "ranges", "small", 4, 9) == b"bytes"
    for first, end in RANGES:
        assert read_range(server, "ranges", KEY, first, end) == CONTENTS[first:end]


def test_a_deleted_object_is_gone(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    server.create_bucket("deleted")
    server.upload(b"few bytes", "deleted", KEY)
    server.delete("deleted", KEY)
    server.delete("deleted", KEY)
    with pytest.raises(Exception, match=r"404|NoSuchKey|BlobNotFound"):
        read_range(server, "deleted", KEY, 0, 1)


def test_s3_over_tls_with_an_authority_of_its_own(seaweedfs_tls: SeaweedFS) -> None:
    seaweedfs_tls.create_bucket("ranges")
    seaweedfs_tls.upload(CONTENTS, "ranges", KEY)
    assert read_range(seaweedfs_tls, "ranges", KEY, 10, 20) == CONTENTS[10:20]
    with pytest.raises(URLError, match="certificate verify failed"):
        urllib.request.urlopen(seaweedfs_tls.endpoint, timeout=20)


@pytest.mark.parametrize("key", ["access_key_id", "secret_access_key"])
def test_s3_refuses_wrong_keys(seaweedfs: SeaweedFS, key: str) -> None:
    seaweedfs.create_bucket("closed")
    with (
        closing(s3_client(seaweedfs.storage_options | {key: "wrong"})) as client,
        pytest.raises(ClientError, match="403"),
    ):
        client.head_bucket(Bucket="closed")


def test_s3_is_closed_to_the_public_until_it_is_opened(seaweedfs: SeaweedFS) -> None:
    seaweedfs.create_bucket("closed-at-first")
    seaweedfs.upload(CONTENTS, "closed-at-first", "model")
    url = f"{seaweedfs.endpoint}/closed-at-first/model"
    with pytest.raises(HTTPError, match="403"):
        urllib.request.urlopen(url, timeout=20)
    seaweedfs.make_public("closed-at-first")
    assert get(url, {"Range": "bytes=5-9"}) == (206, CONTENTS[5:10])
    assert b"<Key>model</Key>" in get(f"{seaweedfs.endpoint}/closed-at-first?list-type=2")[1]


def test_s3_answers_a_wrong_etag_with_412(seaweedfs: SeaweedFS) -> None:
    seaweedfs.create_bucket("changed")
    seaweedfs.upload(CONTENTS, "changed", KEY)
    with (
        closing(s3_client(seaweedfs.storage_options)) as client,
        pytest.raises(ClientError, match="PreconditionFailed"),
    ):
        client.get_object(Bucket="changed", Key=KEY, IfMatch='"0123"')


def test_s3_has_room_for_many_buckets(seaweedfs: SeaweedFS) -> None:
    for number in range(8):
        seaweedfs.create_bucket(f"many-{number}")
        seaweedfs.upload(b"few bytes", f"many-{number}", "small")
    assert read_range(seaweedfs, "many-7", "small", 0, 3) == b"few"


def test_azure_refuses_a_wrong_key_and_the_public(azurite: Azurite) -> None:
    azurite.create_bucket("closed")
    for credential in ["d3Jvbmc=", None]:
        container = ContainerClient(azurite.endpoint, "closed", credential=credential, retry_total=0)
        with container, pytest.raises(HttpResponseError) as refusal:
            container.get_container_properties()
        assert refusal.value.status_code == 403


def test_nginx_answers_an_s3_client_that_lists_and_asks_for_sizes(nginx: Nginx) -> None:
    nginx.create_bucket("listed")
    for key in ["llama/a & b.safetensors", "llama/config.json", "llama-2/config.json"]:
        nginx.upload(key.encode(), "listed", key)
    with closing(s3_client(nginx.storage_options)) as client:

        def keys(prefix: str) -> list[str]:
            return [
                entry["Key"] for entry in client.list_objects_v2(Bucket="listed", Prefix=prefix).get("Contents", [])
            ]

        assert keys("llama/") == ["llama/a & b.safetensors", "llama/config.json"]
        assert keys("llama/a & b.safetensors") == ["llama/a & b.safetensors"]
        assert keys("llama") == keys("") == ["llama-2/config.json", "llama/a & b.safetensors", "llama/config.json"]
        assert keys("other/") == []
        flat = client.list_objects_v2(Bucket="listed", Prefix="", Delimiter="/")
        assert [entry["Prefix"] for entry in flat["CommonPrefixes"]] == ["llama-2/", "llama/"]
        head = client.head_object(Bucket="listed", Key="llama/config.json")
        listed = client.list_objects_v2(Bucket="listed", Prefix="llama/config.json")["Contents"][0]
        assert head["ContentLength"] == listed["Size"] == len("llama/config.json")
        assert head["ETag"] == listed["ETag"]
        assert head["LastModified"] == listed["LastModified"]


def test_nginx_ignores_signatures_and_notes_requests(nginx: Nginx, tmp_path: Path) -> None:
    (nginx.root / "plain.bin").write_bytes(CONTENTS)
    with Nginx(nginx.root, access_log=True, limit_rate="500m", workers=1, directory=tmp_path) as noting:
        url = f"{noting.url('plain.bin')}?X-Amz-Signature=none"
        assert get(url, {"Range": "bytes=7-8"}) == (206, CONTENTS[7:9])
        assert "GET /plain.bin?X-Amz-Signature=none bytes=7-8 206 2 " in noting.access_log.read_text()


def test_nginx_over_tls_resumes_sessions(nginx: Nginx, authority: CertificateAuthority, tmp_path: Path) -> None:
    (nginx.root / "plain.bin").write_bytes(CONTENTS)
    with Nginx(nginx.root, tls=authority.issue(), directory=tmp_path) as server:
        context = ssl.create_default_context(cafile=server.http_options["ca_bundle"])
        with urllib.request.urlopen(server.url("plain.bin"), timeout=20, context=context) as answer:
            assert answer.read() == CONTENTS
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones hand sessions out after the handshake
        session = None
        for resumed in [False, True]:
            with (
                socket.create_connection(("127.0.0.1", server.port), 20) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as tls,
            ):
                assert tls.session_reused is resumed
                session = tls.session


@pytest.mark.parametrize(
    ("issue", "complaint"),
    [(CertificateAuthority.issue_expired, "expired"), (CertificateAuthority.issue_wrong_host, "IP address mismatch")],
)
def test_bad_certificates_are_refused(
    nginx: Nginx,
    authority: CertificateAuthority,
    tmp_path: Path,
    issue: Callable[[CertificateAuthority], ServerCertificate],
    complaint: str,
) -> None:
    with Nginx(nginx.root, tls=issue(authority), directory=tmp_path) as server:
        context = ssl.create_default_context(cafile=str(authority.ca_bundle))
        with pytest.raises(URLError, match=complaint):
            urllib.request.urlopen(server.endpoint, timeout=20, context=context)


def test_a_closed_server_leaves_nothing(start: Callable[[], Server], tmp_path: Path) -> None:
    server = start()
    processes = session_of(server)
    assert server.pid in processes
    assert list((tmp_path / "files").iterdir()) == [server.folder]
    server.close()
    server.close()
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    assert not is_listening(*server.ports)
    assert not any((tmp_path / "files").iterdir())
    assert not sockets_of(server.ports)


def test_two_at_once_and_a_restart_on_the_same_port(start: Callable[[], Any], kind: str) -> None:
    with start() as first, start() as second:
        for server in (first, second):
            server.create_bucket("both")
        first.upload(b"the first", "both", "which")
        second.upload(b"another", "both", "which")
        endpoint = first.endpoint
        first.stop()
        assert not is_listening(first.port)
        assert read_range(second, "both", "which", 0, 7) == b"another"
        first.start()
        assert first.endpoint == endpoint
        if kind == "azurite":  # it keeps nothing on disk
            first.create_bucket("both")
            first.upload(b"the first", "both", "which")
        if kind != "nginx":  # where both serve the same directory
            assert read_range(first, "both", "which", 0, 9) == b"the first"


def test_a_taken_port_is_left_alone(start: Callable[[], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    find_free_ports = servers._find_free_ports
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answers = [[taken.getsockname()[1], *range(50_000, 50_005)], None]

        def find_taken_first(count: int) -> list[int]:
            ports = answers.pop(0)
            return ports[:count] if ports else find_free_ports(count)

        monkeypatch.setattr(servers, "_find_free_ports", find_taken_first)
        with start() as server:
            assert server.port != taken.getsockname()[1]
            assert not answers


def test_a_server_outlives_the_thread_that_started_it(start: Callable[[], Server]) -> None:
    started: list[Server] = []
    thread = threading.Thread(target=lambda: started.append(start()))
    thread.start()
    thread.join()
    with started[0] as server:
        assert server.answers()


def test_a_killed_parent_leaves_no_server(kind: str, tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from slipstream.testing.{kind} import {KINDS[kind].__name__} as Kind
server = Kind({"root=Path(sys.argv[1]), " if kind == "nginx" else ""}directory=Path(sys.argv[1]))
print(server.pid, *server.ports, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-P", "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, *ports = map(int, parent.stdout.readline().split())
        watched = [os.pidfd_open(process) for process in processes_in_session(pid)]
        assert watched
        parent.send_signal(signal.SIGKILL)
    for descriptor in watched:
        gone, _, _ = select.select([descriptor], [], [], _GONE_TIMEOUT_S)
        os.close(descriptor)
        assert gone
    for socket_file in sockets_of(ports):  # which a killed SeaweedFS leaves
        socket_file.unlink()


def test_a_server_that_does_not_come_up_says_what_it_wrote(nginx: Nginx, tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match=r"(?s)nginx at http.* ended with exit code 1; it wrote:.*limit_rate.*invalid value"
    ):
        Nginx(nginx.root, limit_rate="quick", directory=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_missing_azurite_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(AZURITE_VARIABLE, str(tmp_path / "none"))
    reason = why_no_azurite()
    assert reason is not None
    assert "node" in reason


def session_of(server: Server) -> list[int]:
    assert server.pid is not None
    return processes_in_session(server.pid)


def processes_in_session(session: int) -> list[int]:
    """The processes of a server: each server leads a session of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == session:
            found.append(int(path.name))
    return found


def is_listening(*ports: int) -> bool:
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
    return False


def sockets_of(ports: list[int]) -> list[Path]:
    """The sockets of SeaweedFS in /tmp, which are named after the ports beside its own."""
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port + servers.PARTNER_OFFSET}.sock")]
