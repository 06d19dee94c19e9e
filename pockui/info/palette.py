"""The colours of the page and its charts, light and dark, in one place."""

from __future__ import annotations

from typing import Any, NamedTuple


class Palette(NamedTuple):
    """CSS colours; the same hue means the same thing everywhere."""

    accent: str  # what can be moved, and the current plan
    gain: str
    cost: str
    bad: str
    text: str
    soft: str  # labels
    line: str  # grids and borders
    paper: str


LIGHT = Palette("#3457d5", "#0c7a60", "#c8700c", "#c62f3b", "#1c2126", "#5b6570", "#e1e5ea", "#ffffff")
DARK = Palette("#8ea6ff", "#43c59e", "#f0a24a", "#ff7b82", "#e6e9ee", "#9aa4b1", "#2e343d", "#14181d")


# Those of the page around a chart, by the names that `components.css` gives them: for what a browser draws.
PAGE = Palette(*(f"var(--pock-{name})" for name in Palette._fields))


def palette(dark: bool | None) -> Palette:
    """None: the page's own colours, light or dark."""
    return PAGE if dark is None else DARK if dark else LIGHT


def theme() -> dict[str, Any]:
    """Material's theme for both modes."""
    return {"light": _mode(LIGHT, "light"), "dark": _mode(DARK, "dark")}


def _mode(p: Palette, mode: str) -> dict[str, Any]:
    return {
        "palette": {
            "mode": mode,
            "primary": {"main": p.accent},
            "success": {"main": p.gain},
            "warning": {"main": p.cost},
            "error": {"main": p.bad},
            "text": {"primary": p.text, "secondary": p.soft},
            "background": {"default": p.paper, "paper": p.paper},
            "divider": p.line,
        },
        "shape": {"borderRadius": 8},
        "typography": {"fontSize": 13, "button": {"textTransform": "none"}},
        "components": {
            "MuiAppBar": {
                "styleOverrides": {
                    "root": {
                        "backgroundColor": p.paper,
                        "color": p.text,
                        "boxShadow": "none",
                        "borderBottom": f"1px solid {p.line}",
                        "& .MuiLinearProgress-root": {"display": "none"},  # without work it stands at 100 %
                        "& .title": {"color": f"{p.text} !important", "fontSize": "18px", "fontWeight": 600},
                    }
                }
            },
            "MuiPaper": {"styleOverrides": {"root": {"backgroundImage": "none"}}},
            # The page's title is its first heading, and its spacers are none.
            "MuiTypography": {"defaultProps": {"variantMapping": {"h3": "h1", "h5": "div"}}},
            "MuiMenuItem": {"defaultProps": {"role": "option"}},  # menus here are lists to choose from
            "MuiLinearProgress": {"defaultProps": {"aria-label": "Progress"}},
        },
    }
