"""What a plan does to the operators of a training graph: one set of rules, read in two ways.

    an operator               exists where           reads                           has the size
    of the loss               always                 whole values                    of the whole
    of a gradient or update   a tensor it serves     whole values                    of the whole, or of the
                              is trained                                             trained part (`amounts`)
    that a selection passes,  that tensor is         some channels of the operands   of the trained part
    for the one it serves     trained                it moves to (`selection`)
    that compares a clamped   a tensor it serves     a clamp mask, unless the        of the whole
    result with bounds        is trained             activation is kept (`when_kept`)

`plan_cost` asks about one plan: it names the trained tensors, and takes the answers as numbers.
`search/memory_constraints` asks about all plans at once: any tensor may be trained, and a condition (`When`)
becomes a variable. A set of tensors is an integer with the bits of their positions in `Profile.tensors`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from .operator_cost import Amounts, Operator

if TYPE_CHECKING:
    from .profile import Profile

INDEX_BYTES = 8  # of the number of a trained channel
_AS_CHANNELS: Mapping[int, Amounts] = MappingProxyType({})


class When(NamedTuple):
    """Plans: those that train any of `trained`, or any of `whole` whole; all of them where `always`."""

    trained: int = 0
    whole: int = 0
    always: bool = False


def any_of(conditions: Iterable[When]) -> When:
    trained = whole = 0
    always = False
    for when in conditions:
        trained |= when.trained
        whole |= when.whole
        always |= when.always
    return When(trained, whole, always)


def when_exists(o: Operator) -> When:
    """The plans that have an operator."""
    return When(always=True) if o.needed else When(o.serves)


class Selection(NamedTuple):
    """What an operator reads that computes some channels of one tensor's gradient.

    Attributes:
        selected: operators, of whose results it reads these channels.
        input_bytes: of inputs of which it reads these channels; they stand beside the batch from the start.
        whole: operators whose results it reads whole.
    """

    selected: tuple[int, ...]
    input_bytes: tuple[int, ...]
    whole: tuple[int, ...]


def selection(o: Operator, operands: Sequence[int]) -> Selection:
    """Of an operator whose selection moves to `operands`, as `Profile.moves` has them."""
    selected = tuple(m for m in operands if m >= 0)
    whole = tuple(m for m in o.inputs if m not in operands)
    return Selection(selected, tuple(-1 - code for code in operands if code < -1), whole)


def amounts(
    profile: Profile,
    n: int,
    i: int,
    share: float,
    moves: Container[int],
    fixed: Mapping[int, Amounts] = _AS_CHANNELS,
) -> Amounts:
    """(bytes, flops, work) of operator n, which serves tensor i alone, when a share of it is trained.

    Updates shrink with the share, and what a selection passes (`moves`); what stands above that does not.
    `fixed` says of some operators what stays, where it is not a share of the channels (`other_fixed`).
    """
    o = profile.operators[n]
    shrinks = n > profile.roots[i] or n in moves
    return o.part(share if shrinks else 1.0, fixed.get(n) or o.fixed)


def part_bytes(profile: Profile, i: int, share: float, channels: int) -> int:
    """Of the trained part that stands beside a whole weight, with the indices that place it."""
    return round(profile.tensors[i].nbytes * share) + INDEX_BYTES * channels


def state_bytes(profile: Profile, i: int, share: float, dim: int | None = None) -> int:
    """Of the optimizer state of a tensor of which a share is trained: of its channels, or along `dim`."""
    stays, shrinks = profile.state_bytes[i] if dim is None else profile.state_along(i, dim)
    return stays + round(shrinks * share)


# ---------------------------------------------------------------- who reads a value, in which plans


class Reader(NamedTuple):
    """An operator that reads a value.

    Attributes:
        at: its position.
        when: the plans in which it reads the whole value.
        compares: it compares the value with bounds, so that a clamp mask would do.
        of: the tensor that, trained in part, makes it read selected channels instead; -1: none does.
        part_bytes: of all those channels.
    """

    at: int
    when: When
    compares: bool = False
    of: int = -1
    part_bytes: int = 0


def readers(profile: Profile) -> list[list[Reader]]:
    """Per storage, who reads it in any plan, in schedule order."""
    operators = profile.operators
    found: list[list[Reader]] = [[] for _ in operators]
    for n, o in enumerate(operators):
        i = o.only_served()
        moved = selection(o, profile.moves[i].get(n, ())).selected if i >= 0 else ()
        bytes_of = {operators[m].storage: operators[m].size_bytes for m in moved}
        for s in o.operands:
            if s in bytes_of:
                found[s].append(Reader(n, When(whole=1 << i), o.compared == s, i, bytes_of[s]))
            else:
                found[s].append(Reader(n, when_exists(o), o.compared == s))
        if o.needed:
            found[o.storage].append(Reader(n, when_exists(o)))
    found[operators[profile.loss].storage].append(Reader(len(operators), When(always=True)))  # a result stays
    return found


def input_readers(profile: Profile) -> list[Reader]:
    """Who reads selected channels of the batch, which stand beside it from the start."""
    return [
        Reader(n, When(whole=1 << i), of=i, part_bytes=sum(selection(profile.operators[n], to).input_bytes))
        for i, moves in enumerate(profile.moves)
        for n, to in moves.items()
        if profile.operators[n].only_served() == i
    ]


def selections(profile: Profile) -> Iterator[tuple[int, int, int]]:
    """(operator, bytes, tensor) of each value of which channels are selected: where a selection stops.

    An operator of -1 is an input.
    """
    for i, moves in enumerate(profile.moves):
        found: dict[int, int] = {}
        for n, to in moves.items():
            if profile.operators[n].only_served() == i:
                reads = selection(profile.operators[n], to)
                yield from ((-1, nbytes, i) for nbytes in reads.input_bytes)
                found |= {m: profile.operators[m].size_bytes for m in reads.selected}
        for m, nbytes in found.items():
            if m not in moves or profile.operators[m].only_served() != i:
                yield m, nbytes, i


def weight_readers(profile: Profile) -> list[list[Reader]]:
    """Per tensor that is trained in part, who reads the whole weight: joined, it stands there for them."""
    found: list[list[Reader]] = [[] for _ in profile.tensors]
    for n, o in enumerate(profile.operators):
        for i in o.reads:
            passed = n in profile.moves[i]
            if not passed or o.only_served() != i:
                # A weight that is used twice is read whole on the way to its own gradient.
                always = o.needed or bool(o.serves >> i & 1 and not passed)
                found[i].append(Reader(n, When(o.serves & ~(1 << i), always=always)))
    return found


def when_kept(o: Operator, readers_of_y: Sequence[Reader]) -> When:
    """The plans in which the activation that a clamp's backward compares is kept itself, for `o.kept_for`."""
    return any_of(r.when for r in readers_of_y if r.at in o.kept_for)
