"""docs/functions.md: its examples run as doctests, and it has an entry for each public function."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import fer_jax.ops

PATH = Path(__file__).parent.parent / "docs" / "functions.md"
TEXT = PATH.read_text(encoding="utf-8")
HEAD, *SECTIONS = re.split(r"^(?=## )", TEXT, flags=re.MULTILINE)
# The engine of `ops.smoothing`, which is how to use it.
INSIDE = {"fer_jax.ops.windows"}
MODULES = {
    *(f"fer_jax.ops.{module.name}" for module in pkgutil.iter_modules(fer_jax.ops.__path__)),
    *(f"fer_jax.models.{name}" for name in ("fusion", "vit", "mae")),
} - INSIDE


def module_of(section: str) -> str:
    """The first name after the title."""
    return re.match(r"## .*\n+`([\w.]+)`", section).group(1)


def entries(section: str) -> dict[str, str]:
    parts = re.split(r"^### (\w+)\n", section, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def public_functions(module) -> dict[str, object]:
    """Functions made in a module, or offered by it from another one."""
    offered = getattr(module, "__all__", None)
    return {
        name: each
        for name, each in vars(module).items()
        if inspect.isfunction(inspect.unwrap(each) if callable(each) else each)
        and (
            name in offered
            if offered is not None
            else not name.startswith("_") and each.__module__ == module.__name__
        )
    }


def run(part: str, names: dict) -> dict:
    """Runs the blocks of a part of the page in order; returns the names that they made."""
    first = TEXT[: TEXT.index(part)].count("\n")
    for block in re.finditer(r"```python\n(.*?)```", part, flags=re.DOTALL):
        line = first + part[: block.start()].count("\n") + 1
        test = doctest.DocTestParser().get_doctest(
            block.group(1), names, "functions.md", str(PATH), line
        )
        report: list[str] = []
        failed, _ = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
        assert not failed, "".join(report)
        names = test.globs
    return names


@pytest.mark.parametrize("section", SECTIONS, ids=module_of)
def test_examples_run(section):
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert all(block.startswith(">>> ") for block in blocks)
    run(section, run(HEAD, {}))


@pytest.mark.parametrize("section", SECTIONS, ids=module_of)
def test_each_function_has_an_entry_with_each_of_its_arguments(section):
    module = importlib.import_module(module_of(section))
    found = entries(section)
    functions = public_functions(module)
    assert sorted(found) == sorted(functions)
    for name, text in found.items():
        said = set(re.findall(r"`(\w+)", text.split("```")[0]))
        assert set(inspect.signature(functions[name]).parameters) <= said, name
        assert ">>> " in text, name


def test_each_module_has_a_section():
    assert sorted(map(module_of, SECTIONS)) == sorted(MODULES)


def test_names_exist():
    for name in set(re.findall(r"`(fer_jax[\w.]*)`", "".join(SECTIONS))):
        importlib.import_module(name)
