import html.parser
import json
import os

import pytest
from affwild2_faults import ALL, PLANTED, clean_tree, labels_of
from affwild2_trees import write_frames

from fer_jax.cli.main import main
from fer_jax.data.affwild2 import LABELS
from fer_jax.data.doctor import examine
from fer_jax.data.doctor_counts import percent
from fer_jax.data.doctor_findings import KINDS, some
from fer_jax.data.doctor_page import write_page
from fer_jax.data.doctor_report import report_text


@pytest.fixture
def tree(tmp_path):
    return clean_tree(tmp_path / "affwild2")


def test_the_reports_agree(tree, tmp_path, capsys):
    for name in ("corrupted", "gap", "leak"):
        PLANTED[name][0](tree)
    labels_of("4", ALL)(tree)
    out = tmp_path / "report"
    assert main(["doctor", str(tree), "--out", str(out)]) == 1
    text = capsys.readouterr().out
    report = json.loads((out / "doctor.json").read_text())
    assert report["failed"]
    page = (out / "doctor.html").read_text()
    for finding in report["findings"]:
        assert finding["message"] in text
        assert finding["where"] in page
        assert KINDS[finding["kind"]].title in page
    assert report["splits"]["train"]["labels"] == 8 * 3
    assert "1-30-1280x720" in page
    assert main(["doctor", str(tree), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    for one in (printed, report):
        del one["seconds"]
    assert printed == report


class _Page(html.parser.HTMLParser):
    """Notes what an HTML file would load, and whether its tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_whole_file(tree, tmp_path):
    labels_of("<b>&", [0, 99])(tree)
    for i in range(40):
        labels_of(f"many{i}", [0, 1])(tree)
    path = tmp_path / "doctor.html"
    write_page(path, examine(tree))
    page = _Page()
    page.feed(path.read_text())
    assert page.open == []
    assert len(page.sources) == 4 + 1 + 40
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "<b>&</b>" not in path.read_text()
    assert "&lt;b&gt;&amp;" in path.read_text()
    assert "http" not in path.read_text()


def test_names_that_are_no_text(tree, tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9")
    try:
        labels_of(name, [0, "x"])(tree)
    except OSError:
        pytest.skip("this file system takes text only")
    (tree / "cropped_aligned" / "3" / name).touch()
    assert main(["doctor", str(tree), "--out", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    page = (tmp_path / "out" / "doctor.html").read_text()
    report = json.loads((tmp_path / "out" / "doctor.json").read_text())
    for text in (out, page):
        assert "caf\\xe9.txt" in text
        assert "rename it" in text
        assert "1 file is no frame: caf?" in text
    named = {detail for finding in report["findings"] for detail in finding["details"]}
    assert name in named


def test_a_text_of_many_findings_stays_short(tree):
    for i in range(40):
        labels_of(f"many{i}", [0, "x"])(tree)
    text = report_text(examine(tree))
    assert "and 32 more in doctor.json" in text
    assert text.count("many") < 40


def test_a_tree_without_pictures_or_labels(tmp_path):
    write_frames(tmp_path, "1", [1, 2])
    examination = examine(tmp_path)
    assert not examination.failed
    text = report_text(examination)
    assert "no annotation of train is there" in text
    write_page(tmp_path / "doctor.html", examination)
    assert "There is no label to count" in (tmp_path / "doctor.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["{root}/nowhere"], 1, "is no folder"),
        (["{root}"], 1, "nothing of Aff-Wild2 is in it"),
        (["{root}", "--workers", "0"], 2, "--workers 0 decodes nothing"),
        (["{root}", "--crops", "none"], 2, "--crops"),
    ],
)
def test_wrong_use_is_said_in_one_line(tmp_path, capsys, arguments, code, match):
    assert main(["doctor", *(one.format(root=tmp_path) for one in arguments)]) == code
    error = capsys.readouterr().err
    assert match in error
    assert "Traceback" not in error


def test_shares_are_never_rounded_to_nothing_or_all():
    assert percent(0, 10) == "0.0 %"
    assert percent(1, 100_000) == "<0.1 %"
    assert percent(99_999, 100_000) == ">99.9 %"
    assert percent(10, 10) == "100.0 %"
    assert percent(0, 0) == "0.0 %"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert len(LABELS) == 8
