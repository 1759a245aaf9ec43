"""Stages run once, again when what they were given changed, and go on after a failure."""

import pytest

from fer_jax.errors import FerJaxError
from fer_jax.recipes.stages import Stage, run_stages


def recipe(log, folder, **changed):
    settings = {"a": 1, "b": 2, "c": 3} | changed

    def step(name, needs):
        def run(results):
            log.append(name)
            if settings[name] is None:
                raise FerJaxError(f"{name} fails")
            (folder / name).touch()
            return {"value": settings[name] + sum(results[need]["value"] for need in needs)}

        return Stage(name, settings[name], run, needs=needs, made=(folder / name,))

    return [step("a", ()), step("b", ("a",)), step("c", ("b",))]


def test_what_is_done_is_not_done_again(tmp_path):
    log = []
    first = run_stages(tmp_path, recipe(log, tmp_path))
    assert first == {"a": {"value": 1}, "b": {"value": 3}, "c": {"value": 6}}
    assert run_stages(tmp_path, recipe(log, tmp_path)) == first
    assert log == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({"a": 5}, ["a", "b", "c"]),
        ({"b": 5}, ["b", "c"]),
        ({"c": 5}, ["c"]),
    ],
)
def test_a_change_runs_what_depends_on_it(tmp_path, changed, again):
    run_stages(tmp_path, recipe([], tmp_path))
    log = []
    run_stages(tmp_path, recipe(log, tmp_path, **changed))
    assert log == again


def test_a_failure_keeps_what_was_done(tmp_path):
    log = []
    with pytest.raises(FerJaxError, match="b fails"):
        run_stages(tmp_path, recipe(log, tmp_path, b=None))
    run_stages(tmp_path, recipe(log, tmp_path))
    assert log == ["a", "b", "b", "c"]


def test_what_was_made_and_is_gone_is_made_again(tmp_path):
    run_stages(tmp_path, recipe([], tmp_path))
    (tmp_path / "b").unlink()
    log = []
    run_stages(tmp_path, recipe(log, tmp_path))
    assert log == ["b"]


def test_a_torn_record_is_named(tmp_path):
    (tmp_path / "stages.json").write_text('{"a": ')
    with pytest.raises(FerJaxError, match=r"stages\.json: cannot be read"):
        run_stages(tmp_path, recipe([], tmp_path))
