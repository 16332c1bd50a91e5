"""nginx over a directory: the fastest range server at hand, for throughput, TLS and limits per connection.

    with Nginx(root, tls=authority.issue(), limit_rate="90m") as server:
        server.url("models/llama/model.safetensors")        # root/models/llama/model.safetensors, by plain GETs

An S3 client can be pointed at it too: it answers path-style GET and HEAD of `/bucket/key` whatever their signature, and
ListObjectsV2 of `/bucket?list-type=2&prefix=...` from files that `write_listings` makes, since nginx itself cannot
list that way. Needs Debian's nginx-light or any other nginx.
"""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import ssl
import textwrap
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from slipstream.testing.certificates import ServerCertificate
from slipstream.testing.s3_listings import known_prefixes, list_bucket_result
from slipstream.testing.servers import PROBE_TIMEOUT_S, Launch, Server, find_program


class Nginx(Server):
    """nginx on loopback over a directory. See `Server` for start, stop and close.

    Attributes:
        root: the directory served. Its folders are the buckets.
    """

    name = "nginx"
    end_signal = signal.SIGTERM  # its workers outlive a killed master

    def __init__(
        self,
        root: Path,
        *,
        tls: ServerCertificate | None = None,
        limit_rate: str | None = None,
        piece_bytes: int | None = None,
        gate_port: int | None = None,
        workers: int = 2,
        access_log: bool = False,
        directory: Path | None = None,
    ) -> None:
        """Starts the server, which takes about 0.1 s.

        Args:
            root: the directory to serve; whoever runs this must be able to read it.
            tls: serve over https, with this certificate; sessions can be resumed.
            limit_rate: the most bytes a second of one connection, as nginx writes them: "90m".
            piece_bytes: the most that is sent between two pauses for that rate. nginx pauses for whole milliseconds,
                and not after the last piece: with its own 2 MiB, ranges of 8 MiB came at 116 MB/s instead of 94.
            gate_port: before each answer, `GET /go` is asked of this port of loopback, which must give a 200: by what
                that takes, first bytes come later.
            workers: processes that answer.
            access_log: write every request to the file `access_log`.
            directory: where the folder with its settings is made.

        Raises:
            ServerError: it did not come up.
            FileNotFoundError: there is no nginx; see `why_unavailable`.
        """
        self.root = root.absolute()
        self.tls = tls
        self.scheme = "https" if tls else "http"
        self._limit_rate = limit_rate
        self._piece_bytes = piece_bytes
        self._gate_port = gate_port
        self._workers = workers
        self._has_access_log = access_log
        self._token = secrets.token_hex(8)
        super().__init__(directory)

    @property
    def storage_options(self) -> dict[str, str]:
        """What an S3 client needs to take it for an S3 server. Any keys will do."""
        options = {
            "endpoint": self.endpoint,
            "access_key_id": "any",
            "secret_access_key": "any",
            "region": "us-east-1",
        }
        return options | self.http_options

    @property
    def http_options(self) -> dict[str, str]:
        """What a client of plain URLs needs."""
        return {"ca_bundle": str(self.tls.ca_bundle)} if self.tls else {}

    @property
    def access_log(self) -> Path:
        """A line for each request: method, path with query, range asked for, status, bytes sent, connection number."""
        return self.folder / "access.log"

    def url(self, path: str) -> str:
        """The URL of a file, by its path relative to `root`."""
        return f"{self.endpoint}/{quote(path)}"

    def create_bucket(self, bucket: str) -> None:
        """Makes a folder, unless it is there."""
        (self.root / bucket).mkdir(exist_ok=True)
        self.write_listings()

    def upload(self, source: Path | bytes, bucket: str, key: str) -> None:
        """Puts a file or these bytes into `root`, in place of what is there at once; listings show it."""
        target = self.root / bucket / key
        target.parent.mkdir(parents=True, exist_ok=True)
        arriving = self.folder / "arriving"
        if isinstance(source, Path):
            shutil.copyfile(source, arriving)
        else:
            arriving.write_bytes(source)
        shutil.move(arriving, target)
        self.write_listings()

    def delete(self, bucket: str, key: str) -> None:
        """Removes a file, if it is there."""
        (self.root / bucket / key).unlink(missing_ok=True)
        self.write_listings()

    def write_listings(self) -> None:
        """Writes what ListObjectsV2 answers: for whole buckets, and for prefixes that are a folder or a whole key.

        Any other prefix gives an empty list; any delimiter counts as "/". `start`, `upload` and `delete` do this: call
        it after other changes.
        """
        for bucket in filter(Path.is_dir, self.root.iterdir()):
            folder = self.folder / "listings" / bucket.name
            shutil.rmtree(folder, ignore_errors=True)
            objects = {str(path.relative_to(bucket)): path for path in bucket.rglob("*") if path.is_file()}
            for depth, delimiter in (("deep", ""), ("flat", "/")):
                for prefix in known_prefixes(objects):
                    listing = list_bucket_result(bucket.name, objects, prefix, delimiter)
                    for name in {prefix, quote(prefix, safe="")}:  # clients encode slashes or do not
                        path = folder / depth / f"prefix={name}.xml"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(listing)
            (folder / "none.xml").write_text(list_bucket_result(bucket.name, {}))

    def launch(self, ports: Sequence[int]) -> Launch:
        nginx = find_program("nginx", Path("/usr/sbin"), Path("/usr/local/sbin"))
        if nginx is None:
            raise FileNotFoundError(why_unavailable())
        self.write_listings()
        settings = self.folder / "nginx.conf"
        settings.write_text(self._settings(ports[0]))
        return Launch([nginx, "-e", "stderr", "-p", self.folder, "-c", settings, "-g", "daemon off;"], {})

    def answers(self) -> bool:
        connection: http.client.HTTPConnection
        if self.tls:
            # This asks whether it is up. Whether its certificate is good is for the client under test.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PROBE_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", f"/{self._token}")
            return connection.getresponse().status == 204
        finally:
            connection.close()

    def _settings(self, port: int) -> str:
        tls = ""
        if self.tls:
            tls = f"""
                    ssl_certificate {self.tls.certificate.absolute()};
                    ssl_certificate_key {self.tls.key.absolute()};
                    ssl_protocols TLSv1.2 TLSv1.3;
                    ssl_session_cache shared:sessions:1m;
                    ssl_session_tickets on;"""
        upstream = gate = ""
        if self._gate_port is not None:
            upstream = f"upstream gate {{ server 127.0.0.1:{self._gate_port}; keepalive 128; }}"
            gate = """
                    auth_request /gate;
                    location = /gate {
                        internal;
                        proxy_pass http://gate/go;
                        proxy_http_version 1.1;
                        proxy_set_header Connection "";
                        proxy_pass_request_headers off;
                        proxy_pass_request_body off;
                    }"""
        pieces = f"sendfile_max_chunk {self._piece_bytes};" if self._piece_bytes is not None else ""
        log_format = "'$request_method $request_uri $http_range $status $body_bytes_sent $connection'"
        return textwrap.dedent(
            f"""\
            {"user root;" if os.geteuid() == 0 else ""}
            pid nginx.pid;
            error_log stderr warn;
            worker_processes {self._workers};
            worker_rlimit_nofile 8192;
            events {{ worker_connections 4096; }}
            http {{
                default_type application/octet-stream;
                log_format requests {log_format};
                access_log {"access.log requests" if self._has_access_log else "off"};
                client_body_temp_path client_body;
                proxy_temp_path proxy;
                fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi;
                scgi_temp_path scgi;
                sendfile on;
                tcp_nopush on;
                output_buffers 2 512k;  # where sendfile cannot: under TLS
                keepalive_requests 1000000000;
                keepalive_timeout 1h;
                map $arg_delimiter $depth {{ default flat; "" deep; }}
                limit_rate {self._limit_rate or 0};
                {pieces}
                {upstream}
                merge_slashes off;
                server {{
                    listen 127.0.0.1:{port}{" ssl" if self.tls else ""};{tls}{gate}
                    root "{self.root}";
                    location = /{self._token} {{ return 204; }}
                    location ~ ^/(?<bucket>[^/]+)/?$ {{
                        error_page 418 = @listing;
                        if (-d $request_filename) {{ return 418; }}
                    }}
                    location @listing {{
                        root "{self.folder}/listings";
                        default_type application/xml;
                        try_files /$bucket/$depth/prefix=$arg_prefix.xml /$bucket/none.xml =404;
                    }}
                }}
            }}
            """
        )


def why_unavailable() -> str | None:
    """Why nginx cannot be started here, in words; None where it can."""
    if find_program("nginx", Path("/usr/sbin"), Path("/usr/local/sbin")):
        return None
    return "there is no program nginx: apt-get install nginx-light"
