"""What a search keeps to beside the budget: locks by pattern, whole blocks, biases, a number of tensors."""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PockError
from pockgraph.search import Constraints

from ..info.format import percent
from ..state import State
from . import parts

ANY = "any"
SHARES = {"present share": "present", "frozen": "frozen"}
PATTERN_HELP = (
    "A name, a glob such as blocks.3.* or *.bias, or re: and a regular expression of the whole name, such as "
    "re:blocks.[0-3].*"
)


class SearchRules(pn.viewable.Viewer):
    """A field and menus that lock tensors, and switches; what cannot be is said below."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        small = {"size": "small", "margin": 0, "sx": parts.FIELD}
        self._pattern = pmui.TextInput(label="Lock tensors", placeholder="blocks.3.*", width=190, **small)
        self._share = pmui.Select(label="At", width=140, options=SHARES, value="present", **small)
        self._lock = pmui.Button(label="Lock", size="small", variant="outlined", margin=0)
        self._switches = {
            "whole_blocks": pmui.Switch(label="Whole blocks", margin=0),
            "weights_need_bias": pmui.Switch(label="Weights need their bias", margin=0),
        }
        self._most = pmui.TextInput(label="Most tensors", placeholder=ANY, width=120, **small)
        self._shown_most: int | None = None
        self._refused = parts.text(visible=False)
        self._lock.on_click(lambda _: self._lock_pattern())
        self._pattern.param.watch(lambda _: self._lock_pattern(), "enter_pressed")
        for rule, switch in self._switches.items():
            switch.param.watch(lambda event, rule=rule: self._set_rule(rule, event.new), "value")
        self._most.param.watch(lambda event: self._set_most(event.new.strip()), "value")
        state.param.watch(self._show_study, "facts")
        state.param.watch(self._show_rules, "rules")
        self._show_study()

    def _lock_pattern(self) -> None:
        pattern, share = (self._pattern.value_input or "").strip(), self._share.value
        if not pattern:
            self._refuse(f"Write which tensors to lock. {PATTERN_HELP}.")
            return
        try:
            self.state.lock(pattern, None if share == "present" else share)
        except PockError as e:
            self._refuse(str(e))
        else:
            self._refuse("")

    def _set_most(self, text: str) -> None:
        if (text.isdecimal() and int(text)) or not text:
            self._refuse("")
            self._set_rule("max_tensors", int(text) if text else None)
        else:
            self._refuse(f"{text!r} is no number of tensors. Write 1 or more, or nothing.")

    def _refuse(self, message: str) -> None:
        parts.put(self._refused, parts.problem_html(message))

    def _set_rule(self, rule: str, value: Any) -> None:
        if self.state.ready and getattr(self.state.rules, rule) != value:
            self.state.set_rules(**{rule: value})

    def _show_study(self, *_: object) -> None:
        if not self.state.ready:
            return
        facts = self.state.facts
        ratios = sorted({q for gains in facts.contribution.weights.values() for q in gains}, reverse=True)
        self._share.options = {**SHARES, **{percent(q): q for q in ratios}, "unlocked": "free"}
        self._show_rules()

    def _show_rules(self, *_: object) -> None:
        with pn.io.hold():
            for rule, widget in self._switches.items():
                widget.value = getattr(self.state.rules, rule)
            most = self.state.rules.max_tensors
            if most != self._shown_most:  # else what is being typed stays
                self._shown_most = most
                self._most.value = "" if most is None else str(most)

    def __panel__(self) -> pn.viewable.Viewable:
        tools = pmui.Row(
            self._pattern, self._share, self._lock, *self._switches.values(), self._most,
            margin=0, sizing_mode="stretch_width",
            sx={"flexWrap": "wrap", "gap": 1.5, "alignItems": "center", "py": 1},
        )  # fmt: skip
        return pmui.Column(tools, self._refused, margin=0, sizing_mode="stretch_width")


def rules_text(rules: Constraints) -> str:
    """What a search keeps to, in words; locks are not meant."""
    said = [
        "whole blocks" if rules.whole_blocks else "",
        "weights with their biases" if rules.weights_need_bias else "",
        f"at most {rules.max_tensors} tensors" if rules.max_tensors is not None else "",
    ]
    return ", ".join(filter(None, said)).capitalize()
