import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from pictures import CLASSES, color_of, write_colors, write_csv, write_picture

from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData


@pytest.fixture
def folder(tmp_path):
    write_colors(tmp_path / "src", range(21))
    write_colors(tmp_path / "src", range(21, 30), split="validation")
    return tmp_path


def _run(folder, *arguments) -> int:
    needed = ["--out", f"{folder}/data", "--labels", "expw"]
    return main(["prepare", "images", f"{folder}/src", *needed, *arguments])


def _one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_a_folder_becomes_a_data_set_and_a_table(folder, capsys):
    assert _run(folder) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split() for line in out.splitlines()[1:]]
    assert out.splitlines()[0] == f"{folder}/data: 30 faces, as_is"
    assert rows[0] == ["expw", "train", "validation"]
    assert rows[1] == ["Anger", "3", "2"]
    assert rows[-2] == ["Neutral", "3", "1"]
    assert rows[-1] == ["all", "21", "9"]
    assert len(FaceData.open(folder / "data")) == 30


def test_a_csv_with_boxes_is_cut(folder, capsys):
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[10:30, 20:40] = color_of(99)
    write_picture(folder / "src" / "many.png", picture)
    box = {"box_left": 20, "box_top": 10, "box_right": 40, "box_bottom": 30}
    write_csv(
        folder / "list.csv",
        [{"path": "many.png", "label": CLASSES[i], **box, "box_top": 10 + i} for i in range(3)],
    )
    assert _run(folder, "--csv", f"{folder}/list.csv", "--margin", "1.5") == 0
    assert "3 faces, box_square_1.5" in capsys.readouterr().out
    data = FaceData.open(folder / "data")
    assert data.index["key"].tolist() == ["many.png", "many.png#1", "many.png#2"]


def test_a_part_becomes_a_split(folder, capsys):
    assert _run(folder, "--split-fraction", "test=0.3", "--seed", "1") == 0
    assert "expw       test  train  validation" in capsys.readouterr().out
    data = FaceData.open(folder / "data")
    assert np.sum(data.index["split"] == "test") == 7  # one of three, in each of seven classes
    assert np.sum(data.index["split"] == "validation") == 9


def test_skipped_pictures_are_said(folder, capsys):
    (folder / "src/train/Fear/0002.png").write_bytes(b"x")
    (folder / "src/train/Strange").mkdir()
    (folder / "src/train/Strange/1.png").write_bytes(b"x")
    assert _run(folder) == 1
    line = _one_line(capsys)
    assert line.startswith("fer-jax prepare: 2 of 31 pictures cannot be used: train/Strange/1.png")
    assert "train/Fear/0002.png: is not an image" in line
    assert not (folder / "data").exists()
    assert _run(folder, "--skip-bad") == 0
    out, err = capsys.readouterr()
    assert "29 faces" in out
    assert err == f"fer-jax prepare: left out 2, see {folder}/data/skipped.csv\n"


def test_a_repeated_line_costs_no_picture_when_cleaning(folder, capsys):
    """The line is left out, the picture that it repeats is not."""
    rows = [{"path": f"train/Fear/{n:04d}.png", "label": "Fear"} for n in (2, 9, 2)]
    write_csv(folder / "list.csv", rows)
    command = ["--csv", f"{folder}/list.csv", "--skip-bad"]
    off = ["--min-score", "0", "--min-size", "0", "--min-sharpness", "0"]
    off += ["--duplicate-distance", "-1"]
    for options in ([], ["--clean", *off]):
        assert _run(folder, *command, "--overwrite", *options) == 0
        keys = FaceData.open(folder / "data").index["key"].tolist()
        assert keys == ["train/Fear/0002.png", "train/Fear/0009.png"]
    assert "0 of 2 training pictures left out" in capsys.readouterr().out
    assert _run(folder, *command[:2], "--overwrite", "--clean", *off) == 1
    assert "listed already" in _one_line(capsys)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
@pytest.mark.parametrize("collection", [False, True])
def test_a_name_that_is_no_text_is_told(folder, capsys, collection):
    source = folder / "src"
    odd = source / "train" / "Fear" / "caf\udce9.png"
    if collection:
        source = folder / "rafdb"
        odd = source / "train" / "3" / "caf\udce9.png"
        write_picture(source / "train" / "1" / "a.png", np.zeros((30, 30, 3), np.uint8))
    odd.parent.mkdir(parents=True, exist_ok=True)
    odd.write_bytes((folder / "src/train/Fear/0002.png").read_bytes())
    kind = ["rafdb"] if collection else ["images", "--labels", "expw"]
    command = ["prepare", kind[0], str(source), "--out", f"{folder}/data", *kind[1:]]
    assert main(command) == 1
    assert "its name is no text: rename it" in _one_line(capsys)
    assert main([*command, "--skip-bad"]) == 0
    assert "caf\\udce9.png" in (folder / "data/skipped.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--labels", "fer2014"], 1, "no label space 'fer2014'; one of affwild2_expr"),
        (["--csv", "/nowhere.csv"], 1, "/nowhere.csv: no such file"),
        (["--margin", "0"], 1, "margin 0 is not in"),
        (["--split-fraction", "validation"], 2, "'validation' is not like validation=0.1"),
        (["--split-fraction", "test=2"], 2, "'test=2' is not like"),
        (["--split-fraction", "validation=0.1"], 1, "already have a split 'validation'"),
        (["--subject-column", "photo"], 2, "names a column of --csv"),
        (["--clean", "--duplicate-distance", "25"], 1, "duplicate_distance=25 is out of range"),
        (["--cleaning", "/nowhere.csv"], 1, "/nowhere.csv: no such file"),
    ],
)
def test_wrong_use_is_one_line(folder, capsys, arguments, code, words):
    assert _run(folder, *arguments) == code
    assert words in _one_line(capsys)
    assert not (folder / "data").exists()


def test_missing_arguments_are_wrong_use(capsys):
    assert main(["prepare"]) == 2
    assert main(["prepare", "videos"]) == 2
    assert main(["prepare", "images", "src"]) == 2
    assert "--out" in capsys.readouterr().err


def test_an_existing_data_set_is_kept(folder, capsys):
    assert _run(folder) == 0
    capsys.readouterr()
    assert _run(folder) == 1
    assert "exists already; remove it, or pass --overwrite" in _one_line(capsys)
    assert _run(folder, "--overwrite") == 0


def test_a_full_disk_is_one_line_and_leaves_nothing(folder):
    """A limit on file sizes stands for the disk: writing fails in the middle of a shard."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    write_picture(folder / "src/train/Fear/big.png", noise)
    script = textwrap.dedent(
        f"""
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        from fer_jax.cli.main import main
        src, out = {str(folder / "src")!r}, {str(folder / "data")!r}
        sys.exit(main(["prepare", "images", src, "--out", out, "--labels", "expw"]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("fer-jax prepare: ")
    assert "File too large" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["src"]


def test_help_is_quick():
    command = [sys.executable, "-m", "fer_jax.cli.main", "prepare", "images", "--help"]
    # Best of three: the machine may be busy. It imports nothing heavy: 0.06 s.
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=60)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert "box_left" in done.stdout
    assert min(times) < 0.5
