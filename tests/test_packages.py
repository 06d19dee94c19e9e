"""What the packages say of themselves: which part of the work lives there, and what does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACES, ENGINE = ROOT / "pockui", ROOT / "backend" / "pockgraph"
FOLDERS = sorted({file.parent for top in (ENGINE, FACES) for file in top.rglob("*.py")})


def docstring(package: Path) -> str:
    return ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("package", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_says_what_lives_there_and_what_does_not(package: Path) -> None:
    here, not_here, *_ = (*docstring(package).split("\n\n"), "", "")
    assert here[:1].isupper(), here
    assert not_here.startswith("Not here: "), not_here
    assert len(here.splitlines()) + len(not_here.splitlines()) <= 4


@pytest.mark.parametrize("package", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_packages_that_it_names_exist(package: Path) -> None:
    named = re.findall(r"`([\w./]+(?:/|\.py))`", docstring(package))
    places = (package, package.parent, ENGINE, FACES, ENGINE.parent, ROOT)
    assert not [name for name in named if not any((place / name).exists() for place in places)]
