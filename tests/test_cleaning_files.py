import csv

import numpy as np
import pytest

from fer_jax.data.cleaning import Rejects
from fer_jax.data.cleaning_files import follow, read_list, refuse_edited, write_findings
from fer_jax.data.examples import Fault
from fer_jax.errors import FerJaxError


def _table(*keys: str, split: str = "train") -> dict[str, np.ndarray]:
    return {"key": np.asarray(keys), "split": np.full(len(keys), split)}


def _rejects(*rows: int, corrupted: tuple[Fault, ...] = (), trained: int = 4) -> Rejects:
    reasons = tuple(f"{'blurred' if row % 2 else 'low_resolution'}" for row in rows)
    return Rejects(rows, reasons, tuple(str(row) for row in rows), corrupted, trained)


def _write(folder, rejects, keys, faults=(), **options):
    folder.mkdir(exist_ok=True)
    pictures = [np.full((8, 8, 3), 99, np.uint8)] * len(keys)
    write_findings(folder, faults, rejects, keys, pictures.__getitem__, **options)
    return folder / "cleaning.csv"


def _rows(path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_list_comes_back_as_it_was_written(tmp_path):
    table = _table('odd, "name" ä.jpg', "1.jpg", " blank at the edge.jpg", "3.jpg")
    rejects = _rejects(0, 2, corrupted=(Fault("bad.jpg", "is empty", "train"),), trained=5)
    path = _write(tmp_path / "a", rejects, table["key"])
    assert _rows(path) == [
        ["path", "reason", "value"],
        ["bad.jpg", "corrupted", "is empty"],
        ['odd, "name" ä.jpg', "low_resolution", "0"],
        [" blank at the edge.jpg", "low_resolution", "2"],
    ]
    assert follow(read_list(path), table, rejects.corrupted) == rejects


def test_a_list_edited_by_hand_is_followed(tmp_path):
    table = _table("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    path = _write(tmp_path / "a", _rejects(0, 2), table["key"])
    header, *rows = _rows(path)
    assert [row[0] for row in rows] == ["0.jpg", "2.jpg"]
    # 0.jpg is kept after all; 3.jpg goes, named alone, as a spreadsheet would write it.
    lines = [",".join(header), *(",".join(row) for row in rows[1:]), "3.jpg,,", "", " 3.jpg "]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    found = follow(read_list(path), table)
    assert found == Rejects((2, 3), ("low_resolution", "by_hand"), ("2", ""), (), 4)


def test_a_list_with_semicolons_and_a_byte_order_mark_is_followed(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("path;reason;value\r\nä, b.jpg;blurred;1,5\r\n".encode("utf-8-sig"))
    found = follow(read_list(path), _table("0.jpg", "ä, b.jpg"))
    assert (found.rows, found.reasons, found.values) == ((1,), ("blurred",), ("1,5",))


def test_a_good_picture_that_is_called_corrupted_is_left_out(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,reason,value\n1.jpg,corrupted,a stripe\nbad.jpg,corrupted,\n")
    bad = Fault("bad.jpg", "is empty", "train")
    found = follow(read_list(path), _table("0.jpg", "1.jpg"), [bad])
    assert found == Rejects((1,), ("by_hand",), ("a stripe",), (bad,), 3)
    assert found.counts() == {"corrupted": 1, "by_hand": 1}


def test_a_quote_that_is_never_closed_does_not_keep_the_others(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,reason,value\n0.jpg,by_hand,\"5 o'clock\n2.jpg,,\n")
    assert follow(read_list(path), _table("0.jpg", "1.jpg", "2.jpg")).rows == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\n0.jpg\nnone.jpg\n", "line 3 names none.jpg, which is not among the pictures"),
        ("path\n1.jpg\n", "line 2 names 1.jpg, of the split validation"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    table = {"key": np.asarray(["0.jpg", "1.jpg"]), "split": np.asarray(["train", "validation"])}
    with pytest.raises(FerJaxError, match=message):
        follow(read_list(path), table)


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "list.csv"
    for content, message in [
        (b"name\n0.jpg\n", "no column 'path'"),
        (b"", "no column 'path'"),
        (b"path\n\xe4.jpg\n", "not text in UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FerJaxError, match=message):
            read_list(path)
    with pytest.raises(FerJaxError, match="no such file"):
        read_list(tmp_path / "none.csv")


def test_an_edited_list_is_not_gone_over(tmp_path):
    keys = _table("0.jpg", "1.jpg")["key"]
    refuse_edited(tmp_path, None)
    path = _write(tmp_path, _rejects(0, 1), keys, review=True)
    refuse_edited(tmp_path, None)
    path.write_text(path.read_text().replace("1.jpg,blurred,1\n", ""))
    other = tmp_path / "other.csv"
    other.write_text("path\n")
    for edited in (None, read_list(other)):
        with pytest.raises(FerJaxError, match=r"cleaning\.csv: was edited .*--cleaning .* move it"):
            refuse_edited(tmp_path, edited)
    refuse_edited(tmp_path, read_list(path))  # the run goes by it: nothing is lost
    path.rename(tmp_path / "mine.csv")
    refuse_edited(tmp_path, None)


def test_what_was_told_before_is_not_told_again(tmp_path):
    keys = _table("0.jpg", "1.jpg")["key"]
    _write(tmp_path / "a", _rejects(0), keys, [Fault("x.jpg", "is empty")])
    assert (tmp_path / "a/cleaning.png").exists()
    _write(tmp_path / "a", _rejects(), keys)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["cleaning.csv"]
    assert _rows(tmp_path / "a/cleaning.csv") == [["path", "reason", "value"]]


def test_names_that_are_no_text_are_told_all_the_same(tmp_path):
    odd = Fault("caf\udce9$^$.jpg", "is empty", "train")
    path = _write(tmp_path, _rejects(corrupted=(odd,)), np.asarray([], np.str_), [odd])
    assert _rows(path)[1][0] == _rows(tmp_path / "skipped.csv")[1][0] == "caf\\udce9$^$.jpg"
    assert (tmp_path / "cleaning.png").stat().st_size > 1000
