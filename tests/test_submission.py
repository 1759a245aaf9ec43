"""The official file: written from crops and from tables, against plain loops over frames."""

import csv
import dataclasses
import json
import math
import zlib

import numpy as np
import pytest
from affwild2_trees import HEADER
from pictures import write_picture
from tiny_bundles import noise_faces, tiny_bundle, tiny_two_view_bundle

import fer_jax
from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.data.affwild2_files import read_sample
from fer_jax.data.images import decode_image
from fer_jax.errors import FerJaxError
from fer_jax.evaluate.window_search import store_smoothing
from fer_jax.labels import label_space
from fer_jax.predict.submission import (
    make_submission,
    official_classes,
)
from fer_jax.predict.table import read_csv

CLASSES = label_space("affwild2_expr").classes
# Frames that the sample asks for, and those of them that have a crop.
FRAMES = {"9-30-1920x1080_left": 14, "9-30-1920x1080_right": 9, "video7": 20, "112": 3}
CROPS = {
    "9-30-1920x1080_left": [3, 4, 5, 9, 10, 12],
    "9-30-1920x1080_right": [1, 2, 3, 4, 5, 6, 7, 8],
    "video7": [*range(2, 12), *range(15, 20)],
    "112": [2],
}


def of_aligned_crops(bundle):
    views = {
        name: dataclasses.replace(view, template="arcface_112", crop_source="data")
        for name, view in bundle.views.items()
    }
    return dataclasses.replace(bundle, views=views)


def shuffled_rows(seed=0):
    """Rows of all videos mixed, as no sample has them: the order must be the file's own."""
    rows = [(video, frame) for video, last in FRAMES.items() for frame in range(1, last + 1)]
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def write_crops(folder, video, numbers, *, crops="cropped_aligned"):
    """Crops that differ from frame to frame, so that their expressions do."""
    (folder / crops / video).mkdir(parents=True)
    for number in numbers:
        seed = zlib.crc32(f"{video} {number}".encode())
        write_picture(folder / crops / video / f"{number:05d}.jpg", noise_faces(1, seed=seed)[0])


def write_sample(path, rows, end="\n"):
    lines = [f"image_location,{HEADER}", *(f"{v}/{f:05d}.jpg,{f % 8}" for v, f in rows)]
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submission")
    for video, numbers in CROPS.items():
        kind = "cropped_aligned_new_50_vids" if video == "112" else "cropped_aligned"
        write_crops(folder, video, numbers, crops=kind)
    write_crops(folder, "112", [1, 2, 3], crops="cropped")
    write_crops(folder, "not_asked_for", [1, 2])
    write_sample(folder / "sample.txt", shuffled_rows(), end="\r\n")
    save_bundle(of_aligned_crops(tiny_bundle("affwild2_expr")), folder / "bundle")
    save_bundle(of_aligned_crops(tiny_two_view_bundle(labels="affwild2_expr")), folder / "two")
    return folder


def submit(folder, *arguments, sample="sample.txt", **named):
    """The command, of paths in the folder; an option that is None is left out."""
    if "videos" not in named:
        named = {"bundle": "bundle", "crops": "cropped_aligned"} | named
    named = [
        word
        for name, path in named.items()
        if path is not None
        for word in (f"--{name}", str(folder / path))
    ]
    return main(["submit", *named, "--sample", str(folder / sample), *map(str, arguments)])


def single_frames(folder, bundle):
    """Probabilities of each crop, one at a time: {(video, frame): float64 row}."""
    recognizer = fer_jax.load(folder / bundle, batch_size=2)
    rows = {}
    for video, numbers in CROPS.items():
        kind = "cropped_aligned_new_50_vids" if video == "112" else "cropped_aligned"
        for number in numbers:
            path = folder / kind / video / f"{number:05d}.jpg"
            logits = recognizer.logits(decode_image(path.read_bytes())[None])[0].astype(np.float64)
            weights = np.exp(logits - logits.max())
            rows[video, number] = weights / weights.sum()
    return rows


def every_row(rows, reach):
    """Box-smoothed and held, frame by frame: {(video, frame): row}."""
    found = {}
    for video, last in FRAMES.items():
        smooth = {}
        for frame in CROPS[video]:
            near = [rows[video, k] for k in CROPS[video] if abs(k - frame) <= reach]
            smooth[frame] = sum(near) / len(near)
        for frame in range(1, last + 1):
            earlier = [k for k in CROPS[video] if k <= frame]
            found[video, frame] = smooth[max(earlier) if earlier else min(CROPS[video])]
    return found


def read_rows(path):
    header, *lines = path.read_text().splitlines()
    assert header == "image_location," + HEADER
    return [line.split(",") for line in lines]


@pytest.mark.parametrize(("bundle", "window"), [("bundle", 5), ("two", 3)])
def test_every_row_is_that_of_a_plain_loop(folder, tmp_path, bundle, window):
    out = tmp_path / "out"
    options = ("--out", out, "--smooth", f"box:{window}", "--batch-size", 4)
    assert submit(folder, *options, bundle=bundle) == 0
    expected = every_row(single_frames(folder, bundle), window // 2)
    rows = read_rows(out / "submission.txt")
    assert [name for name, _ in rows] == [f"{v}/{f:05d}.jpg" for v, f in shuffled_rows()]
    assert [int(label) for _, label in rows] == [
        int(expected[place].argmax()) for place in shuffled_rows()
    ]
    assert len({label for _, label in rows}) > 2  # the model does look at the faces
    table = read_csv(out / "predictions.csv")
    assert list(zip(table.video, table.frame.tolist(), strict=True)) == [
        (video, frame)
        for video in dict.fromkeys(video for video, _ in shuffled_rows())
        for frame in range(1, FRAMES[video] + 1)
    ]
    # Sums of float32 in another order: measured 6e-8.
    wanted = [expected[place] for place in zip(table.video, table.frame.tolist(), strict=True)]
    np.testing.assert_allclose(table.prob, wanted, atol=1e-6)


def test_what_was_filled_is_listed(folder, tmp_path):
    assert submit(folder, "--out", tmp_path / "out", "--smooth", "none", "--fill", "nearest") == 0
    with open(tmp_path / "out" / "filled.csv", newline="") as file:
        listed = [(row["video"], int(row["frame"]), row["fill"]) for row in csv.DictReader(file)]
    gaps = [(v, f) for v, f in shuffled_rows() if f not in CROPS[v]]
    assert listed == [(video, frame, "nearest") for video, frame in gaps]
    document = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert document["rows"] == sum(FRAMES.values())
    assert document["fills"] == {"nearest": len(gaps), "none": document["rows"] - len(gaps)}
    assert sum(document["classes"].values()) == document["rows"]
    assert document["smoothing"] is None
    assert document["bundle"]["kind"] == "classifier"


def test_the_bundles_own_filter_is_the_default(folder, tmp_path, capsys):
    assert submit(folder, "--out", tmp_path / "plain") == 0
    assert "nothing is smoothed, since no bundle says how" in capsys.readouterr().err
    bundle = tmp_path / "bundle"
    save_bundle(of_aligned_crops(tiny_bundle("affwild2_expr")), bundle)
    chosen = {"kernel": "box", "window": 7, "stride": 1, "lookahead": None, "width": None}
    store_smoothing(bundle, chosen | {"fill": "linear"})
    assert submit(folder, "--out", tmp_path / "own", bundle=bundle) == 0
    assert "smoothed" not in capsys.readouterr().err
    options = ("--smooth", "box:7", "--fill", "linear")
    assert submit(folder, "--out", tmp_path / "said", *options) == 0
    own, said, plain = (
        (tmp_path / name / "predictions.csv").read_bytes() for name in ("own", "said", "plain")
    )
    assert own == said != plain
    # A filter that this version does not know is not passed over.
    store_smoothing(bundle, chosen | {"future": 1})
    assert submit(folder, "--out", tmp_path / "no", bundle=bundle) == 1
    assert "has no field 'future'" in capsys.readouterr().err


def test_a_table_gives_the_same_file(folder, tmp_path, capsys):
    assert submit(folder, "--out", tmp_path / "run", "--smooth", "box:5") == 0
    table = tmp_path / "run" / "predictions.csv"
    options = ("--table", table, "--out", tmp_path / "again", "--smooth", "box:5")
    assert submit(folder, *options, bundle=None, crops=None) == 0
    for name in ("submission.txt", "predictions.csv", "filled.csv"):
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (tmp_path / "run" / name).read_bytes(), name
    assert capsys.readouterr().out.count("46 rows of 4 videos, 16 of them filled") == 2


def test_classes_are_found_by_name(folder, tmp_path, capsys):
    save_bundle(of_aligned_crops(tiny_bundle("affectnet8")), tmp_path / "b")
    assert submit(folder, "--out", tmp_path / "no", bundle=tmp_path / "b") == 1
    printed = capsys.readouterr().err
    assert "Other is not among them" in printed
    assert "--allow-missing Other" in printed
    options = ("--out", tmp_path / "out", "--smooth", "none", "--allow-missing", "Other")
    assert submit(folder, *options, bundle=tmp_path / "b") == 0
    assert "the challenge has no Contempt" in capsys.readouterr().err
    single = single_frames(folder, tmp_path / "b")
    shared = [c for c in label_space("affectnet8").classes if c != "Contempt"]
    columns = [label_space("affectnet8").classes.index(name) for name in shared]
    for name, label in read_rows(tmp_path / "out" / "submission.txt"):
        video, _, picture = name.partition("/")
        if (place := (video, int(picture[:5]))) in single:
            assert CLASSES[int(label)] == shared[int(single[place][columns].argmax())]


def test_official_classes():
    everything = official_classes(CLASSES)
    assert everything.names == CLASSES
    assert everything.columns.tolist() == everything.numbers.tolist() == list(range(8))
    with pytest.raises(FerJaxError, match="--allow-missing: label 'Bored' is not in the space"):
        official_classes(CLASSES, ["Bored"])
    with pytest.raises(FerJaxError, match="Other is not among them"):
        official_classes(label_space("expw").classes, ["Anger"])


def test_numbers_are_the_challenges_own(tmp_path):
    """A class missing in the middle does not move those after it."""
    sample = read_sample(write_sample(tmp_path / "s.txt", [("a", 2), ("a", 1)]))
    classes = official_classes(("Surprise", "Neutral", "Other", "Contempt"), CLASSES)
    video, frame = np.array(["a", "a"], object), np.array([1, 2])
    rows = np.array([[0.3, 0.1, 0.2, 0.4], [0.1, 0.2, 0.3, 0.4]], np.float32)
    made = make_submission(sample, classes, video, frame, rows)
    assert made.label.tolist() == [7, 6]
    np.testing.assert_allclose(made.table.raw[0], [1 / 6, 3 / 6, 2 / 6], rtol=1e-6)
    np.testing.assert_allclose(made.table.raw.sum(axis=1), 1, rtol=1e-6)


def test_bundles_of_other_crops_are_refused(folder, tmp_path, capsys):
    save_bundle(tiny_bundle("affwild2_expr"), tmp_path / "b")
    assert submit(folder, "--out", tmp_path / "out", bundle=tmp_path / "b") == 1
    printed = capsys.readouterr().err
    assert "its view 'main' is of faces aligned as 'as_is' (crops: drawn)" in printed
    assert "--any-crops" in printed
    assert submit(folder, "--out", tmp_path / "out", "--any-crops", bundle=tmp_path / "b") == 0
    # The loose crops are not what an aligned bundle was trained on.
    write_sample(tmp_path / "sample.txt", [("112", 1)])
    options = ("--out", tmp_path / "loose")
    assert submit(folder, *options, crops="cropped", sample=tmp_path / "sample.txt") == 1
    assert "the crops are 'affwild2_cropped'" in capsys.readouterr().err


def test_videos_without_crops(folder, tmp_path, capsys):
    rows = [*shuffled_rows(), ("nowhere", 1), ("nowhere", 2)]
    sample = write_sample(tmp_path / "sample.txt", rows)
    assert submit(folder, "--out", tmp_path / "out", sample=sample) == 1
    printed = capsys.readouterr().err
    assert "1 of the sample's 5 videos have no crop of its frames (nowhere)" in printed
    assert not (tmp_path / "out").exists()
    assert submit(folder, "--out", tmp_path / "out", "--allow-empty", sample=sample) == 0
    assert "all their rows say Neutral" in capsys.readouterr().err
    found = dict(read_rows(tmp_path / "out" / "submission.txt"))
    assert found["nowhere/00001.jpg"] == found["nowhere/00002.jpg"] == "0"
    # None at all is a wrong folder, whatever is allowed.
    sample = write_sample(tmp_path / "none.txt", [("nowhere", 1)])
    assert submit(folder, "--out", tmp_path / "none", "--allow-empty", sample=sample) == 1
    assert "1 of the sample's 1 videos have no crop" in capsys.readouterr().err


def test_a_crop_that_is_no_picture_is_filled(folder, tmp_path, capsys):
    write_crops(tmp_path, "a", [1, 2, 3])
    (tmp_path / "cropped_aligned" / "a" / "00002.jpg").write_bytes(b"no picture")
    sample = write_sample(tmp_path / "sample.txt", [("a", k) for k in (1, 2, 3, 4)])
    crops = tmp_path / "cropped_aligned"
    options = ("--out", tmp_path / "out", "--smooth", "none")
    assert submit(folder, *options, sample=sample, crops=crops) == 0
    printed = capsys.readouterr().err
    assert "00002.jpg" in printed
    assert "1 crops could not be read, and are filled" in printed
    assert (tmp_path / "out" / "filled.csv").read_text() == "video,frame,fill\na,2,hold\na,4,hold\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no row"),
        ([("a", 1), ("b", 1), ("a", 1)], "asks for a/00001.jpg twice"),
        ([("a", 1), ("a", 0)], "asks for a/00000.jpg"),
        ([("a", 1), ("b", 900_000_000)], "asks for b/900000000.jpg, which no video"),
    ],
)
def test_samples_that_cannot_be(folder, tmp_path, rows, message, capsys):
    sample = write_sample(tmp_path / "sample.txt", rows)
    assert submit(folder, "--out", tmp_path / "out", sample=sample) == 1
    line = capsys.readouterr().err
    assert f"{sample}: {message}" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out DIR is missing, or --check FILE"),
        (["--out", "o"], "name --crops DIR or --videos ROOT with --bundle B, or --table T"),
        (["--out", "o", "--crops", "c", "--table", "t"], "one of them"),
        (["--out", "o", "--crops", "c"], "--bundle B is missing"),
        (["--check", "f", "--out", "o"], "--out is for writing a file"),
        (["--check", "f", "--smooth", "box:5"], "--smooth is for writing a file"),
        (["--check", "f", "--allow-empty"], "--allow-empty is for writing a file"),
        (["--out", "o", "--table", "t", "--batch-size", "4"], "--batch-size goes with --crops"),
        (["--out", "o", "--table", "t", "--any-crops"], "--any-crops goes with --crops"),
    ],
)
def test_wrong_use_is_one_line(folder, arguments, message, capsys):
    sample = str(folder / "sample.txt")
    assert main(["submit", "--sample", sample, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_options_that_cannot_be(folder, tmp_path, capsys):
    for options, code, message in (
        (("--smooth", "box:4"), 2, "box:4"),
        (("--fill", "guess"), 2, "--fill 'guess': must be one of hold"),
        (("--allow-missing", "Bored"), 2, "--allow-missing: label 'Bored'"),
    ):
        assert submit(folder, "--out", tmp_path / "out", *options) == code
        assert message in capsys.readouterr().err
    assert submit(folder, "--out", tmp_path / "out", crops="cropped_alinged") == 1
    assert "cropped_alinged: is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_stands_there_is_kept(folder, tmp_path, capsys):
    assert submit(folder, "--out", tmp_path / "out", "--smooth", "none") == 0
    assert submit(folder, "--out", tmp_path / "out", "--smooth", "none") == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert submit(folder, "--out", tmp_path / "out", "--smooth", "box:3", "--overwrite") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert submit(folder, "--out", tmp_path / "mine", "--overwrite") == 1
    assert "holds no submission.json" in capsys.readouterr().err


def test_frames_that_the_sample_does_not_have_are_passed_over(tmp_path):
    sample = read_sample(write_sample(tmp_path / "s.txt", [("a", 1), ("a", 2)]))
    video = np.array(["a", "a", "b"], object)
    rows = np.eye(8, dtype=np.float32)[[3, 4, 5]]
    made = make_submission(sample, official_classes(CLASSES), video, np.array([2, 3, 1]), rows)
    assert made.label.tolist() == [3, 3]
    assert made.notes == ("1 predictions of frames that the sample does not have are left out.",)
    with pytest.raises(FerJaxError, match="two predictions of one frame"):
        make_submission(sample, official_classes(CLASSES), video, np.array([2, 2, 1]), rows)
    rows[0, 0] = math.nan
    with pytest.raises(FerJaxError, match="frame 2 of a: its probabilities are not finite"):
        make_submission(sample, official_classes(CLASSES), video, np.array([2, 3, 1]), rows)
