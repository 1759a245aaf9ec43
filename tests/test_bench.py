"""`fer-jax bench convert`: runs on a small file, judges bounds, says errors in a line."""

import json

import jax
import pytest

from fer_jax.bench import convert as bench
from fer_jax.bench import processes
from fer_jax.bench.processes import Run
from fer_jax.cli.main import main
from fer_jax.convert.pth_writer import write_pth
from fer_jax.errors import FerJaxError
from fer_jax.models import mae
from fer_jax.models.config import vit_config
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import layout, to_torch_layout

NAMES = ["cp + sha256sum", "convert", "convert --decoder", "convert, with the proof", "import jax"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole MAE of a registered size, on four patches."""
    encoder = vit_config("tiny", image_size=32)
    config = MAEConfig(encoder=encoder, decoder_depth=1)
    params = mae.init(config, jax.random.key(0))
    path = tmp_path_factory.mktemp("bench") / "mae.pth"
    write_pth(path, layout(config), to_torch_layout(params, config), wrapper="model")
    return path


def measured(seconds, anonymous):
    """What stands in for `run`: (seconds, anonymous bytes) by a word of the command."""

    def run(command):
        word = "--no-proof" if "--no-proof" in command else "sh" if command[0] == "sh" else ""
        return Run(seconds.get(word, 1.0), anonymous, anonymous)

    return run


@pytest.mark.slow
def test_a_small_file_for_programs(whole, capsys):
    assert main(["bench", "convert", "--file", str(whole), "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["benchmark"] == "convert"
    assert found["file"] == {"name": "mae.pth", "bytes": whole.stat().st_size}
    assert [case["name"] for case in found["cases"]] == NAMES
    peer, plain, decoder, proof, alone = found["cases"]
    assert peer["bounds"] is peer["anonymous_bytes"] is proof["bounds"] is alone["bounds"] is None
    for case in (plain, decoder):
        seconds = case["seconds"]
        assert seconds["least"] == seconds["median"] == seconds["most"] > alone["seconds"]["median"]
        assert case["bounds"]["seconds"] == peer["seconds"]["median"] + 3
        assert case["resident_bytes"] > case["anonymous_bytes"] > 2e7
        size = found["file"]["bytes"]
        assert case["anonymous_of_file"] == case["anonymous_bytes"] / size
        # jax alone is larger than this file: that a bound is missed is said, and is no failure
        assert not case["bounds"]["memory_holds"]
    assert set(found["environment"]) >= {"jax", "python", "cpu", "cores"}
    assert [path.name for path in whole.parent.iterdir()] == ["mae.pth"]


def test_the_table_judges_the_bounds(whole, capsys, monkeypatch):
    size = whole.stat().st_size
    monkeypatch.setattr(bench, "run", measured({"sh": 0.5, "--no-proof": 3.4}, int(1.3 * size)))
    assert main(["bench", "convert", "--file", str(whole), "--repeats", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert [name for name in rows if name in NAMES] == NAMES
    for name in ("convert", "convert --decoder"):
        assert "3.40 to 3.40" in rows[name]
        assert "3.50 (holds)" in rows[name]
        assert "1.30 of the file" in rows[name]
        assert "1.30 (holds)" in rows[name]
    assert "holds" not in rows["convert, with the proof"]
    assert len({len(row) for row in rows.values()}) == 1
    assert "cores" in lines[-1]


def test_missed_bounds_are_said_and_are_no_failure(whole, capsys, monkeypatch):
    size = whole.stat().st_size
    monkeypatch.setattr(bench, "run", measured({"--no-proof": 4.1}, 2 * size))
    assert main(["bench", "convert", "--file", str(whole), "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("4.00 (MISSED)") == 2
    assert printed.count("1.30 (MISSED)") == 2


def test_memory_that_the_system_does_not_tell(whole, capsys, monkeypatch):
    monkeypatch.setattr(bench, "run", measured({}, None))
    assert main(["bench", "convert", "--file", str(whole), "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "Memory is not measured on this system" in printed
    assert printed.count("1.30 (not measured)") == 2


def test_an_encoder_alone_has_no_decoder_to_measure(whole, tmp_path, monkeypatch):
    encoder = vit_config("tiny", image_size=32)
    params = mae.init(MAEConfig(encoder=encoder, decoder_depth=1), jax.random.key(0))["encoder"]
    path = tmp_path / "encoder.pth"
    write_pth(path, layout(encoder), to_torch_layout(params, encoder))
    monkeypatch.setattr(bench, "run", measured({}, 1))
    found = bench.bench_convert(path, repeats=1)
    assert [case["name"] for case in found["cases"]] == [n for n in NAMES if "--decoder" not in n]


def test_the_sample_has_the_size_of_mae_face(tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr(
        bench, "write_pth", lambda path, tensors, values, **options: written.update(tensors)
    )
    bench.write_sample(tmp_path / "mae_face.pth")
    assert len(written) == 254


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["convert", "--repeats", "0"], 2, "--repeats 0 must be at least 1"),
        (["convert", "--file", "absent.pth"], 1, "absent.pth: No such file or directory"),
        (["convert", "--file", "text.pth"], 1, "text.pth: no .pth (zip format)"),
    ],
)
def test_errors_are_a_line(arguments, code, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    assert main(["bench", *arguments]) == code
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith(f"fer-jax bench: {line}")
    assert [path.name for path in tmp_path.iterdir()] == ["text.pth"]


def test_wrong_use(capsys, monkeypatch):
    assert main(["bench"]) == 2
    assert main(["bench", "everything"]) == 2
    monkeypatch.setattr(bench.shutil, "which", lambda tool: None)
    assert main(["bench", "convert"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("install coreutils")


def test_a_command_that_fails_is_quoted():
    with pytest.raises(FerJaxError, match=r"^sh: exit code 3: the reason$"):
        processes.run(["sh", "-c", "echo first >&2; echo the reason >&2; exit 3"])
    with pytest.raises(FerJaxError, match="exit code 1: no message"):
        processes.run(["sh", "-c", "exit 1"])
