"""What the ranks of one load tell one another besides tensors: short texts in the store of their process group.

The store is torch.distributed's own: a TCPStore at rank 0 or at torchrun's agent, or whatever the group was made with.
Nothing here waits: who waits looks again, so that every wait can end for another reason too.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from torch.distributed.distributed_c10d import Store

from slipstream.errors import RankError
from slipstream.ranks.notices import Notice, read_notice

Answer = TypeVar("Answer")

_PART_BYTES = 4 << 20  # a TCPStore refuses values of more than 8 MiB


class BoardLostError(RankError):
    """The store does not answer any more."""


class Board:
    """The texts of one load. Thread-safe.

    hello/R   who rank R is, and what it was asked for     plan/N    the leader's plan, in parts
    ready/R   it has planned                               end       why the load ends early; the first counts
    beat/R    a number that grows while it lives           count/R   how many pieces it had begun to pass on then
    out/R     it takes part in nothing any more            lost/0    a rank has given up, others may wait in vain
    """

    def __init__(self, store: Store) -> None:
        """
        Args:
            store: the same for all ranks, under names that only this load uses.
        """
        self._store = _own_connection(store)

    def post(self, kind: str, rank: int, text: str = "") -> None:
        """Says something; what this rank has said of that kind before is replaced."""
        self._ask(lambda: self._store.set(f"{kind}/{rank}", text))

    def see(self, kind: str, rank: int) -> str | None:
        """What a rank has said of a kind; None for nothing."""
        return self._get(f"{kind}/{rank}")

    def all_posted(self, kind: str, ranks: Iterable[int]) -> bool:
        """Whether all of these ranks have said something of that kind."""
        keys = [f"{kind}/{rank}" for rank in ranks]
        return self._ask(lambda: self._store.check(keys))

    def missing(self, kind: str, ranks: Iterable[int]) -> list[int]:
        """Those of the ranks that have not."""
        return [rank for rank in ranks if not self.all_posted(kind, [rank])]

    def post_end(self, notice: Notice) -> Notice:
        """Says why the load ends, unless that was said already; returns what counts."""
        text = notice.to_json()
        return read_notice(self._ask(lambda: self._store.compare_set("end", "", text)))

    def see_end(self) -> Notice | None:
        """Why the load ends; None while it goes on."""
        text = self._get("end")
        return None if text is None else read_notice(text)

    def post_long(self, kind: str, data: bytes) -> None:
        """Gives bytes of any length to all ranks."""
        packed = base64.b64encode(zlib.compress(data, 1)).decode()
        parts = [packed[start : start + _PART_BYTES] for start in range(0, len(packed), _PART_BYTES)]
        for number, part in enumerate(parts, 1):
            self.post(kind, number, part)
        self.post(kind, 0, str(len(parts)))

    def see_long(self, kind: str) -> bytes | None:
        """What `post_long` was given; None before it."""
        count = self.see(kind, 0)
        if count is None:
            return None
        parts = [self.see(kind, number) or "" for number in range(1, int(count) + 1)]
        return zlib.decompress(base64.b64decode("".join(parts)))

    def forget(self, rank: int) -> None:
        """Takes back what a rank has said, and the first one's also what concerns all. Once nobody looks any more."""
        keys = [f"{kind}/{rank}" for kind in ("hello", "ready", "beat", "out", "count")]
        if rank == 0:
            parts = int(self.see("plan", 0) or 0)
            keys += ["end", "lost/0", *(f"plan/{number}" for number in range(parts + 1))]
        for key in keys:
            if self._ask(partial(self._store.check, [key])):
                self._ask(partial(self._store.delete_key, key))

    def _get(self, key: str) -> str | None:
        """The value, if there is one: a `get` of what is missing would wait for it, and with it every other thread."""
        if not self._ask(lambda: self._store.check([key])):
            return None
        return self._ask(lambda: self._store.get(key)).decode()

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except RuntimeError as error:  # DistNetworkError, DistStoreError and what the stores throw themselves
            first = str(error).partition("\n")[0]
            raise BoardLostError(
                f"the store of torch.distributed, which rank 0 or torchrun keeps, does not answer ({first}): "
                "the process that keeps it has probably ended; look at its output"
            ) from error


def _own_connection(store: Store) -> Store:
    """A connection of our own where the store can be cloned: others wait in theirs for minutes, and block it."""
    clone = getattr(store, "clone", None)
    if clone is None:
        return store
    cloned: Store = clone()
    return cloned
