"""Signs the URL of one Azure blob with the account's key.

obstore signs too, but wrongly where a blob's name has characters that a URL encodes (0.12.1).

Source: "Create a service SAS", Azure Storage REST reference, version 2020-12-06 and later.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import urlencode

_VERSION = "2020-12-06"


def sign_blob(account: str, key: str, container: str, name: str, expires_at: float) -> str:
    """The query with which anyone may read one blob.

    Args:
        account: the storage account's name.
        key: of the account, in base64.
        container: the blob's.
        name: of the blob, literal.
        expires_at: `time.time()` until which it holds.
    """
    expiry = datetime.fromtimestamp(expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"sp": "r", "st": "", "se": expiry, "resource": f"/blob/{account}/{container}/{name}"}
    # Then, all but two of them empty: si, sip, spr, sv, sr, snapshot, ses, rscc, rscd, rsce, rscl, rsct.
    text = "\n".join([*fields.values(), "", "", "", _VERSION, "b", *[""] * 7])
    signature = hmac.digest(base64.b64decode(key), text.encode(), hashlib.sha256)
    query = {"sv": _VERSION, "sr": "b", "sp": "r", "se": expiry, "sig": base64.b64encode(signature).decode()}
    return urlencode(query)
