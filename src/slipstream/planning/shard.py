"""Which part of a checkpoint a rank needs: rules from names of tensors to how each is divided. Pure functions.

Shard, Checkpoint  ->  TensorInfos of the rank's pieces, and Strips for those that are not contiguous
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from slipstream.errors import UsageError
from slipstream.planning.divide import Cut, Piece, divide_range, divide_tensor, is_int, move_piece
from slipstream.planning.shard_rules import READY_RULES, HeadRule, Rule, find_head_cut, find_head_dim, shard_rules
from slipstream.types import Checkpoint, Dtype, Strips, TensorInfo

_NAMED: Mapping[str, Rule] = {
    "experts": "experts",
    "head rows": "head rows",
    "head columns": "head columns",
    "shared heads": "shared heads",
}
_NUMBERS = ("head_dim", "ranks_per_host")
_MOST_RANKS = 1 << 20
# A number in a name. Longer ones number nothing, and Python refuses to read very long ones.
_NUMBER = "[0-9]{1,18}"
_ALONE = re.compile(f"(?<![0-9]){_NUMBER}(?![0-9])")


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a checkpoint.

        slipstream.load("llama/", shard=slipstream.Shard(rank, 4))
        slipstream.load("model/", shard=slipstream.Shard(rank, 4, {"*.up.weight": 0, "*.down.weight": 1, "*": None}))

    Attributes:
        rank: whose part, from 0 on.
        world_size: how many ranks there are.
        rules: how each tensor is divided. The name of ready ones ("llama", "qwen", "mixtral" for tensor parallelism;
            "qwen-ep", "mixtral-ep" with whole experts), or "auto" for whichever of them knows all tensors. Or a mapping
            from patterns of names to rules, of which the first that matches counts; every tensor needs one. In a
            pattern `*` is any text, `?` any character and `#` a number. A rule is

                None            every rank has all of it
                0, 1, -1, ...   it is divided along that dimension, as `torch.chunk` does it
                Cut(...)        the same, with more to say
                "experts"       whole tensors go to the ranks, by the number that `#` stands for
                "head rows", "head columns", "shared heads"
                                attention: divided along dimension 0, 1 or 0 between heads; shared where there are
                                fewer heads than ranks
        head_dim: elements of an attention head. Needed where rules speak of heads, the checkpoint has no query or key
            norm to tell it by, and there are so many ranks that a head might be cut.
        ranks_per_host: how many of the ranks run on this host, and so share its page cache: columns of local files are
            then read from the disk once for all of them. None is what torchrun says (LOCAL_WORLD_SIZE), else 1.

    Raises:
        UsageError: a value that cannot work.
    """

    rank: int
    world_size: int
    rules: str | Mapping[str, Rule] = "auto"
    head_dim: int | None = None
    ranks_per_host: int | None = None

    def __post_init__(self) -> None:
        if not (is_int(self.world_size) and 1 <= self.world_size <= _MOST_RANKS):
            raise UsageError(f"a Shard's world_size is {self.world_size!r}; it is how many ranks there are")
        if not (is_int(self.rank) and 0 <= self.rank < self.world_size):
            last = self.world_size - 1
            raise UsageError(f"a Shard's rank is {self.rank!r}; of {self.world_size} ranks it is one from 0 to {last}")
        if self.head_dim is not None and not (is_int(self.head_dim) and self.head_dim > 0):
            raise UsageError(f"a Shard's head_dim is {self.head_dim!r}; it is a number of elements above 0, or None")
        if self.ranks_per_host is not None and not (is_int(self.ranks_per_host) and self.ranks_per_host > 0):
            raise UsageError(f"a Shard's ranks_per_host is {self.ranks_per_host!r}; it is a number above 0, or None")
        if isinstance(self.rules, str):
            if self.rules not in ("auto", *READY_RULES):
                ready = ", ".join(f'"{name}"' for name in ("auto", *READY_RULES))
                raise UsageError(f"there are no shard rules {self.rules!r}; there are {ready}, or give a mapping")
        elif not isinstance(self.rules, Mapping):
            raise UsageError(f"a Shard's rules are {self.rules!r}; they are a name or a mapping from patterns to rules")
        else:
            for pattern, rule in self.rules.items():
                _check_rule(pattern, rule)
            object.__setattr__(self, "rules", dict(self.rules))  # which nobody else changes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads RANK/WORLD[:RULES], as the command line has it.

        RULES are separated by commas: the name of ready rules, PATTERN=DIMENSION, PATTERN=none, PATTERN=experts or
        another rule's name, head_dim=N and ranks_per_host=N. What stands first goes first.

        Raises:
            UsageError: it is not of that form.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*(?::(.*))?", text, re.DOTALL)
        if match is None:
            raise UsageError(f'"{text}" is not a shard; write RANK/WORLD or RANK/WORLD:RULES, for example 0/4:llama')
        words = [word.strip() for word in (match[3] or "").split(",") if word.strip()]
        numbers = {
            name: _parse_int(value, word)
            for word in words
            for name, _, value in [word.partition("=")]
            if name in _NUMBERS
        }
        words = [word for word in words if word.partition("=")[0] not in _NUMBERS]
        rules = _parse_rules(words) if len(words) > 1 or "=" in "".join(words) else words[0] if words else "auto"
        return cls(int(match[1]), int(match[2]), rules, **numbers)


class ShardedTensors(NamedTuple):
    """What of the selected tensors belongs to a rank.

    Attributes:
        tensors: its pieces, in the order of the checkpoint.
        strips: by name, where the bytes of those are that are not contiguous; None where all tensors are whole.
    """

    tensors: tuple[TensorInfo, ...]
    strips: Mapping[str, Strips] | None


def shard_tensors(checkpoint: Checkpoint, selected: Sequence[TensorInfo], shard: Shard) -> ShardedTensors:
    """Narrows the selected tensors to what belongs to the shard's rank.

    Raises:
        UsageError: the rules say nothing about a tensor, or ask for what cannot be.
    """
    rules = _choose_rules(selected, shard.rules)
    head_dim = shard.head_dim or find_head_dim(checkpoint)
    experts = _count_experts(checkpoint, rules) if "experts" in rules.values else {}
    divided: dict[tuple[int, Dtype, tuple[int, ...]], Piece] = {}  # layers are alike, and experts
    tensors: list[TensorInfo] = []
    strips: dict[str, Strips] = {}
    for info in selected:
        place, number = rules.find(info.name)
        assert place is not None, "rules are chosen so that they know every tensor"
        rule = rules.values[place]
        if rule == "experts":
            first, last = divide_range(experts[place], shard.rank, shard.world_size)
            if first <= number < last:
                tensors.append(info)
        elif rule is None or shard.world_size == 1:
            tensors.append(info)
        else:
            key = place, info.dtype, info.shape
            if key not in divided:
                cut = _find_cut(rule, info, head_dim, shard.world_size)
                divided[key] = move_piece(divide_tensor(info, cut, shard.rank, shard.world_size), "", 0, -info.start)
            piece = move_piece(divided[key], info.name, info.blob, info.start)
            tensors.append(piece.info)
            if piece.strips is not None:
                strips[info.name] = piece.strips
    return ShardedTensors(tuple(tensors), strips)


def _find_cut(rule: Cut | int | HeadRule, info: TensorInfo, head_dim: int | None, world_size: int) -> Cut:
    if isinstance(rule, Cut):
        return rule
    if isinstance(rule, int):
        return Cut(dim=rule)
    return find_head_cut(rule, info, head_dim, world_size)


class _Rules:
    """Patterns and their rules, made ready for many names."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.values = list(rules.values())
        self._patterns = [re.compile(_translate(pattern), re.DOTALL) for pattern in rules]
        # Names mostly differ in numbers only: where no pattern looks at these, such names share a rule.
        self._numbers_alike = not any(re.search(r"[0-9?]", pattern) for pattern in rules)
        self._found: dict[str, int | None] = {}

    def find(self, name: str) -> tuple[int | None, int]:
        """The place of the first rule that matches, or None; and the number of the expert, or 0."""
        key = _ALONE.sub("0", name) if self._numbers_alike else name
        if key not in self._found:
            matching = (place for place, pattern in enumerate(self._patterns) if pattern.fullmatch(key))
            self._found[key] = next(matching, None)
        place = self._found[key]
        if place is None or self.values[place] != "experts":
            return place, 0
        match = self._patterns[place].fullmatch(name)
        assert match is not None, "what matches a name matches one that differs in numbers only"
        return place, int(match[1])

    def knows_all(self, tensors: Sequence[TensorInfo]) -> bool:
        """Whether every tensor has a rule."""
        return all(self.find(info.name)[0] is not None for info in tensors)

    def find_unknown(self, tensors: Sequence[TensorInfo]) -> list[str]:
        """The names that no rule matches."""
        return [info.name for info in tensors if self.find(info.name)[0] is None]


def _choose_rules(selected: Sequence[TensorInfo], wanted: str | Mapping[str, Rule]) -> _Rules:
    """The rules that are meant, which know all of the tensors.

    Raises:
        UsageError: there are none.
    """
    if wanted == "auto":
        return _find_rules(selected)
    rules = _Rules(shard_rules(wanted) if isinstance(wanted, str) else wanted)
    unknown = rules.find_unknown(selected)
    if unknown:
        whose = f'the shard rules "{wanted}"' if isinstance(wanted, str) else "the shard rules"
        raise UsageError(
            f"{whose} say nothing about {_some(unknown)}: give every tensor a rule, or keep the rest whole on every "
            'rank with {..., "*": None}'
        )
    return rules


def _find_rules(selected: Sequence[TensorInfo]) -> _Rules:
    """The first ready rules that know all of the tensors."""
    tried = {name: _Rules(rules) for name, rules in READY_RULES.items()}
    for rules in tried.values():
        if rules.knows_all(selected):
            return rules
    unknown = {name: rules.find_unknown(selected) for name, rules in tried.items()}
    nearest = min(unknown, key=lambda name: len(unknown[name]))
    raise UsageError(
        f'none of the ready shard rules knows all tensors; "{nearest}" says nothing about {_some(unknown[nearest])}. '
        f'Extend it: {{**slipstream.shard_rules("{nearest}"), "*": None}} keeps the rest whole on every rank'
    )


def _count_experts(checkpoint: Checkpoint, rules: _Rules) -> dict[int, int]:
    """How many experts there are, by the place of the rule that finds them: also those that are not selected."""
    counts: dict[int, int] = {}
    for info in checkpoint.tensors:
        place, number = rules.find(info.name)
        if place is not None and rules.values[place] == "experts":
            counts[place] = max(counts.get(place, 0), number + 1)
    return counts


def _translate(pattern: str) -> str:
    special = {"*": ".*", "?": ".", "#": f"({_NUMBER})"}
    return "".join(special.get(character) or re.escape(character) for character in pattern)


def _check_rule(pattern: object, rule: object) -> None:
    if not isinstance(pattern, str) or not pattern:
        raise UsageError(f"shard rules have the pattern {pattern!r}; it is text that names match, for example *.weight")
    named = isinstance(rule, str) and rule in _NAMED
    if not (rule is None or isinstance(rule, Cut) or is_int(rule) or named):
        raise UsageError(f"the shard rule for {pattern!r} is {rule!r}; it is a dimension, a Cut, None or {_names()}")
    if rule == "experts" and pattern.count("#") != 1:
        raise UsageError(f'the shard rule "experts" needs one # in its pattern, where the number stands: {pattern!r}')


def _parse_rules(words: Sequence[str]) -> Mapping[str, Rule]:
    rules: dict[str, Rule] = {}
    for word in words:
        pattern, equals, value = word.rpartition("=")
        if equals:
            rules.setdefault(pattern, _parse_rule(value, word))
        else:
            rules |= {key: rule for key, rule in shard_rules(word).items() if key not in rules}
    return rules


def _parse_rule(value: str, word: str) -> Rule:
    if value.lower() == "none":
        return None
    named = value.replace("-", " ")
    return _NAMED[named] if named in _NAMED else _parse_int(value, word)


def _parse_int(text: str, word: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise UsageError(f'"{word}" is no shard rule; what stands behind = is a dimension, none or {_names()}')
    return int(text)


def _names() -> str:
    return ", ".join(f'"{name}"' for name in _NAMED)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
