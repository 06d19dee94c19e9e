"""What a plan may train, as binary variables, and the variables that follow from them.

A decision is a weight at one of its measured ratios, or the last k biases. What follows from decisions
(a tensor of some set is trained, two variables are both 1) is a variable too, tied to them by linear
constraints: the solver may set it no lower than they demand, nor higher where that would pay.

A tensor is its position in `Profile.tensors`; a set of tensors is an integer with those bits set.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..contribution import Contribution
from ..profile import Profile
from .constraints import Constraints, biases_of_weights, blocks
from .linear_solver import NEVER, Constraint, Terms


class PlanVariables:
    """The variables of one (profile, contribution, constraints), and the constraints that tie them.

    Attributes:
        cost, integer, lower: per variable: minus its gain as a share of the largest, so that a solver's
            tolerances mean the same for a metric of any size; 1 where it must be whole; its lower bound.
        constraints: what all plans obey.
        choices: decisions of which a plan takes at most one: the ratios of a weight, the counts of biases.
        rules: those of `constraints` that state the user's, of decisions only.
        demands: (variable, terms, less): a variable that follows is at least sum(terms) - less. No variable
            is demanded before all that it follows from have been.
        fixed: FQN -> ratio of what every plan trains, the head as a rule.
        variables_by_share: tensor -> trained share of its channels -> the decisions that train that share.
        always: the set of tensors that every plan trains.
    """

    def __init__(
        self,
        profile: Profile,
        contribution: Contribution,
        locked: Mapping[str, float],
        asked: Constraints | None = None,
    ) -> None:
        """
        Args:
            locked: FQN -> ratio; `asked` has it by pattern.
            asked: the rules that hold beside the locks.
        """
        self.p, self.c, self.asked = profile, contribution, asked or Constraints()
        for fqn in locked:
            profile.index(fqn)
        self.cost: list[float] = []
        self.integer: list[int] = []
        self.lower: list[float] = []
        self.constraints: list[Constraint] = []
        self.choices: list[list[int]] = []
        self.rules: list[Constraint] = []
        self.demands: list[tuple[int, Terms, float]] = []
        self.fixed = {fqn: 1.0 for fqn in contribution.head or profile.head if locked.get(fqn, 1.0) > 0}
        self.fixed |= {fqn: ratio for fqn, ratio in locked.items() if ratio > 0}
        self.variables_by_share: dict[int, dict[float, list[int]]] = {}
        self.always = 0
        self._trainable = 0  # the set of tensors that some plan trains
        self._ratios_of: dict[int, dict[str, float]] = {}
        self._any_trained: dict[int, int] = {}
        self._any: dict[tuple[int, tuple[int, ...]], int] = {}
        self._both: dict[tuple[int, int], int] = {}
        self._demands: dict[int, set[int]] = {}  # variable -> those of which any makes it 1
        index = {tensor.fqn: i for i, tensor in enumerate(profile.tensors)}
        out = {fqn for fqn, ratio in locked.items() if ratio <= 0}
        self._fix(index)
        self._decide_weights(index, out)
        self._decide_biases(index, out)
        self._keep_blocks({fqn for fqn, ratio in locked.items() if ratio > 0})
        self._keep_biases()
        self._keep_count()
        self.constraints += self.rules
        largest = max((abs(cost) for cost in self.cost if math.isfinite(cost)), default=0.0) or 1.0
        self.cost = [cost / largest for cost in self.cost]

    def _variable(self, gain: float = 0.0, integer: bool = False, fixed: bool = False) -> int:
        self.cost.append(-gain)
        self.integer.append(int(integer))
        self.lower.append(1.0 if fixed else 0.0)
        return len(self.cost) - 1

    # ------------------------------------------------------------------ decisions

    def _fix(self, index: Mapping[str, int]) -> None:
        for fqn, ratio in self.fixed.items():
            gains = self.c.weights.get(fqn, {})
            variable = self._variable(gains[ratio].mean if ratio in gains else 0.0, True, fixed=True)
            self._trains(variable, index[fqn], fqn, ratio)
            self.always |= 1 << index[fqn]

    def _decide_weights(self, index: Mapping[str, int], out: set[str]) -> None:
        for fqn, gains in self.c.weights.items():
            if fqn not in index or fqn in self.fixed or fqn in out:
                continue
            chosen: list[int] = []
            for ratio, gain in sorted(gains.items()):
                if self._may_pay(gain.mean):
                    variable = self._variable(gain.mean, True)
                    chosen.append(variable)
                    self._trains(variable, index[fqn], fqn, ratio)
            self._at_most_one(chosen)

    def _decide_biases(self, index: Mapping[str, int], out: set[str]) -> None:
        counts: list[int] = []
        # Locked biases lengthen the run of the last ones that are trained, and with it the gain.
        locked = {fqn: self.fixed[fqn] for fqn in self.c.bias_order if fqn in self.fixed}
        for k in sorted(self.c.biases):
            names = [fqn for fqn in self.c.bias_order[:k] if fqn not in self.fixed]
            gain = self.c.predicted_gain(locked | dict.fromkeys(names, 1.0)) - self.c.predicted_gain(locked)
            if not names or not self._may_pay(gain) or any(fqn in out for fqn in names):
                continue
            variable = self._variable(gain, True)
            self._ratios_of[variable] = {}
            counts.append(variable)
            for fqn in names:
                self._trains(variable, index[fqn], fqn, 1.0)
        self._at_most_one(counts)

    def _may_pay(self, gain: float) -> bool:
        """Could a decision of this gain be in the best plan? One that loses only where another needs it."""
        forced = self.asked.whole_blocks or self.asked.weights_need_bias
        return math.isfinite(gain) and (gain > 0 or forced)

    def _at_most_one(self, decisions: list[int]) -> None:
        if decisions:
            self.choices.append(decisions)
            self.constraints.append((dict.fromkeys(decisions, 1.0), 1.0))

    def _trains(self, variable: int, tensor: int, fqn: str, ratio: float) -> None:
        """Let a decision train a part of a tensor, beside what else it trains."""
        self._trainable |= 1 << tensor
        self._ratios_of.setdefault(variable, {})[fqn] = ratio
        by_share = self.variables_by_share.setdefault(tensor, {})
        by_share.setdefault(self.p.share(tensor, ratio), []).append(variable)

    def variables_of(self, tensor: int) -> Iterator[tuple[float, int]]:
        """(share, variable) of each decision on a tensor; none for one that no plan trains, or for -1."""
        for share, variables in self.variables_by_share.get(tensor, {}).items():
            for variable in variables:
                yield share, variable

    # ------------------------------------------------------------------ the user's constraints

    def _keep_blocks(self, locked: set[str]) -> None:
        """The measured weights of a block are trained all or none."""
        if not self.asked.whole_blocks:
            return
        for tensors in blocks(self.p.tensors).values():
            free = [terms for i in tensors if (terms := self._decisions(i))]
            if any(self.p.tensors[i].fqn in locked for i in tensors if self.p.tensors[i].kind == "weight"):
                self.rules += [(dict.fromkeys(terms, -1.0), -1.0) for terms in free]
            for one, other in itertools.pairwise(free):
                self.rules += [
                    (one | dict.fromkeys(other, -1.0), 0.0),
                    (other | dict.fromkeys(one, -1.0), 0.0),
                ]

    def _keep_biases(self) -> None:
        """A weight is trained only where its bias is."""
        if not self.asked.weights_need_bias:
            return
        for weight, bias in biases_of_weights(self.p.tensors).items():
            terms = self._decisions(weight)
            if terms and not self.always >> bias & 1:
                self.rules.append((terms | {v: -1.0 for _, v in self.variables_of(bias)}, 0.0))

    def _keep_count(self) -> None:
        """No more than so many tensors."""
        if self.asked.max_tensors is not None:
            counts = {v: float(len(trained)) for v, trained in self._ratios_of.items()}
            self.rules.append((counts, float(self.asked.max_tensors)))

    def _decisions(self, tensor: int) -> Terms:
        """The decisions on a weight, where there are any to make."""
        is_weight = self.p.tensors[tensor].fqn in self.c.weights and not self.always >> tensor & 1
        return {v: 1.0 for _, v in self.variables_of(tensor)} if is_weight else {}

    # ------------------------------------------------------------------ what follows

    def any_trained(self, tensors: int) -> int | None:
        """A variable that is 1 when any tensor of the set is trained.

        None where one always is, NEVER where no plan trains one.
        """
        if tensors & self.always:
            return None
        possible = self._possible(tensors)
        if not possible:
            return NEVER
        if possible not in self._any_trained:
            nested = max((s for s in self._any_trained if s & possible == s and s != possible),
                         key=int.bit_count, default=0)  # fmt: skip
            # It would be a whole number by itself; but branching on how deep the backward pass goes settles
            # most other variables.
            variable = self._variable(integer=True)
            rest = possible & ~nested
            if nested:
                self._at_least(variable, {self._any_trained[nested]: 1.0})
            for i in bits(rest):
                self._at_least(variable, {v: 1.0 for _, v in self.variables_of(i)})
            self._any_trained[possible] = variable
        return self._any_trained[possible]

    def any_of(self, tensors: int, whole: Iterable[int]) -> int | None:
        """A variable that is 1 when any of `tensors` is trained, or any of `whole` is trained whole.

        None and NEVER as for `any_trained`.
        """
        extra = tuple(i for i in sorted(set(whole)) if not tensors >> i & 1 and self._whole(i))
        if tensors & self.always or any(1 << i & self.always for i in extra):
            return None
        if not extra:
            return self.any_trained(tensors)
        key = (self._possible(tensors), extra)
        if key not in self._any:
            variable = self._variable()
            if key[0]:
                trained = self.any_trained(tensors)
                assert trained is not None
                self._at_least(variable, {trained: 1.0})
            for i in extra:
                self._at_least(variable, self._whole(i))
            self._any[key] = variable
        return self._any[key]

    def both_of(self, a: int, b: int) -> int:
        """A variable that is 1 when `a` and `b` both are."""
        if (a, b) not in self._both:
            variable = self._variable()
            self._at_least(variable, {a: 1.0, b: 1.0}, less=1.0)
            self._both[a, b] = variable
        return self._both[a, b]

    def either_of(self, a: int, b: int) -> int:
        """A variable that is 1 when `a` or `b` is."""
        variable = self._variable()
        self._at_least(variable, {a: 1.0})
        self._at_least(variable, {b: 1.0})
        return variable

    def any_trained_unless(self, tensors: int, kept: int) -> int:
        """A variable that is 1 when any of `tensors` is trained and the variable `kept` is 0."""
        trained = self.any_trained(tensors)
        if trained == NEVER:
            return NEVER
        self._at_most_demanded(kept)
        variable = self._variable()
        if trained is None:
            self._at_least(variable, {kept: -1.0}, less=-1.0)
        else:
            self._at_least(variable, {trained: 1.0, kept: -1.0})
        return variable

    def _at_least(self, variable: int, terms: Terms, less: float = 0.0) -> None:
        """variable >= sum(terms) - less."""
        self.demands.append((variable, terms, less))
        self.constraints.append((terms | {variable: -1.0}, less))
        if not less:
            self._demands.setdefault(variable, set()).update(v for v, factor in terms.items() if factor > 0)

    def _at_most_demanded(self, variable: int) -> None:
        """Hold `variable` at 0 where nothing demands 1; else the solver may set it to 1 where that pays."""
        pending = {variable}
        while pending:
            demands = self._demands.pop(one := pending.pop(), set())
            if demands:
                self.constraints.append(({one: 1.0} | dict.fromkeys(demands, -1.0), 0.0))
                pending |= demands

    def _possible(self, tensors: int) -> int:
        """Those of `tensors` that some plan trains."""
        return tensors & self._trainable

    def _whole(self, i: int) -> Terms:
        return dict.fromkeys(self.variables_by_share.get(i, {}).get(1.0, []), 1.0)

    # ------------------------------------------------------------------ plans

    def ratios(self, values: Sequence[float]) -> dict[str, float]:
        """FQN -> trained ratio in the plan that these values of the variables describe."""
        ratios: dict[str, float] = {}
        for variable, trained in self._ratios_of.items():
            if values[variable] > 0.5:
                ratios |= trained
        return ratios

    def most_gain(self) -> list[float]:
        """Values of the variables where nothing limits decisions; of equal gains the smaller part."""
        values = list(self.lower)
        for decisions in self.choices:
            best = min(decisions, key=lambda j: self.cost[j])
            values[best] = 1.0 if self.cost[best] < 0 else 0.0
        return values

    def deepest(self, decision: int) -> int:
        """The first of the tensors, in forward order, that a decision trains."""
        return min(self.p.index(fqn) for fqn in self._ratios_of[decision])

    def excluding(self, values: Sequence[float]) -> Constraint:
        """The constraint that only the plan which these values of the variables describe does not satisfy."""
        terms = {v: 1.0 if values[v] > 0.5 else -1.0 for v in self._ratios_of}
        return terms, sum(t > 0 for t in terms.values()) - 1.0


def bits(tensors: int) -> Iterator[int]:
    """The tensors in a set, in rising order."""
    while tensors:
        low = tensors & -tensors
        yield low.bit_length() - 1
        tensors ^= low
