"""The guess in which order a caller goes through a checkpoint: what keeps it, what breaks it, and what follows."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream import Dtype, TensorInfo
from slipstream.safetensors.orders import Order, likely_orders, natural_key


def tensors(names: Sequence[str], nbytes: int = 10) -> list[TensorInfo]:
    """Tensors of one size, stored in this order."""
    return [
        TensorInfo(name, Dtype.U8, (nbytes,), 0, number * nbytes, (number + 1) * nbytes)
        for number, name in enumerate(names)
    ]


def order_of(count: int) -> Order:
    return Order(tensors([str(number) for number in range(count)]))


def note(order: Order, *positions: int) -> tuple[int, int]:
    """Asks for the tensors at these positions; returns how many are kept in a row, and up to where."""
    for position in positions:
        order.note(str(position))
    return order.kept, order.last


def test_tensors_in_turn_are_kept() -> None:
    """Each that follows the last one counts, from anywhere on."""
    assert note(order_of(100), 40, 41, 42) == (3, 42)


def test_a_jump_begins_anew() -> None:
    """Forwards or backwards, what comes next counts from there."""
    assert note(order_of(100), 1, 2, 3, 50) == (1, 50)
    assert note(order_of(100), 50, 51, 52, 3, 4) == (2, 4)


def test_what_was_asked_for_before_changes_nothing() -> None:
    """A tensor that is asked for again, shortly after, is no jump."""
    assert note(order_of(100), 1, 2, 3, 2, 3, 4) == (4, 4)


def test_threads_out_of_turn_are_kept() -> None:
    """Whichever of four threads comes first, all that were asked for count when the gap is filled."""
    assert note(order_of(100), 1, 3, 4) == (1, 1)
    assert note(order_of(100), 1, 3, 4, 2) == (4, 4)


@given(st.integers(0, 2**32))
def test_a_pool_of_four_breaks_no_order(seed: int) -> None:
    """Threads that take what they find among the next four keep the order, though some are overtaken many times."""
    draw = random.Random(seed)
    left, positions = list(range(60)), [0]
    left.remove(0)
    while left:
        overtaken = len(positions) - left[0]  # how many that come after the first that is left were asked for
        positions.append(left.pop(0 if overtaken > 8 else draw.randrange(min(4, len(left)))))
    kept, last = note(order_of(60), *positions)
    assert last == 59
    assert kept >= 30


def test_what_is_left_out_now_and_then_breaks_nothing() -> None:
    """A tensor that nobody asks for is passed over once five behind it were."""
    assert note(order_of(100), 1, 2, 4, 5, 6, 7) == (2, 2)
    assert note(order_of(100), 1, 2, 4, 5, 6, 7, 8) == (7, 8)


def test_forgetting_begins_anew() -> None:
    """After something that no order foretells, the next tensor is the first."""
    order = order_of(10)
    note(order, 1, 2, 3)
    order.forget()
    assert (order.kept, order.last) == (0, -1)
    assert note(order, 4) == (1, 4)


def test_what_follows_fits_and_is_not_known() -> None:
    """As many as fit, without those that are known; one at least, however large; none at the end."""
    order = order_of(10)
    assert [info.name for info in order.following(3, {"5"}.__contains__, 30)] == ["4", "6", "7"]
    assert [info.name for info in order.following(3, set().__contains__, 1)] == ["4"]
    assert order.following(9, set().__contains__, 100) == []


def test_the_likely_orders_of_a_model() -> None:
    """Those of keys, of the file, and of names with their numbers counted; each of them once."""
    names = ["layers.10.b", "layers.2.b", "layers.2.a", "head"]
    keys = sorted(names)
    orders = [[info.name for info in order.tensors] for order in likely_orders(tensors(names), keys)]
    assert orders == [keys, names, ["head", "layers.2.a", "layers.2.b", "layers.10.b"]]
    assert len(likely_orders(tensors(["a", "b"]), ["a", "b"])) == 1


@pytest.mark.parametrize(
    ("earlier", "later"), [("a.2", "a.10"), ("a.1.z", "a.b"), ("a", "a.b"), ("a.1", "a.1.b"), ("a.9", "a.x2")]
)
def test_numbers_are_counted_as_such(earlier: str, later: str) -> None:
    """Between dots, numbers come before words, and by their value."""
    assert natural_key(earlier) < natural_key(later)
