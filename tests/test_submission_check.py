"""Submissions are checked by line: what is wrong is named, and nothing that is wrong passes."""

import gzip

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


IS_NOT_LIKE = "is not like <video>/00001.jpg,<class number>"
NO_ROW_IS_THERE = [
    *(f"{video}/{frame:05d}.jpg is missing" for video, frame in ROWS[:5]),
    "... and 1 more like that",
]
NO_ROW_IS_LIKE_IT = [
    *(f"line {number}: " for number in range(2, 7)),
    "... and 1 more like that",
    *NO_ROW_IS_THERE,
]


def with_line(number, text):
    """Another text in a line, counted from 1."""
    return lambda lines: [*lines[: number - 1], text, *lines[number:]]


def with_rows(change):
    """Every row changed, the header not."""
    return lambda lines: [lines[0], *map(change, lines[1:])]


def no_class(cell):
    return with_line(4, f"b/00003.jpg,{cell}"), [f"line 4: {cell!r} is no class number from 0 to 7"]


def no_row(row):
    what = [f"line 4: {row!r} {IS_NOT_LIKE}", "b/00003.jpg is missing"]
    return with_line(4, row), what


def no_video(name):
    what = [f"line 2: {name + '/00001.jpg'!r} is not in the sample", "b/00001.jpg is missing"]
    return with_line(2, f"{name}/00001.jpg,1"), what


def no_header(change):
    def changed(lines):
        return [change(lines[0]), *lines[1:]]

    return changed, [f"line 1: {change(f'image_location,{HEADER}')[:30]!r}"[:-1]]


BROKEN = {
    "header twice": (
        lambda lines: [lines[0], *lines],
        ["line 2: 'image_location,Neutral", "7 rows, the sample has 6"],
    ),
    "header at the end": (
        lambda lines: [*lines[1:], lines[0]],
        [
            "line 1: 'b/00001.jpg,1' is not the header",
            "line 7: 'image_location,",
            "7 rows, the sample has 6",
        ],
    ),
    "header with one class more": no_header(lambda header: f"{header},Contempt"),
    "header with one class less": no_header(lambda header: header.rpartition(",")[0]),
    "header in small letters": no_header(str.lower),
    "header with blanks": no_header(lambda header: header.replace(",", ", ")),
    "header of an annotation": no_header(lambda header: header.partition(",")[2]),
    "a class of two digits": no_class("12"),
    "a class with a sign": no_class("+3"),
    "a class with a zero before it": no_class("03"),
    "a class by its name": no_class("Happiness"),
    "a class that is empty": no_class(""),
    "a class that is not a number": no_class("nan"),
    "a class in other digits": no_class("\N{ARABIC-INDIC DIGIT THREE}"),
    "a NUL byte": no_class("3\0"),
    "a probability of each class": no_row("b/00003.jpg,0,0,0,0.9,0.1,0,0,0"),
    "two labels": no_row("b/00003.jpg,3,4"),
    "a frame without zeros": no_row("b/3.jpg,3"),
    "a frame with six digits": no_row("b/000003.jpg,3"),
    "a frame from a .png": no_row("b/00003.png,3"),
    "a frame from a .JPG": no_row("b/00003.JPG,3"),
    "a frame without extension": no_row("b/00003,3"),
    "a frame of Windows": no_row("b\\00003.jpg,3"),
    "a frame without its video": no_row("00003.jpg,3"),
    "frame 0": (
        lambda lines: [lines[0], "b/00000.jpg,1", *lines[1:]],
        ["line 2: 'b/00000.jpg' is not in the sample", "7 rows, the sample has 6"],
    ),
    "a video that is not asked for": no_video("d"),
    "a video in capitals": no_video("B"),
    "a video with its extension": no_video("b.mp4"),
    "a person where one is alone": no_video("b_left"),
    "an absolute path": no_video("/data/b"),
    "a path from here": no_video("./b"),
    "a mark in the middle": (
        with_line(2, "\ufeffb/00001.jpg,1"),
        ["line 2: '\\ufeffb/00001.jpg' is not in the sample", "b/00001.jpg is missing"],
    ),
    "no person where there are two": (
        with_line(5, "a/00001.jpg,1"),
        ["line 5: 'a/00001.jpg' is not in the sample", "a_left/00001.jpg is missing"],
    ),
    "the first row missing": (
        lambda lines: [lines[0], *lines[2:]],
        ["b/00001.jpg is missing", "5 rows, the sample has 6"],
    ),
    "the last video missing": (
        lambda lines: lines[:-1],
        ["c/00001.jpg is missing", "5 rows, the sample has 6"],
    ),
    "a row more with another label": (
        lambda lines: [*lines[:3], "b/00002.jpg,5", *lines[3:]],
        ["line 4: b/00002.jpg is there already, in line 3", "7 rows, the sample has 6"],
    ),
    "a row instead of another": (
        with_line(4, "b/00002.jpg,2"),
        ["line 4: b/00002.jpg is there already, in line 3", "b/00003.jpg is missing"],
    ),
    "videos in another order": (
        lambda lines: [lines[0], *lines[4:6], *lines[1:4], lines[6]],
        ["line 4: b/00001.jpg comes after a_left/00002.jpg, in the sample before it"],
    ),
    "something after the end": (
        lambda lines: [*lines, "# 6 rows"],
        [f"line 8: '# 6 rows' {IS_NOT_LIKE}", "7 rows, the sample has 6"],
    ),
    "a blank line first": (
        lambda lines: ["", *lines],
        [
            "line 1: '' is not the header",
            "line 2: 'image_location,",
            "7 rows, the sample has 6",
        ],
    ),
    "a line of blanks": (
        lambda lines: [*lines[:4], "   ", *lines[4:]],
        ["line 5: is empty", "7 rows, the sample has 6"],
    ),
    "cut in its last row": (
        lambda lines: [*lines[:-1], lines[-1][:-2]],
        [f"line 7: 'c/00001.jpg' {IS_NOT_LIKE}", "c/00001.jpg is missing"],
    ),
    "rows in quotes": (
        with_rows(lambda row: '"{}","{}"'.format(*row.split(","))),
        NO_ROW_IS_LIKE_IT,
    ),
    "rows with semicolons": (with_rows(lambda row: row.replace(",", ";")), NO_ROW_IS_LIKE_IT),
    "rows with tabs": (with_rows(lambda row: row.replace(",", "\t")), NO_ROW_IS_LIKE_IT),
    "rows with blanks": (with_rows(lambda row: row.replace(",", " ")), NO_ROW_IS_LIKE_IT),
    "rows that end with a comma": (with_rows(lambda row: f"{row},"), NO_ROW_IS_LIKE_IT),
    "only the header": (
        lambda lines: lines[:1],
        [*NO_ROW_IS_THERE, "0 rows, the sample has 6"],
    ),
    "another sample's rows": (
        lambda lines: [lines[0], *(f"x{row}" for row in lines[1:4])],
        [
            *(f"line {2 + i}: 'xb/0000{1 + i}.jpg' is not in the sample" for i in range(3)),
            *NO_ROW_IS_THERE,
            "3 rows, the sample has 6",
        ],
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused(tmp_path, kind):
    change, findings = BROKEN[kind]
    sample = read_sample(write_sample(tmp_path / "sample.txt", ROWS))
    (tmp_path / "f.txt").write_text("\n".join(change(good_lines())) + "\n", encoding="utf-8")
    found = check_submission(tmp_path / "f.txt", sample)
    assert len(found) == len(findings), found
    for one, finding in zip(found, findings, strict=True):
        assert one.startswith(finding)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda text: text.replace(b"\n", b"\r"), "line 1: ends with CR alone; end lines with LF"),
        (lambda text: text.replace(b"3\n", b"3\r"), "line 4: ends with CR alone"),
        (lambda text: text.replace(b"\n", b"\r\r\n"), "line 1: ends with CR alone"),
        (lambda text: text.decode().encode("utf-16-le"), "line 1: 'i\\x00m\\x00a"),
        (lambda text: text.decode().encode("utf-32"), "begins with a byte-order mark"),
        (lambda text: gzip.compress(text, mtime=0), "line 1: '\\x1f"),
        (lambda text: text + bytes(512), "line 8: '\\x00\\x00"),
        (lambda text: text + b"\x1a", f"line 8: '\\x1a' {IS_NOT_LIKE}"),
        (lambda text: text.replace(b"b/00002", b"b\xe9/00002"), "line 3: 'b\ufffd/00002.jpg'"),
        (lambda text: text.replace(b"\n", b" "), "line 1: 'image_location,Neutral"),
        (lambda text: b"\n\n\n", "is empty; the first line must be image_location,"),
    ],
)  # fmt: skip
def test_broken_bytes_are_refused(tmp_path, change, first):
    sample = read_sample(write_sample(tmp_path / "sample.txt", ROWS))
    (tmp_path / "f.txt").write_bytes(change(("\n".join(good_lines()) + "\n").encode()))
    found = check_submission(tmp_path / "f.txt", sample)
    assert found[0].startswith(first), found


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
