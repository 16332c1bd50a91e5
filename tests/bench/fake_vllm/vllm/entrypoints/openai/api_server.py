"""The server. What it shall do wrong stands in FAKE_MODE:

    crash       raises before it listens, and prints the environment's secret
    hang        never listens
    deaf        ignores SIGTERM
    silent      takes requests for tokens and never answers
    refuse      answers them with status 500
    dead        answers them with an event that is an error
    dies        ends when the first of them comes
    other       says something else than the weights say

FAKE_PIDS names a file for its process ids: its own, that of a child, and that of a grandchild in another session whose
parent is gone; they are written when all three run and, unless it hangs, the port is open.
"""

# ruff: noqa: TID252  # it is the package vllm only where it is installed
from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ... import plugins
from ...engine.arg_utils import EngineArgs

MODE = os.environ.get("FAKE_MODE", "")
_SLEEP = [sys.executable, "-c", "import signal; signal.pause()"]
_ORPHAN = (
    "import subprocess, sys; "
    "print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=subprocess.DEVNULL).pid, flush=True)"
)


class Handler(BaseHTTPRequestHandler):
    answer = ""

    def do_GET(self) -> None:
        self.reply(200 if self.path == "/health" else 404, b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if MODE == "silent":
            signal.sigwait({signal.SIGUSR1})
        if MODE == "dies":
            os._exit(3)
        if MODE == "refuse":
            return self.reply(500, b'{"error": {"message": "refused, as told"}}')
        event: dict[str, Any] = {"choices": [{"text": f"{self.answer} {asked['max_tokens']}"}]}
        if MODE == "dead":
            event = {"error": {"message": "the engine is dead"}}
        if asked["stream"]:
            return self.reply(200, f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())
        return self.reply(200, json.dumps(event).encode())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def main() -> None:
    parser = EngineArgs.add_cli_args(argparse.ArgumentParser())
    for name in ("--host", "--served-model-name", "--load-format", "--model-loader-extra-config"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    plugins.load_general_plugins()
    print(f"non-default args: {vars(arguments)}", flush=True)
    if MODE == "crash":
        print(f"the secret is {os.environ.get('AWS_SECRET_ACCESS_KEY')}", flush=True)
        raise ValueError("it was told to crash")
    if MODE == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Handler.answer = "other weights" if MODE == "other" else load(arguments)
    if MODE == "hang":
        write_pids()
        signal.pause()
    with ThreadingHTTPServer((arguments.host, arguments.port), Handler) as server:
        write_pids()
        server.serve_forever()


def load(arguments: argparse.Namespace) -> str:
    from ...model_executor import model_loader

    files = sorted(Path(arguments.model).glob("*.safetensors"))
    if arguments.model_loader_extra_config:
        files = [Path(json.loads(arguments.model_loader_extra_config)["tensorizer_uri"])]
    return model_loader.get_model_loader(arguments.load_format).load_model(files)


def write_pids() -> None:
    path = os.environ.get("FAKE_PIDS")
    if path is None:
        return
    child = subprocess.Popen(_SLEEP)
    orphan = subprocess.run([sys.executable, "-c", _ORPHAN, *_SLEEP], stdout=subprocess.PIPE, check=True, text=True)
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text(json.dumps([os.getpid(), child.pid, int(orphan.stdout)]))
    unfinished.rename(path)


if __name__ == "__main__":
    main()
