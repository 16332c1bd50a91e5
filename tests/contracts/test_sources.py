"""The contract of sources, kept by each of slipstream's own on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import slipstream
from slipstream.testing.azurite import Azurite
from slipstream.testing.fake_gcs import FakeGcs
from slipstream.testing.nginx import Nginx
from slipstream.testing.range_server import RangeServer
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.source_contract import HeadersContract, ListingContract, SourceContract
from slipstream.testing.source_places import ListedPlace, Loading
from tests.contracts.places import BucketPlace, FilePlace, NginxPlace, RangeServerPlace


@pytest.fixture(scope="module")
def range_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    with RangeServer(tmp_path_factory.mktemp("nothing")) as server:
        yield server


class TestFiles(SourceContract, ListingContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> FilePlace:
        return FilePlace(tmp_path / "files")


class TestS3(SourceContract, ListingContract):
    @pytest.fixture
    def place(self, seaweedfs: SeaweedFS) -> BucketPlace:
        return BucketPlace("s3", seaweedfs)


class TestS3OverTls(SourceContract, ListingContract):
    @pytest.fixture
    def place(self, seaweedfs_tls: SeaweedFS) -> BucketPlace:
        return BucketPlace("s3", seaweedfs_tls)


class TestAzure(SourceContract, ListingContract):
    @pytest.fixture
    def place(self, azurite: Azurite) -> BucketPlace:
        return BucketPlace("az", azurite)


class TestGoogle(SourceContract, ListingContract):
    @pytest.fixture
    def place(self, fake_gcs: FakeGcs) -> BucketPlace:
        return BucketPlace("gs", fake_gcs)

    def test_missing_container(self, place: ListedPlace, loading: Loading) -> None:
        """fake-gcs-server answers 500 where Google answers 404 NoSuchBucket: it is told as what it is."""
        with pytest.raises(slipstream.ReadError, match="HTTP 500"):
            loading.inspect(place.missing_container_uri())


class TestHttp(SourceContract):
    @pytest.fixture
    def place(self, nginx: Nginx) -> NginxPlace:
        return NginxPlace(nginx)


class TestRangeServer(SourceContract, HeadersContract):
    @pytest.fixture
    def place(self, range_server: RangeServer) -> RangeServerPlace:
        return RangeServerPlace(range_server)
