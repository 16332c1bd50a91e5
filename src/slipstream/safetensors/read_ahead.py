"""Reads ahead of a caller who asks for one tensor after another, so that not each costs him a round trip.

    take(a)  the caller reads it himself
    take(b)  comes after a in one of the likely orders: b and what follows, up to a window's bytes, is streamed
    take(c)  is there, or comes as soon as it is
    ...      half a window before its end the next one is begun, twice as large

A window is a stream of its own. Whoever waits for a tensor of it iterates it, and puts aside what comes first: the
threads that read are the stream's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import slipstream
from slipstream.errors import StreamClosedError
from slipstream.safetensors.orders import Order
from slipstream.types import TensorInfo

if TYPE_CHECKING:
    from slipstream.safetensors.arrays import Tensor

# Unmeasured: a first window that is small beside a checkpoint, should the guess be wrong, and large beside a chunk.
_FIRST_WINDOW_BYTES = 64 << 20
MOST_AHEAD_BYTES = 1 << 30


class _Window:
    """Tensors that are read ahead together.

    Attributes:
        last: position of the last of them in the order that was followed.
        nbytes: of all.
        untaken_bytes: of those that the caller has not been given yet.
        untaken: how many those are.
        coming: how many have not arrived.
        stream: what reads them; None before it is opened.
        turn: held by the thread that iterates the stream.
    """

    def __init__(self, tensors: Sequence[TensorInfo], last: int) -> None:
        self.tensors = tuple(tensors)
        self.last = last
        self.nbytes = self.untaken_bytes = sum(info.nbytes for info in tensors)
        self.untaken = self.coming = len(tensors)
        self.stream: slipstream.TensorStream | None = None
        self.turn = threading.Lock()


class ReadAhead:
    """The tensors of one checkpoint that are on their way to one caller. Safe to use from many threads.

    At most `most_bytes` are read and not yet asked for, along the order that the caller keeps to; and as much again
    that was read along one that he has left. `close` stops all; what is read ahead goes with it.
    """

    # Locks: a window's turn is taken before `_lock`, never while it is held. Nothing is waited for under `_lock`.

    def __init__(
        self,
        find_orders: Callable[[], Sequence[Order]],
        open_stream: Callable[[Sequence[TensorInfo]], slipstream.TensorStream | None],
        is_near: Callable[[Sequence[TensorInfo]], bool],
        most_bytes: int = MOST_AHEAD_BYTES,
    ) -> None:
        """
        Args:
            find_orders: the likely ones, the likeliest first. Asked for with the second tensor: many want only one.
            open_stream: begins to read some tensors; None where reading ahead has come to its end.
            is_near: whether some tensors are at hand, so that reading them ahead gains nothing. At once.
            most_bytes: see above; a single tensor may be larger.
        """
        self._find_orders = find_orders
        self._open_stream = open_stream
        self._is_near = is_near
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # guards all that follows
        self._closed = False
        self._orders: Sequence[Order] = ()
        self._followed: Order | None = None
        self._window_bytes = min(_FIRST_WINDOW_BYTES, most_bytes)
        self._windows: list[_Window] = []  # along the order that is followed
        self._left: list[_Window] = []  # along the one before it
        self._coming: dict[str, _Window] = {}
        self._arrived: dict[str, tuple[_Window, Tensor]] = {}
        self._taken: set[str] = set()
        self._latest: str | None = None  # of those taken; None after something else

    def __repr__(self) -> str:
        return f"<ReadAhead: {len(self._coming)} tensors on their way, {len(self._arrived)} arrived>"

    def take(self, info: TensorInfo) -> Tensor | None:
        """The tensor, once it is there; None where it is not being read ahead, and the caller must read it himself.

        Raises:
            ReadError and others: as iterating a TensorStream.
        """
        with self._lock:
            if self._closed:
                return None
            window, dropped = self._decide(info)
        _close_all(dropped)
        if window is not None:
            with window.turn:
                self._open(window)
        return self._obtain(info)

    def break_off(self) -> None:
        """The caller does something that no order foretells, such as reading a part of a tensor."""
        with self._lock:
            self._latest = None
            for order in self._orders:
                order.forget()

    def close(self) -> None:
        """Stops reading, and lets go of what was read. `take` gives None from now on. Safe to call again."""
        with self._lock:
            self._closed = True
            dropped = self._forget(self._windows + self._left)
        _close_all(dropped)

    def _decide(self, info: TensorInfo) -> tuple[_Window | None, list[_Window]]:
        """Notes what is asked for. Returns a window to open, if any, and those to close."""
        if not self._orders and self._taken:
            self._orders = self._find_orders()
            if self._latest is not None:
                self._note(self._latest)
        self._note(info.name)
        self._latest = info.name
        if info.name in self._taken:
            self._taken.clear()  # the caller begins once more: what he has had he may want again
        self._taken.add(info.name)
        if not self._orders:
            return None, []
        if info.name in self._coming or info.name in self._arrived:
            return self._go_on(), []
        followed = max(self._orders, key=lambda order: order.kept)
        if followed.kept < 2 or followed.last <= followed.settled:
            return None, []
        self._followed = followed
        dropped = self._forget(self._left)
        self._left, self._windows = self._windows, []
        self._window_bytes = min(_FIRST_WINDOW_BYTES, self._most_bytes)
        return self._plan(followed.last, [info]), dropped

    def _note(self, name: str) -> None:
        for order in self._orders:
            order.note(name)

    def _go_on(self) -> _Window | None:
        """The next window, where half of the last one is taken and there is room for more."""
        if self._followed is None or not self._windows:
            return None
        untaken = sum(window.untaken_bytes for window in self._windows)
        newest = self._windows[-1]
        if 2 * newest.untaken_bytes > newest.nbytes or untaken + self._window_bytes > self._most_bytes:
            return None
        return self._plan(newest.last, [])

    def _plan(self, position: int, asked: list[TensorInfo]) -> _Window | None:
        """A window of what is asked for and what follows it; None where nothing does, or all of it is at hand."""
        assert self._followed is not None
        tensors = asked + self._followed.following(position, self._is_known, self._window_bytes)
        if len(tensors) == len(asked):
            return None
        last = self._followed.position(tensors[-1].name)
        self._window_bytes = min(2 * self._window_bytes, self._most_bytes // 2)
        if self._is_near(tensors):
            self._followed.settled = last
            return None
        window = _Window(tensors, last)
        self._windows = [*(window for window in self._windows if window.untaken), window]
        self._coming |= dict.fromkeys((info.name for info in tensors), window)
        return window

    def _is_known(self, name: str) -> bool:
        return name in self._taken or name in self._coming or name in self._arrived

    def _open(self, window: _Window) -> None:
        """Begins to read a window, unless that is done or it was forgotten. In its turn."""
        if window.stream is not None:
            return
        try:
            stream = self._open_stream(window.tensors)
        except BaseException:
            with self._lock:
                self._forget([window])
            raise
        if stream is None:
            self.close()
            return
        with self._lock:
            window.stream = stream
            forgotten = window not in self._windows and window not in self._left
        if forgotten:
            stream.close()

    def _obtain(self, info: TensorInfo) -> Tensor | None:
        """The tensor, waiting for it if it is on its way."""
        while True:
            with self._lock:
                arrived = self._arrived.pop(info.name, None)
                if arrived is not None:
                    window, tensor = arrived
                    window.untaken -= 1
                    window.untaken_bytes -= info.nbytes
                    return tensor
                coming = self._coming.get(info.name)
            if coming is None:
                return None
            with coming.turn:
                if self._is_coming(info, coming):
                    self._open(coming)
                if self._is_coming(info, coming):
                    self._receive(coming)

    def _is_coming(self, info: TensorInfo, window: _Window) -> bool:
        """Whether it still is: another thread may have received it meanwhile."""
        with self._lock:
            return self._coming.get(info.name) is window

    def _receive(self, window: _Window) -> None:
        """Waits for the next tensor of a window, whichever it is, and puts it aside. In its turn."""
        stream = window.stream
        assert stream is not None
        try:
            pair = next(stream, None)
        except StreamClosedError:
            pair = None  # by `close`, in another thread
        except BaseException:
            self._end(window)
            raise
        if pair is None:
            self._end(window)
            return
        name, tensor = pair
        with self._lock:
            if self._coming.get(name) is window:
                del self._coming[name]
                self._arrived[name] = window, cast("Tensor", tensor)  # of no other framework
                window.coming -= 1
        if not window.coming:
            stream.close()  # at once, rather than when nobody knows it any more

    def _end(self, window: _Window) -> None:
        """Forgets what of a window has not come. The caller reads that himself, and hears why it did not."""
        with self._lock:
            for info in window.tensors:
                if self._coming.get(info.name) is window:
                    del self._coming[info.name]
        _close_all([window])

    def _forget(self, windows: Iterable[_Window]) -> list[_Window]:
        """Forgets windows, with what has arrived of them; returns them, to be closed without the lock."""
        forgotten = list(windows)
        for window in forgotten:
            for info in window.tensors:
                if self._coming.get(info.name) is window:
                    del self._coming[info.name]
                if info.name in self._arrived and self._arrived[info.name][0] is window:
                    del self._arrived[info.name]
        self._windows = [window for window in self._windows if window not in forgotten]
        self._left = [window for window in self._left if window not in forgotten]
        return forgotten


def _close_all(windows: Iterable[_Window]) -> None:
    for window in windows:
        if window.stream is not None:
            window.stream.close()
