"""No failure shows a secret: not in its text, its chain, its notes, nor in any log, warning or repr."""

from __future__ import annotations

import base64
import gc
import logging
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import pytest

import slipstream
from slipstream.errors import SlipstreamError
from slipstream.options import Options
from slipstream.sources.http import HttpAccess, HttpSource
from slipstream.sources.registry import Sources
from slipstream.testing.proxy import ForwardProxy
from slipstream.testing.range_faults import CloseEarly, Redirect, Reset, Stall, Status, s3_error
from slipstream.testing.range_lies import ChangedEtag, Chunked, CorruptHead, Gzip, WholeBody, WrongContentRange
from slipstream.testing.range_schedule import Fault, Faults, When
from slipstream.transport.client import RangeClient
from tests.transport.serving import Served, quick

QUERY = "X-Amz-Credential=SECRETKEYID%2Fregion&X-Amz-Signature=SECRETSIGNATURE"
TOKEN = "SECRETTOKEN"
HEADER = "SECRETHEADER"
LOGIN = "me:SECRETPASSWORD"
PROXY_LOGIN = "me:SECRETPROXY"
ENCODED = ("bWU6U0VDUkVU", "U0VDUkVU")  # how Basic authentication of the two begins
EVERYTHING = f"{TOKEN} {HEADER} http://h/x?{QUERY} /model.safetensors?{QUERY} SECRETSIGNATURE SECRETKEYID/region"
BASIC = "Basic " + base64.b64encode(LOGIN.encode()).decode()
LATER = When(after=5)
NUMPY_LOAD = partial(slipstream.load, framework="numpy")

ECHO_OF_LOGIN = Status(400, body=s3_error("Odd", f"http://{LOGIN}@h/ SECRETPASSWORD {BASIC}"), when=LATER)

FAILURES: dict[str, Fault] = {
    "an echo": Status(400, body=s3_error("InvalidRequest", EVERYTHING)),
    "an echo as JSON": Status(403, body=f'{{"error": {{"message": "{EVERYTHING}"}}}}'),
    "an echo as a page": Status(404, body=f"<html><title>404 {EVERYTHING}</title></html>"),
    "an echo in a code": Status(403, headers=(("x-ms-error-code", TOKEN), ("x-amz-request-id", HEADER))),
    "an echo later": Status(503, body=s3_error("SlowDown", EVERYTHING), when=LATER),
    "an echo in an ETag": ChangedEtag(ignores_if_match=True, when=LATER),
    "401": Status(401),
    "404": Status(404, when=LATER),
    "412": ChangedEtag(when=LATER),
    "416": Status(416, when=LATER),
    "500": Status(500),
    "reset": Reset(when=LATER),
    "reset in the body": Reset(100, when=LATER),
    "end": CloseEarly(when=LATER),
    "stall": Stall(when=LATER),
    "stall in the body": Stall(100, when=LATER),
    "another range": WrongContentRange(4096),
    "no HTTP": CorruptHead("status_line", when=LATER),
    "no header": CorruptHead("no_colon"),
    "compressed": Gzip(),
    "in chunks": Chunked(),
    "all of it": WholeBody(),
    "a loop": Redirect(f"/{{path}}?{QUERY}"),
    "a redirect to nonsense": Redirect(f"http://me:SECRETPASSWORD@[::1/x?{QUERY}"),
    "a redirect to a host that is not there": Redirect(f"http://me:SECRETPASSWORD@nowhere.invalid/x?{QUERY}"),
    "a redirect to a port that is closed": Redirect(f"http://127.0.0.1:1/x?{QUERY}", when=LATER),
}


def all_said(error: BaseException) -> str:
    """Every text of an error and of what it is chained to."""
    parts = [
        "".join(traceback.format_exception(error)),
        repr(error),
        str(error),
        repr(error.__dict__),
        repr(error.args),
    ]
    chained = [error.__cause__, error.__context__]
    return "\n".join([*parts, *(all_said(other) for other in chained if other is not None)])


def all_reprs() -> str:
    """Of all objects of the library's that hold secrets or what leads to them."""
    kinds = (SlipstreamError, Sources, HttpSource, HttpAccess, RangeClient)
    return "\n".join(repr(found) for found in gc.get_objects() if issubclass(type(found), kinds))


def fail_loudly(url: str, options: Options, storage: Mapping[str, object]) -> str:
    """Loads until it fails, by each entry; returns everything that could be seen of it."""
    said = []
    uses: tuple[Callable[..., object], ...] = (slipstream.inspect, slipstream.plan, NUMPY_LOAD)
    for use in uses:
        try:
            said.append(repr(use(url, options=options, storage_options=storage)))
        except SlipstreamError as error:
            said.append(all_said(error))
            said.append(all_reprs())
    try:
        with slipstream.stream(url, framework="numpy", options=options, storage_options=storage) as stream:
            said += [repr(stream), repr(stream.plan), str(stream.stats())]
            dict(stream)
    except SlipstreamError as error:
        said += [all_said(error), repr(stream) if "stream" in locals() else ""]
    assert any("Error" in text for text in said), "it did not fail"
    return "\n".join(said)


def check(text: str) -> None:
    lines = [line for line in text.splitlines() if any(word in line for word in ("SECRET", *ENCODED))]
    assert not lines, "\n".join(lines)


@pytest.fixture
def listen(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Every logger at its most talkative."""
    caplog.set_level(logging.NOTSET)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, name)
    return caplog


@pytest.mark.parametrize("name", FAILURES)
def test_no_failure_shows_a_secret(
    plain: Served, listen: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Whatever goes wrong, and whatever the server repeats of the request."""
    plain.server.set_faults(Faults(FAILURES[name]))
    options = quick(attempts=2, retries=3, first_byte_timeout_s=0.2, stall_timeout_s=0.2)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        storage = {"bearer_token": TOKEN, "headers": {"X-Key": HEADER}}
        said = fail_loudly(f"{plain.url}?{QUERY}", options, storage)
    out, err = capfd.readouterr()
    check("\n".join([said, out, err, listen.text, *(str(warning.message) for warning in warned)]))


@pytest.mark.parametrize("name", ["401", "500", "stall", "a loop", "an echo of the login"])
def test_no_failure_shows_a_password(plain: Served, listen: pytest.LogCaptureFixture, name: str) -> None:
    """Neither as it was given nor as it was sent."""
    plain.server.set_faults(Faults(FAILURES.get(name, ECHO_OF_LOGIN)))
    url = plain.url.replace("//", f"//{LOGIN}@")
    check(fail_loudly(url, quick(attempts=2), {}) + listen.text)


@pytest.mark.parametrize("how", ["wrong password", "refuses", "not there", "malformed"])
@pytest.mark.parametrize("which", ["plain", "tls"])
def test_no_failure_shows_a_proxys_password(
    both_served: dict[str, Served], listen: pytest.LogCaptureFixture, how: str, which: str
) -> None:
    """Proxies fail in their own ways."""
    served = both_served[which]
    status = 403 if how == "refuses" else None
    with ForwardProxy(credentials=("me", "another"), refuse_status=status) as proxy:
        proxy_url = {
            "not there": f"http://{PROXY_LOGIN}@127.0.0.1:1",
            "malformed": f"http://{PROXY_LOGIN}@[::1:3128",
        }.get(how, f"http://{PROXY_LOGIN}@127.0.0.1:{proxy.port}")
        said = fail_loudly(served.url, quick(attempts=2), {**served.storage_options, "proxy": proxy_url})
    check(said + listen.text)
