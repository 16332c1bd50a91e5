"""What `slipstream plan --shard` shows beside the plan: every rank's bytes, and how columns are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from rich.console import Console

from slipstream.cli.text import add_row, counted, format_bytes, make_facts, make_table, printable
from slipstream.types import ReadPlan

_MOST_RANKS = 64
_MOST_REASONS = 12


def print_ranks(console: Console, plans: Sequence[ReadPlan], rank: int) -> None:
    """A table of all ranks, of which one is marked, and below it the reasons of that one's reads of columns."""
    table = make_table("rank", "tensors", "in memory", "of storage", "of the checkpoint", right=["tensors", *_FIGURES])
    for number, plan in islice(enumerate(plans), _MOST_RANKS):
        mark = " (this)" if number == rank else ""
        figures = _figures(plan.landing_bytes, plan.source_bytes, plan)
        add_row(table, f"{number}{mark}", f"{plan.tensor_count:,}", *figures)
    if len(plans) > _MOST_RANKS:
        add_row(table, f"and {len(plans) - _MOST_RANKS:,} more; --json lists all")
    held, read = (sum(plan.landing_bytes for plan in plans), sum(plan.source_bytes for plan in plans))
    add_row(table, "all", "", *_figures(held, read, plans[0]))
    console.print()
    console.print(table)
    reasons = _find_reasons(plans[rank])
    if reasons:
        console.print()
        facts = [
            ("columns", f"{counted(count, 'tensor')}: {printable(reason)}")
            for reason, count in islice(reasons.items(), _MOST_REASONS)
        ]
        if len(reasons) > _MOST_REASONS:
            facts.append(("columns", f"and {len(reasons) - _MOST_REASONS} more kinds; --json lists all"))
        console.print(make_facts(facts))


def shard_as_json(plans: Sequence[ReadPlan], rank: int) -> Mapping[str, object]:
    """The same for programs."""
    return {
        "rank": rank,
        "world_size": len(plans),
        "ranks": [
            {"tensors": plan.tensor_count, "bytes": plan.nbytes, "source_bytes": plan.source_bytes} for plan in plans
        ],
        "columns": [{"tensors": count, "reason": reason} for reason, count in _find_reasons(plans[rank]).items()],
    }


_FIGURES = ("in memory", "of storage", "of the checkpoint")


def _figures(held: int, read: int, plan: ReadPlan) -> tuple[str, str, str]:
    whole = plan.checkpoint.nbytes
    return format_bytes(held), format_bytes(read), f"{100 * read / whole:.1f} %" if whole else ""


def _find_reasons(plan: ReadPlan) -> dict[str, int]:
    """Why strips are read as they are, and of how many tensors that holds."""
    reasons: dict[str, int] = {}
    for op in plan.ops:
        if op.gather is not None:
            reasons[op.gather.reason] = reasons.get(op.gather.reason, 0) + 1
    return reasons
