"""What it computes on."""

from __future__ import annotations

import os


class current_platform:  # noqa: N801  # as vLLM calls it
    device_type = os.environ.get("FAKE_DEVICE", "cpu")
