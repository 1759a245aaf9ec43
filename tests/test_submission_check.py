"""Submissions are checked by line: what is wrong is named, and nothing that is wrong passes."""

import numpy as np
import pytest
from affwild2_trees import HEADER
from hypothesis import given, settings
from hypothesis import strategies as st
from test_submission import write_sample

from fer_jax.cli.main import main
from fer_jax.data.affwild2_files import read_sample
from fer_jax.predict.submission import check_sample, submission_lines
from fer_jax.predict.submission_check import check_submission

ROWS = [("b", 1), ("b", 2), ("b", 3), ("a_left", 1), ("a_left", 2), ("c", 1)]


def good_lines():
    return [f"image_location,{HEADER}", *(f"{v}/{f:05d}.jpg,{f}" for v, f in ROWS)]


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (lambda lines: lines, []),
        (lambda lines: [*lines, "", ""], []),
        (lambda lines: [line + "\r" for line in lines], []),
        (lambda lines: lines[1:], ["line 1: 'b/00001.jpg,1' is not the header"]),
        (
            lambda lines: [lines[0].replace("Anger,Disgust", "Disgust,Anger"), *lines[1:]],
            ["line 1: 'image_location,Neutral,Disgust,Anger"],
        ),
        (
            lambda lines: [*lines[:3], *lines[4:]],
            ["b/00003.jpg is missing", "5 rows, the sample has 6"],
        ),
        (
            lambda lines: [*lines, lines[2]],
            ["line 8: b/00002.jpg is there already, in line 3", "7 rows, the sample has 6"],
        ),
        (
            lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
            ["line 4: b/00002.jpg comes after b/00003.jpg, in the sample before it"],
        ),
        (
            lambda lines: [*lines[:4], "a_left/00001.jpg,8", *lines[5:]],
            ["line 5: '8' is no class number from 0 to 7"],
        ),
        (
            lambda lines: [*lines[:4], "a_left/00001.jpg,-1", *lines[5:]],
            ["line 5: '-1' is no class number"],
        ),
        (
            lambda lines: [*lines[:4], "a_left/00001.jpg,3.0", *lines[5:]],
            ["line 5: '3.0' is no class number"],
        ),
        (
            lambda lines: [*lines[:4], "a_left/00001.jpg", *lines[5:]],
            [
                "line 5: 'a_left/00001.jpg' is not like <video>/00001.jpg,<class number>",
                "a_left/00001.jpg is missing",
            ],
        ),
        (
            lambda lines: [*lines[:4], "a_right/00001.jpg,1", *lines[5:]],
            ["line 5: 'a_right/00001.jpg' is not in the sample", "a_left/00001.jpg is missing"],
        ),
        (
            lambda lines: [*lines[:4], "", *lines[4:]],
            ["line 5: is empty", "7 rows, the sample has 6"],
        ),
        (
            lambda lines: [*lines[:4], "a_left/00001.jpg, 1", *lines[5:-1], f" {lines[-1]}"],
            [
                "line 5: 'a_left/00001.jpg, 1' has blanks about a value",
                "line 7: ' c/00001.jpg,1' has blanks about a value",
            ],
        ),
        (lambda lines: [f"{lines[0]} ", *lines[1:]], ["line 1: 'image_location,Neutral"]),
        (lambda lines: [], ["is empty; the first line must be image_location,"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, change, findings, capsys):
    sample = write_sample(tmp_path / "sample.txt", ROWS)
    path = tmp_path / "theirs.txt"
    path.write_text("\n".join(change(good_lines())))
    code = main(["submit", "--check", str(path), "--sample", str(sample)])
    printed = capsys.readouterr().out.splitlines()
    assert code == (1 if findings else 0)
    if not findings:
        assert printed == [f"{path}: 6 rows of 3 videos, complete and in order"]
        return
    assert len(printed) == len(findings)
    for line, finding in zip(printed, findings, strict=True):
        assert line.startswith(f"{path}: {finding}")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_named(tmp_path, encoding):
    sample = read_sample(write_sample(tmp_path / "sample.txt", ROWS))
    (tmp_path / "f.txt").write_text("\n".join(good_lines()), encoding=encoding)
    found = check_submission(tmp_path / "f.txt", sample)
    assert found == ("begins with a byte-order mark; write it as UTF-8 without one",)


def test_many_findings_are_counted(tmp_path):
    sample = read_sample(write_sample(tmp_path / "sample.txt", [("a", k) for k in range(1, 41)]))
    lines = list(submission_lines(sample, np.zeros(40, np.int64)))
    (tmp_path / "f.txt").write_text("\n".join(lines[:10]))
    found = check_submission(tmp_path / "f.txt", sample)
    assert found[:2] == ("a/00010.jpg is missing", "a/00011.jpg is missing")
    assert found[5:] == ("... and 26 more like that", "9 rows, the sample has 40")


def test_a_file_that_is_not_there(tmp_path, capsys):
    sample = str(write_sample(tmp_path / "sample.txt", ROWS))
    assert main(["submit", "--check", str(tmp_path / "no.txt"), "--sample", sample]) == 1
    assert "no.txt: cannot be read" in capsys.readouterr().err


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_change_of_a_good_file_goes_unseen(tmp_path_factory, data):
    """What the writer writes passes; any row lost, moved, doubled, or altered does not."""
    folder = tmp_path_factory.mktemp("check")
    names = data.draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=30))
    rows = [(name, names[: i + 1].count(name)) for i, name in enumerate(names)]
    sample = read_sample(write_sample(folder / "sample.txt", rows))
    check_sample(folder / "sample.txt", sample)
    label = data.draw(st.lists(st.integers(0, 7), min_size=len(rows), max_size=len(rows)))
    lines = list(submission_lines(sample, np.asarray(label)))
    path = folder / "f.txt"
    path.write_text("\n".join(lines) + "\n")
    assert check_submission(path, sample) == ()
    kind = data.draw(st.sampled_from(["drop", "double", "move", "label", "name"]))
    i, j = data.draw(st.lists(st.integers(1, len(rows)), min_size=2, max_size=2, unique=True))
    changed = list(lines)
    if kind == "drop":
        del changed[i]
    elif kind == "double":
        changed.insert(j, changed[i])
    elif kind == "move":
        changed[i], changed[j] = changed[j], changed[i]
    elif kind == "label":
        changed[i] = changed[i].rpartition(",")[0] + data.draw(st.sampled_from([",8", ",", ",-1"]))
    else:
        changed[i] = "x" + changed[i]
    path.write_text("\n".join(changed) + "\n")
    found = check_submission(path, sample)
    assert found
    if kind in ("label", "name"):
        assert any(one.startswith(f"line {i + 1}: ") for one in found)
