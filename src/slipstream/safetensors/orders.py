"""Guesses in which order a caller goes through a checkpoint, by the orders that callers are known to have. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from slipstream.types import TensorInfo

# Threads of a pool ask out of turn, but not by more than there are of them.
_MOST_EARLY = 4
# What is left out now and then, a buffer or a bias, breaks no order; a jump does.
_LONGEST_GAP = 16


class Order:
    """One order of a checkpoint's tensors, and how long the caller has kept to it.

    Attributes:
        tensors: in this order.
        kept: how many tensors in a row were asked for in this order; 0 before the first.
        last: the position up to which they were.
        settled: the position up to which nothing needs reading ahead any more.
    """

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        self.tensors = tuple(tensors)
        self._positions = {info.name: position for position, info in enumerate(self.tensors)}
        self._early: set[int] = set()
        self.settled = -1
        self.forget()

    def __repr__(self) -> str:
        return f"<Order of {len(self.tensors)} tensors: {self.kept} kept, up to {self.last}>"

    def forget(self) -> None:
        """The caller has done something else: what he keeps to begins anew."""
        self.kept = 0
        self.last = -1
        self._early.clear()

    def position(self, name: str) -> int:
        """Where a tensor comes."""
        return self._positions[name]

    def note(self, name: str) -> None:
        """The caller asks for this one."""
        position = self._positions[name]
        if self.kept and self.last < position <= self.last + _LONGEST_GAP:
            self._early.add(position)
            if len(self._early) > _MOST_EARLY:
                self.last = min(self._early) - 1  # what is in between was left out
            while self.last + 1 in self._early:
                self.last += 1
                self._early.remove(self.last)
                self.kept += 1
        elif not (self.kept and self.last - _LONGEST_GAP < position <= self.last):
            self.forget()
            self.kept, self.last = 1, position

    def following(self, position: int, is_known: Callable[[str], bool], most_bytes: int) -> list[TensorInfo]:
        """What comes after a position, but for what is known: as much as fits, one at least."""
        found: list[TensorInfo] = []
        nbytes = 0
        for number in range(position + 1, len(self.tensors)):
            info = self.tensors[number]
            if is_known(info.name):
                continue
            if found and nbytes + info.nbytes > most_bytes:
                break
            nbytes += info.nbytes
            found.append(info)
        return found


def likely_orders(tensors: Sequence[TensorInfo], keys: Sequence[str]) -> list[Order]:
    """The orders that callers have: of `keys()`, of the file, and of the names with their numbers counted as such.

    The last is the order of transformers, which sorts what it loads.
    """
    by_name = {info.name: info for info in tensors}
    orders = [
        [by_name[name] for name in keys],
        list(tensors),
        sorted(tensors, key=lambda info: natural_key(info.name)),
    ]
    return [Order(order) for number, order in enumerate(orders) if order not in orders[:number]]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts `layers.2` before `layers.10`."""
    parts = name.split(".")
    return [(0, int(part), "") if part.isascii() and part.isdecimal() else (1, 0, part) for part in parts]
