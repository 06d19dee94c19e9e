"""The state of a session as a page's address has it: `?plan=…&axis=…`. A reload, another browser and a server
that was started anew read it.

What was planned is one value: JSON, compressed, in the letters that addresses may have. What the views show
stands beside it, readable, where it is not what a page opens with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from pockgraph.errors import PlanError, PockError, listing, suggest, violations
from pockgraph.plan import Budget, Plan, Trained
from pockgraph.profile import Profile
from pockgraph.search import Constraints
from pockgraph.strict_model import Strict

from .facts import Facts
from .history import Snapshot
from .info.costs import is_known
from .state import State

LINK_BYTES = 30_000  # servers take addresses of twice that length
JSON_BYTES = 2_000_000  # of a link, unpacked
WHOLE = 0
Share = Annotated[float, Field(ge=0, le=1)]
VIEWS = ("cost", "axis", "order", "filter", "block", "kind", "all", "tensor")
# Of the address, beside `plan` and `device`; where the state calls it otherwise:
ATTRIBUTE = {"all": "all_tensors", "tensor": "selected", "kind": "layer_kind"}
STATE = ("facts", "plan", "budget", "locked", "rules", *(ATTRIBUTE.get(key, key) for key in VIEWS))


class _Planned(Strict):
    """What is in `?plan=`. Tensors are numbered as the profile has them.

    Attributes:
        model: a digest of the trainable tensors.
        tensors: number -> `WHOLE`, how many channels, those of the largest norm, or a bit a channel.
    """

    version: Literal[1] = 1
    model: str
    budget: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    locked: dict[int, Share] = Field(default={})
    rules: Constraints = Field(default=Constraints())
    tensors: dict[int, int | str]
    origin: Literal["search", "edited", "frontier", "kept", "imported", "linked", "outdated"]


class Opened(NamedTuple):
    """What an address asks for.

    Attributes:
        planned: to show instead of what a page opens with; None: nothing.
        views: attributes of the state.
        problems: what it asks for and cannot be shown, in sentences.
    """

    planned: Snapshot | None
    views: Mapping[str, Any]
    problems: tuple[str, ...]


def query_of(state: State) -> dict[str, str | None]:
    """Key -> value of the address; None: not in it.

    Raises:
        PlanError: the plan names too many channels one by one for an address.
    """
    if not state.ready:
        return {}
    facts: Facts = state.facts
    found: dict[str, str | None] = {"device": facts.device if len(facts.devices) > 1 else None}
    for key in VIEWS:
        name = ATTRIBUTE.get(key, key)
        value, usual = getattr(state, name), facts.best_row if key == "tensor" else state.param[name].default
        found[key] = None if value == usual else "1" if value is True else str(value)
    opens = state.origin == "search" and state.budget == facts.opening_budget and not state.locked
    if state.plan is None or (opens and state.rules == Constraints()):
        return {**found, "plan": None}
    settled = Snapshot(state.budget, state.locked, state.rules, state.plan, state.origin)
    return {**found, "plan": encode(settled, facts.profile)}


def read(query: Mapping[str, str], facts: Facts) -> Opened:
    """What an address asks for, of a study."""
    problems, views = [], {}
    for key in VIEWS:
        if key not in query:
            continue
        name, value = ATTRIBUTE.get(key, key), query[key]
        allowed = getattr(State.param[name], "objects", None)
        if key == "tensor":
            allowed = [row.id for row in facts.rows]
        elif key == "block":
            allowed = sorted({row.block for row in facts.rows})
        elif key in ("cost", "axis"):
            allowed = [cost for cost in allowed or () if is_known(cost, facts.profile)]
        if allowed is not None and value not in allowed:
            problems.append(
                f"The address asks for {key}={value[:80]!r}, which there is not.{suggest(value, allowed)}"
            )
        else:
            views[name] = value == "1" if key == "all" else value
    planned = None
    if text := query.get("plan"):
        try:
            planned = decode(text, facts)
        except PockError as e:
            problems.append(f"{e} Shown is the plan that this page opens with.")
    return Opened(planned, views, tuple(problems))


def encode(settled: Snapshot, profile: Profile) -> str:
    """
    Raises:
        PlanError: the plan names too many channels one by one.
    """
    number = {tensor.fqn: i for i, tensor in enumerate(profile.tensors)}
    data = _Planned(
        model=_digest(profile),
        budget=settled.budget.limits,
        locked={number[fqn]: ratio for fqn, ratio in settled.locked.items()},
        rules=settled.rules,
        tensors={number[fqn]: _channels(profile, number[fqn], t) for fqn, t in settled.plan.tensors.items()},
        origin=settled.origin,  # pyright: ignore[reportArgumentType]
    ).model_dump(mode="json", exclude_defaults=True)
    packed = zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)
    text = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    if len(text) > LINK_BYTES:
        raise PlanError(
            "This plan names too many channels one by one to stand in the page's address: a reload does not "
            "bring it back. Download it under Export."
        )
    return text


def decode(text: str, facts: Facts) -> Snapshot:
    """
    Raises:
        PlanError: it is no link, or one of another model.
    """
    unpacked = zlib.decompressobj()
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        data = unpacked.decompress(packed, JSON_BYTES)
    except (binascii.Error, zlib.error, ValueError):
        data = b""
    if not data or not unpacked.eof:
        raise PlanError("The plan in the address cannot be read: a part is missing. Copy the whole address.")
    try:
        planned = _Planned.model_validate_json(data, strict=True)
    except ValidationError as e:
        raise PlanError(f"The plan in the address cannot be read: {violations(e, 'it')}.") from None
    profile = facts.profile
    if planned.model != _digest(profile):
        raise PlanError(
            f"The plan in the address was made for another model than {facts.name!r}. Open the study that "
            "it was made with, or download it there and import it here."
        )
    names = [tensor.fqn for tensor in profile.tensors]
    if unknown := [i for i in (*planned.tensors, *planned.locked) if not 0 <= i < len(names)]:
        raise PlanError(
            f"The plan in the address names tensors that there are not: {listing([*map(str, unknown)])}."
        )
    if unlimited := planned.budget.keys() - Budget.__dataclass_fields__.keys():
        raise PlanError(f"The plan in the address limits {listing(sorted(unlimited))}, which is no cost.")
    limits: dict[str, Any] = {k: round(v) if k.endswith("bytes") else v for k, v in planned.budget.items()}
    budget, locked = Budget(**limits), {names[i]: ratio for i, ratio in planned.locked.items()}
    tensors = {names[i]: _trained(profile, i, said) for i, said in sorted(planned.tensors.items())}
    plan = facts.plan_of(tensors, planned.origin)
    origin: str = planned.origin
    if origin in ("search", "frontier"):
        found = _searched(facts, budget, planned.rules.with_locked(dict(sorted(locked.items()))))
        if found is not None and found.tensors == plan.tensors:
            plan = found
        elif origin == "search":
            origin = "linked"  # the study has changed since: it is not the best any more
    return Snapshot(budget, locked, planned.rules, plan, origin)


def _searched(facts: Facts, budget: Budget, asked: Constraints) -> Plan | None:
    try:
        return facts.search(budget, asked)
    except PockError:
        return None


def _digest(profile: Profile) -> str:
    """Of what a plan must fit."""
    said = json.dumps([(tensor.fqn, tensor.shape) for tensor in profile.tensors])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _channels(profile: Profile, i: int, trained: Trained) -> int | str:
    if trained.channels is None:
        return WHOLE
    count = len(trained.channels)
    if trained.channels == tuple(sorted(profile.channel_order[i][:count])):
        return count
    bits = sum(1 << channel for channel in trained.channels)
    return base64.b64encode(bits.to_bytes((profile.tensors[i].channels or 0) // 8 + 1, "little")).decode()


def _trained(profile: Profile, i: int, said: int | str) -> Trained:
    tensor = profile.tensors[i]
    if said == WHOLE:
        return Trained()
    channels: tuple[int, ...] = ()
    if isinstance(said, int):
        channels = tuple(sorted(profile.channel_order[i][:said])) if 0 < said < (tensor.channels or 0) else ()
    else:
        try:
            bits = int.from_bytes(base64.b64decode(said, validate=True), "little")
        except (binascii.Error, ValueError):
            bits = 0
        if tensor.channels is not None and bits.bit_length() <= tensor.channels:
            channels = tuple(c for c in range(tensor.channels) if bits >> c & 1)
    if not channels:
        raise PlanError(f"The plan in the address names channels of {tensor.fqn!r} that there are not.")
    return Trained(dim=tensor.channel_dim, channels=channels)
