"""Certificates for the tests' TLS servers, from a certificate authority of the tests' own. Needs the package trustme.

authority = CertificateAuthority(tmp_path)
with SeaweedFS(tls=authority.issue()) as server: ...       # a client trusts it through authority.ca_bundle
with Nginx(root, tls=authority.issue_expired()) as server: ...     # no client should
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


class ServerCertificate(NamedTuple):
    """PEM files of a certificate with its key, and of the authority that vouches for it."""

    certificate: Path
    key: Path
    ca_bundle: Path


class CertificateAuthority:
    """Issues certificates that only those who trust `ca_bundle` trust. Its files stay until the folder is removed.

    Attributes:
        ca_bundle: the authority's own certificate, as PEM.
    """

    def __init__(self, folder: Path) -> None:
        """Makes a new authority, whose files and whose certificates' files go into `folder`."""
        import trustme

        self._folder = folder
        self._authority = trustme.CA()
        self._issued = 0
        self.ca_bundle = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca_bundle)

    def issue(self) -> ServerCertificate:
        """A good certificate for this machine's loopback addresses."""
        return self._issue(*LOOPBACK_NAMES)

    def issue_expired(self) -> ServerCertificate:
        """One for loopback that was good until yesterday."""
        return self._issue(*LOOPBACK_NAMES, not_after=datetime.now(UTC) - timedelta(days=1))

    def issue_wrong_host(self) -> ServerCertificate:
        """A good certificate of another host."""
        return self._issue("elsewhere.example")

    def _issue(self, *names: str, not_after: datetime | None = None) -> ServerCertificate:
        leaf = self._authority.issue_cert(*names, not_after=not_after)
        self._issued += 1
        certificate = self._folder / f"server-{self._issued}.pem"
        key = self._folder / f"server-{self._issued}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return ServerCertificate(certificate, key, self.ca_bundle)
