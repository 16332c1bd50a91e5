"""What an Azure connection string says.

Source: "Configure Azure Storage connection strings", Azure Storage documentation.
"""

from __future__ import annotations

from slipstream.errors import UsageError

# The account of every Azurite, published in "Use the Azurite emulator"; no secret.
_DEVELOPMENT = {
    "accountname": "devstoreaccount1",
    "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


def parse_connection_string(text: str) -> dict[str, str | None]:
    """Takes a connection string apart, into options by their names here.

    Raises:
        UsageError: it names no account. The text does not show it.
    """
    parts = dict(part.strip().split("=", 1) for part in text.split(";") if "=" in part)
    said = {name.lower(): value for name, value in parts.items()}
    if said.get("usedevelopmentstorage", "").lower() == "true":
        said = _DEVELOPMENT
    account, endpoint = said.get("accountname"), said.get("blobendpoint")
    if account is None and endpoint is None:
        raise UsageError("the Azure connection string names no account: copy it from the portal, under Access keys")
    suffix = said.get("endpointsuffix", "core.windows.net")
    if endpoint is None and suffix != "core.windows.net":
        endpoint = f"{said.get('defaultendpointsprotocol', 'https')}://{account}.blob.{suffix}"
    return {
        "account_name": account,
        "account_key": said.get("accountkey"),
        "sas_token": said.get("sharedaccesssignature"),
        "endpoint": endpoint and endpoint.rstrip("/"),
    }
