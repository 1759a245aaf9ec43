"""docs/method.md: its names exist, its equations can be shown, its picture can be made again."""

import importlib
import re
from pathlib import Path

import cv2
import draw_method
import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "method.md").read_text(encoding="utf-8")
# Each equation, and the paragraph that follows it.
EQUATIONS = re.findall(r"```math\n(.*?)```\n\n(.*?)\n\n", TEXT + "\n\n", flags=re.DOTALL)
MARKS = ("**paper**", "**entry**", "**ours**")


def number(equation: tuple[str, str]) -> str:
    return re.findall(r"fer_jax\.[\w.]+", equation[1])[0] if "fer_jax" in equation[1] else "none"


def test_every_name_exists():
    names = set(re.findall(r"`(fer_jax[\w.]*)`", TEXT))
    assert len(names) > 30
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute, None)), name


def test_every_config_and_script_exists():
    files = re.findall(r"`(?:python )?((?:configs|tools)/\w+\.py)`", TEXT)
    assert len(files) == 5
    for name in files:
        assert (DOCS.parent / name).is_file(), name


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    here = [link for link in links if not link.startswith("https://")]
    assert "images/two_views.png" in here
    for link in here:
        name, _, anchor = link.partition("#")
        assert (DOCS / name).is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (DOCS / name).read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w ]", "", title.lower()).replace(" ", "-") for title in headings}
            assert anchor in slugs, link


def test_there_is_an_equation_for_each_step():
    assert len(EQUATIONS) == TEXT.count("```math")
    assert len(EQUATIONS) > 30


@pytest.mark.parametrize("equation", EQUATIONS, ids=number)
def test_every_equation_names_its_function_and_its_mark(equation):
    _, after = equation
    assert after.startswith("`fer_jax.")
    assert any(mark in after for mark in MARKS)


@pytest.mark.parametrize("equation", EQUATIONS, ids=number)
def test_every_equation_is_whole(equation):
    text, _ = equation
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1]
    assert len(re.findall(r"\\left\b", text)) == len(re.findall(r"\\right\b", text))


def test_github_shows_the_formulas():
    # It refuses this command, reads what stands in $$ or $ as Markdown first (so that a backslash
    # before a sign is gone), and takes a dollar beside a letter for a dollar.
    assert r"\operatorname" not in TEXT
    assert "$$" not in TEXT
    prose = re.sub(r"```.*?```|`[^`]*`", "", TEXT, flags=re.DOTALL)
    assert prose.count("$") % 2 == 0
    parts = prose.split("$")
    for before, formula, after in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
        assert formula == formula.strip(), formula
        assert "\n\n" not in formula, formula
        assert not before[-1:].isalnum(), formula
        assert not after[:1].isalnum(), formula
        assert not re.search(r"\\[^A-Za-z]|[*<]", formula), formula


def test_the_picture_is_made_again(tmp_path, capsys):
    path = tmp_path / "two_views.png"
    assert draw_method.main(["--out", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    assert 50_000 < path.stat().st_size < 200_000
    made, kept = (cv2.imread(str(p)).astype(int) for p in (path, DOCS / "images" / path.name))
    assert made.shape == kept.shape
    # The part with both views: 0 apart; 6 with the eyes elsewhere. Letters are left out, which
    # another matplotlib may draw a little differently.
    height, width = made.shape[:2]
    views = np.s_[height * 7 // 100 : height * 45 // 100, width * 25 // 100 : width * 52 // 100]
    assert np.abs(made[views] - kept[views]).mean() < 2
    # No part of the page is empty.
    for row in np.array_split(made, 2):
        for part in np.array_split(row, 3, axis=1):
            assert part.std() > 15
    assert (DOCS / "images" / path.name).stat().st_size < 200_000
