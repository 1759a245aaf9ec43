"""Stages that are run one after the other, and not again once they are done.

`stages.json` in the workdir says which are: a stage is done as long as what it was given is the
same, its own settings as well as what the stages before it made. A stage must go on by itself
where it was stopped.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fer_jax.atomic import atomic_file
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.train import processes

_FILE = "stages.json"

Results = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Attributes:
        name: of the step.
        settings: JSON values that its result depends on.
        run: does it; is handed the results of the stages before by name, returns its own: JSON
            values, of which later stages depend.
        needs: the stages whose results it is a function of.
        made: files and folders that it makes; where one is gone, the stage is run again.
        together: several processes do it together; else the first one does, and the others wait.
    """

    name: str
    settings: Any
    run: Callable[[Results], dict[str, Any]]
    needs: tuple[str, ...] = ()
    made: tuple[Path, ...] = ()
    together: bool = False


def place_of(workdir: str | Path) -> Path:
    """The folder of a recipe, absolute: called from elsewhere, it is the same run.

    Raises:
        UsageError: a name with a comma or a colon, which fields with paths could not hold.
    """
    found = Path(workdir).resolve()
    if {",", ":"} & set(str(found)):
        raise UsageError(f"--workdir={found}: must be without commas and colons; name another one")
    return found


def absolute(paths: str) -> str:
    """Paths that are separated by commas, absolute; `gs://` and the like as they are."""
    names = filter(None, map(str.strip, paths.split(",")))
    return ",".join(name if "://" in name else str(Path(name).resolve()) for name in names)


class StageError(FerJaxError):
    """A stage failed; `stage` is its name."""

    def __init__(self, stage: str, error: FerJaxError):
        super().__init__(str(error))
        self.stage = stage


def run_stages(
    workdir: Path, stages: Sequence[Stage], say: Callable[[str], None] = lambda line: None
) -> Results:
    """Runs the stages that are not done.

    Args:
        workdir: holds `stages.json`.
        stages: in an order in which each comes after those that it needs.
        say: called with a line for each.

    Returns:
        The result of each stage by name.

    Raises:
        FerJaxError: `stages.json` cannot be read.
        UsageError: a stage was asked for what cannot be.
        StageError: a stage fails otherwise; those before it stay done.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    done = _read(workdir / _FILE)
    processes.wait_for_all("stages")  # all have read the same
    results: Results = {}
    for number, stage in enumerate(stages, start=1):
        given = _digest(stage.settings, {name: results[name] for name in stage.needs})
        before = done.get(stage.name)
        title = f"{number}/{len(stages)} {stage.name}"
        same = before is not None and before["given"] == given
        if processes.as_the_first(same and all(path.exists() for path in stage.made)):
            results[stage.name] = before["result"]
            say(f"{title}: done before")
            continue
        if not stage.together and not processes.is_first():
            processes.wait_for_all(stage.name)
            results[stage.name] = _read(workdir / _FILE)[stage.name]["result"]
            continue
        say(title)
        started = time.monotonic()
        try:
            found = json.loads(json.dumps(stage.run(results)))
        except UsageError:
            raise
        except FerJaxError as error:
            raise StageError(stage.name, error) from error
        results[stage.name] = found
        seconds = round(time.monotonic() - started, 1)
        done[stage.name] = {"given": given, "result": found, "seconds": seconds}
        if processes.is_first():
            with atomic_file(workdir / _FILE) as partial:
                partial.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
        if not stage.together:
            processes.wait_for_all(stage.name)
    return results


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FerJaxError(f"{path}: cannot be read ({error}); remove it to run all again") from None


def _digest(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
