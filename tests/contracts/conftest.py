"""Has failed assertions of the contract show what differs, as those of tests do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("slipstream.testing.source_contract", "slipstream.testing.files_contract")
