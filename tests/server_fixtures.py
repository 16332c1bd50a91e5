"""Real servers, one of each for all the tests. Where the program of one is missing, its tests skip; where it does not
start, they fail.

Tests share them: take a bucket of your own, or keys of your own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from slipstream.testing import azurite as azurite_module
from slipstream.testing import fake_gcs as fake_gcs_module
from slipstream.testing import nginx as nginx_module
from slipstream.testing import seaweedfs as seaweedfs_module
from slipstream.testing.azurite import Azurite
from slipstream.testing.certificates import CertificateAuthority
from slipstream.testing.fake_gcs import FakeGcs
from slipstream.testing.nginx import Nginx
from slipstream.testing.seaweedfs import SeaweedFS

_CLOUD_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "GCE_")
_NOWHERE = {
    "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "GCE_METADATA_HOST": "127.0.0.1:1",
    "GCE_METADATA_IP": "127.0.0.1:1",
}


@pytest.fixture(scope="session", autouse=True)
def bare_environment() -> Iterator[None]:
    """No credentials and no proxies of this machine, and no metadata service to ask for more."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_CLOUD_PREFIXES) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        for name, value in _NOWHERE.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """Who vouches for the servers of the tests."""
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """S3 over http."""
    _skip_for(seaweedfs_module.why_unavailable())
    with SeaweedFS(directory=tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_tls(tmp_path_factory: pytest.TempPathFactory, authority: CertificateAuthority) -> Iterator[SeaweedFS]:
    """S3 over https, with a certificate of `authority`."""
    _skip_for(seaweedfs_module.why_unavailable())
    with SeaweedFS(tls=authority.issue(), directory=tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure Blob Storage."""
    _skip_for(azurite_module.why_unavailable())
    with Azurite(directory=tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    """Google Cloud Storage."""
    _skip_for(fake_gcs_module.why_unavailable())
    with FakeGcs(directory=tmp_path_factory.mktemp("fake_gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx over http, over a directory that is empty at first."""
    _skip_for(nginx_module.why_unavailable())
    with Nginx(tmp_path_factory.mktemp("served"), directory=tmp_path_factory.mktemp("nginx")) as server:
        yield server


def _skip_for(reason: str | None) -> None:
    if reason is not None:
        pytest.skip(reason)
