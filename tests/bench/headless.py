"""Shows a page in a real browser without a screen: how wide it gets, what it asks the network for, how it looks.

Chromium's windows are at least 500 pixels wide, so a phone's width is that of a frame in a page around it; frame and
page speak by messages, as files may not look into one another.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing leaves this machine, also of its own
)
_TIMEOUT_S = 90
_PROBE = """
<script>
addEventListener("load", () => {
  const seen = element => element.getBoundingClientRect().width > 0;
  const name = element => element.tagName + " " + element.textContent.trim().slice(0, 60);
  const within = document.querySelectorAll("body *:not(svg *):not(.scroll *)");
  const texts = [...document.querySelectorAll("svg text")].filter(seen);
  const box = element => element.getBoundingClientRect();
  const clipped = texts.filter(text => {
    const inner = box(text), outer = box(text.closest("svg"));
    return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.top < outer.top - 1 ||
      inner.bottom > outer.bottom + 1;
  });
  const overlapping = [];
  for (const svg of document.querySelectorAll("svg")) {
    const boxes = [...svg.querySelectorAll("text")].filter(seen).map(text => [text, box(text)]);
    for (const [n, [first, a]] of boxes.entries()) for (const [second, b] of boxes.slice(n + 1)) {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && high > 4) overlapping.push(name(first) + " / " + name(second));
    }
  }
  const size = text => parseFloat(getComputedStyle(text).fontSize) * box(text.closest("svg")).width /
    text.closest("svg").viewBox.baseVal.width;
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    scroll_width: document.documentElement.scrollWidth,
    beyond: [...within].filter(element => box(element).right > innerWidth + 1).map(name),
    clipped: clipped.map(name),
    overlapping,
    charts: [...document.querySelectorAll("svg")].filter(seen).length,
    smallest_text: Math.min(...texts.map(size)),
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    title: getComputedStyle(document.querySelector("svg text") || document.body).fill,
  }), "*");
});
</script>
"""
_FRAME = """<!DOCTYPE html>
<iframe src="inner.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<pre id="measured"></pre>
<script>addEventListener("message", event => document.getElementById("measured").textContent = event.data);</script>
"""


@dataclass(frozen=True)
class Measured:
    """What a page is like at one width.

    Attributes:
        width: of the window that it sees.
        scroll_width: how wide it is; more than `width` is a page that scrolls sideways.
        beyond: elements that reach out of the window, other than what is in a box that scrolls.
        clipped: texts that reach out of their chart.
        overlapping: texts of a chart that cover one another.
        charts: how many are seen.
        smallest_text: in a chart, in pixels.
        paper, ink: the colours of the page and its text, as CSS has them.
        title: the colour of a chart's first text.
    """

    width: int
    scroll_width: int
    beyond: list[str]
    clipped: list[str]
    overlapping: list[str]
    charts: int
    smallest_text: float
    paper: str
    ink: str
    title: str


def need_chromium() -> str:
    """The browser's program; skips the test where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs Chromium: apt-get install --no-install-recommends chromium")
    return found


def measure_page(page: Path, *, width: int, dark: bool = False) -> Measured:
    """Loads a page in a window of that width and measures it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
        (folder / "inner.html").write_text(text.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
        (folder / "outer.html").write_text(_FRAME.format(width=width), encoding="utf-8")
        dom = _run(folder / "outer.html", "--virtual-time-budget=20000", "--dump-dom", dark=dark)
    found = re.search(r'<pre id="measured">(.+?)</pre>', dom, re.DOTALL)
    assert found is not None, dom
    return Measured(**json.loads(html.unescape(found[1])))


def requests_of(page: Path) -> list[str]:
    """What a page asks for beside itself, as the browser's own log of its network has it."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "net.json"
        _run(page, f"--log-net-log={log}", "--dump-dom")
        data = json.loads(log.read_text())
    started = data["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [event["params"] for event in data["events"] if event["type"] == started and "params" in event]
    own = "not an origin"  # the browser's requests for itself; those of a page are another's
    return [each["url"] for each in requests if "url" in each and each.get("initiator") != own]


def take_screenshot(page: Path, to: Path, *, width: int, height: int, dark: bool = False) -> None:
    """A picture of the top of a page."""
    _run(page, f"--window-size={width},{height}", f"--screenshot={to}", dark=dark)


def _run(page: Path, *arguments: str, dark: bool = False) -> str:
    """Runs the browser to its end, and returns what it printed. Nothing of it stays."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [need_chromium(), *_FLAGS, f"--user-data-dir={profile}", scheme, *arguments, page.as_uri()]
        with _group(command, profile) as process:
            printed, _ = process.communicate(timeout=_TIMEOUT_S)
        assert process.returncode == 0, printed
    return printed


@contextlib.contextmanager
def _group(command: list[str], home: str) -> Iterator[subprocess.Popen[str]]:
    """A program with all that it starts, in a session that ends with it."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home},
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
