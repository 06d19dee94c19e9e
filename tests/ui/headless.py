"""Headless Chromium, and what axe-core finds wrong with a page of it."""

from __future__ import annotations

import shutil
from typing import Any

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def is_there() -> bool:
    """Is Debian's Chromium installed?"""
    return shutil.which("chromium") is not None


def launch(playwright: Any) -> Any:
    """A browser of its own."""
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)


# A menu that fades in has pale letters until it is there. What turns without an end is not waited for.
SETTLED = """async () => {
  const roots = [];
  (function walk(root) {
    roots.push(root);
    for (const e of root.querySelectorAll("*")) if (e.shadowRoot) walk(e.shadowRoot);
  })(document);
  const moving = roots.flatMap(root => root.getAnimations());
  const ending = moving.filter(a => Number.isFinite(a.effect?.getComputedTiming().endTime));
  await Promise.all(ending.map(a => a.finished.catch(() => {})));
}"""


def violations(page: Any, within: str | None = None) -> list[str]:
    """One line for each element that breaks a rule of axe-core, shadow roots included, once none moves.

    What a second look does not find, once nothing moves again, was a colour on its way to another.

    Args:
        within: a selector of the parts that are looked at; the whole page unless given.

    A line names the rule, its impact, where the element stands, the element, and what is wrong with it.
    """
    from axe_playwright_python.sync_playwright import Axe

    for _ in range(2):
        page.evaluate(SETTLED)
        found = Axe().run(page, context=within).response["violations"]
        if not found:
            return []
    return [
        f"{rule['id']} ({rule['impact']}): {_selector(node['target'])}: {node['html'][:160]} {_reason(node)}"
        for rule in found
        for node in rule["nodes"]
    ]


def _selector(target: list[Any]) -> str:
    """Of an element inside its own shadow root."""
    inner = target[-1]
    return inner if isinstance(inner, str) else inner[-1]


def _reason(node: dict[str, Any]) -> str:
    return next((check["message"] for kind in ("any", "all", "none") for check in node[kind]), "")
