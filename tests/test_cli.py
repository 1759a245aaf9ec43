"""The dispatcher: quick help, light imports, one line for every failure."""

import subprocess
import sys

import pytest

from fer_jax.cli import main as cli
from fer_jax.errors import FerJaxError, UsageError

HEAVY = ("cv2", "tensorflow_datasets", "grain", "orbax", "matplotlib", "torch", "tensorflow")


def loaded_by(statement):
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import fer_jax",
        "import fer_jax.ops.losses, fer_jax.ops.metrics, fer_jax.ops.augment, fer_jax.ops.views, "
        "fer_jax.ops.resize",
        "import fer_jax.models.vit, fer_jax.models.torch_layout",
    ],
)
def test_pure_rooms_load_nothing_heavy(statement):
    assert not loaded_by(statement) & set(HEAVY)


def test_ops_load_no_flax_either():
    assert "flax" not in loaded_by("import fer_jax.ops.losses, fer_jax.ops.metrics")


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.COMMANDS)])
def test_help_loads_neither_jax_nor_anything_heavy(arguments):
    """What keeps `--help` within half a second: it takes 0.05 s without them, 1 s with jax."""
    code = f"from fer_jax.cli.main import main\nassert main({[*arguments, '--help']!r}) == 0"
    assert not loaded_by(code) & {"jax", "numpy", *HEAVY}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"usage: fer-jax {name}" in capsys.readouterr().out


def test_version_and_wrong_use(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fer-jax 0.")
    assert cli.main([]) == 2
    assert cli.main(["frobnicate"]) == 2
    assert "no command 'frobnicate'; one of convert" in capsys.readouterr().err
    assert cli.main(["convert", "--no-such-flag"]) == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FerJaxError("x.pth: is empty; get it again"), 1, "x.pth: is empty; get it again"),
        (UsageError("--n=0: must be positive"), 2, "--n=0: must be positive"),
        (OSError(28, "No space left on device", "out"), 1, "out: No space left on device; free"),
        (OSError(13, "Permission denied", "out"), 1, "out: Permission denied; check the perm"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_are_one_line_with_their_exit_code(error, code, line, capsys, monkeypatch):
    class Module:
        @staticmethod
        def main(argv):
            raise error

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Module)
    assert cli.main(["predict"]) == code
    printed = capsys.readouterr().err.strip()
    assert printed.startswith(f"fer-jax predict: {line}")
    assert len(printed.splitlines()) == 1
