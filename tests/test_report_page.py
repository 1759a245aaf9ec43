"""The report on one video: what stands in it, that it loads nothing, and how a browser shows it."""

import base64
import html.parser
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from coded_videos import BOX, number_in, write_coded
from prediction_tables import CLASSES, one_face, table_of

from fer_jax.colours import colours_of, rgb
from fer_jax.errors import FerJaxError
from fer_jax.report import moments as moments_module
from fer_jax.report.moments import best_moments, thumbnails
from fer_jax.report.page import write_report

CUT = (14, 14, 40, 40)  # where the square lies in a thumbnail
SCRIPT = "<script>alert(1)</script>"


def table_of_video(frames=20, **more):
    """Neutral, anger, happiness; most confident in frames 4, 11 and 18."""
    rows = []
    for number in range(1, frames + 1):
        label = (number - 1) * 3 // frames
        best = 0.9 if number in (4, 11, 18) else 0.6
        prob = np.full(3, (1 - best) / 2)
        prob[label] = best
        rows.append({"frame": number, "prob": prob, "box": BOX} | more)
    rows[6] |= {"face_id": -1, "fill": "linear", "raw": (np.nan,) * 3, "status": "no_face"}
    rows[6]["box"] = (np.nan,) * 4
    return table_of(rows)


class Page(html.parser.HTMLParser):
    """What an HTML file would load, its text, and whether its tags are closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.sources, self.texts, self.tags = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def pictures(self, kind):
        start = f"data:image/{kind};base64,"
        found = [source for source in self.sources if source.startswith(start)]
        raw = (np.frombuffer(base64.b64decode(one[len(start) :]), np.uint8) for one in found)
        return [cv2.imdecode(one, cv2.IMREAD_COLOR)[..., ::-1] for one in raw]


def test_moments_are_the_most_confident_frames(tmp_path):
    table = table_of_video()
    video = write_coded(tmp_path / "a.avi", 20)
    found = best_moments(table)
    assert [(one.label, one.frame, one.box) for one in found] == [
        (0, 4, BOX), (1, 11, BOX), (2, 18, BOX)
    ]  # fmt: skip
    for one, jpeg in zip(found, thumbnails(video, found), strict=True):
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert picture.shape == (68, 68, 3)  # 1.7 sides of the box
        assert number_in(picture, CUT) == one.frame


def test_filled_and_unscored_frames_are_no_moments():
    filled = table_of_video(fill="hold")
    assert best_moments(filled) == []
    unscored = table_of_video(raw=(np.nan,) * 3)
    assert best_moments(unscored) == []


def test_faces_at_the_edge_and_of_another_video(tmp_path):
    video = write_coded(tmp_path / "a.avi", 3)
    edge = table_of([{"frame": 1, "prob": (1, 0, 0), "box": (310, 220, 40, 40)}])
    (jpeg,) = thumbnails(video, best_moments(edge))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape == (34, 24, 3)
    far = table_of([{"frame": 1, "prob": (1, 0, 0), "box": (900, 100, 40, 40)}])
    with pytest.raises(FerJaxError, match="frame 1 has no pixel where the table has a face"):
        thumbnails(video, best_moments(far))
    late = table_of([{"frame": 9, "prob": (1, 0, 0), "box": BOX}])
    assert thumbnails(video, best_moments(late)) == [b""]


def test_the_page_is_one_file_with_what_was_found(tmp_path):
    table = table_of_video(video=f"in/{SCRIPT}.mp4")
    video = write_coded(tmp_path / "a.avi", 20)
    out = tmp_path / "report.html"
    about = {"bundle": "run/<b>", "window": "box, 4 s"}
    write_report(table, out, video=video, about=about)
    page = Page(out)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "script" not in page.tags
    text = " ".join(page.texts)
    assert f"{SCRIPT}.mp4" in text
    assert "run/<b>" in text
    assert "http://" not in out.read_text()
    assert "https://" not in out.read_text()
    assert "0:00.8 long, 20 frames, 1 face, in view for 95 % of the time." in text
    assert "1 rows in 1 stretches" in text
    assert re.search(r"7\s+0:00.2 to 0:00.2\s+linear", text)
    assert len(page.pictures("png")) == 1
    assert [number_in(one, CUT) for one in page.pictures("jpeg")] == [4, 11, 18]
    # Of 20 frames: 7, 7 and 6.
    assert re.findall(r"width:([\d.]+)%", out.read_text()) == ["35.00", "35.00", "30.00"]
    assert all(f"{share} %" in text for share in (35, 30))


def test_without_faces_no_frame_is_in_the_page(tmp_path, monkeypatch):
    table = table_of_video()
    video = write_coded(tmp_path / "a.avi", 20)
    write_report(table, tmp_path / "with.html", video=video)
    assert len(Page(tmp_path / "with.html").pictures("jpeg")) == 3

    def opened(path):
        raise AssertionError("the video was opened")

    monkeypatch.setattr(moments_module, "read_video", opened)
    write_report(table, tmp_path / "without.html", video=video, faces=False)
    write_report(table, tmp_path / "never.html", faces=False)
    # The video can have left nothing where the page is the same without one.
    assert (tmp_path / "without.html").read_bytes() == (tmp_path / "never.html").read_bytes()
    page = Page(tmp_path / "without.html")
    assert len(page.sources) == 1
    (timeline,) = page.pictures("png")
    assert timeline.shape[1] == 1600
    assert "Pictures of faces are left out." in page.texts


def test_many_faces_and_many_stretches(tmp_path):
    rows = [
        {"frame": f, "face_id": k, "prob": (1, 0, 0), "fill": ("none", "hold")[f % 2]}
        for f in range(1, 501)
        for k in range(6)
    ]
    write_report(table_of(rows), tmp_path / "r.html")
    text = " ".join(Page(tmp_path / "r.html").texts)
    assert "6 faces, at least one in view" in text
    assert "And 2 more, seen for less time" in text
    assert "1,500 rows in 1,500 stretches" in text
    assert "And 1,300 more stretches." in text
    assert text.index("0:00.0 to 0:00.0") < text.index("0:01.0 to 0:01.0")
    assert (tmp_path / "r.html").stat().st_size < 300_000


def test_a_stretch_ends_where_the_person_is_away(tmp_path):
    rows = [
        {"frame": f, "face_id": k, "prob": (1, 0, 0), "fill": "none" if k else "hold"}
        for k, frames in enumerate(([1, 2, 5, 6], range(1, 7)))
        for f in frames
    ]
    write_report(table_of(rows), tmp_path / "r.html")
    text = " ".join(Page(tmp_path / "r.html").texts)
    assert "4 rows in 2 stretches" in text
    assert "1 to 2" in text
    assert "5 to 6" in text


@pytest.mark.parametrize("labels", [[-1, -1], [0]])
def test_small_tables(labels, tmp_path):
    name = b"\xff.mp4".decode("utf-8", "surrogateescape")  # a file name that is no text
    write_report(one_face(labels, video=name), tmp_path / "r.html")
    assert "?.mp4" in Page(tmp_path / "r.html").texts


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium here, which opens the report")
    home = tmp_path_factory.mktemp("browser")

    def run(*arguments):
        command = [
            path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={home}", "--enable-logging=stderr",
            "--window-size=800,1600", *arguments,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    return run


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it(dark, tmp_path, browser):
    table = table_of_video(video=f"{SCRIPT}<img src=x onerror=alert(1)>.mp4")
    write_report(table, tmp_path / "r.html", video=write_coded(tmp_path / "a.avi", 20))
    look = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    shot = tmp_path / "shot.png"
    done = browser(*look, f"--screenshot={shot}", (tmp_path / "r.html").as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    picture = cv2.imread(str(shot))[..., ::-1]
    assert picture.shape[1] == 800
    assert (picture[5, 5].mean() < 60) == dark
    for colour in colours_of(CLASSES):  # bars, keys and the timeline
        assert (picture == rgb(colour)).all(axis=2).sum() > 300
    blue = (picture[..., 2] > 200) & (picture[..., 1] < 60)  # the faces of the video
    assert blue.sum() > 3 * 2000
    if not dark:
        dom = browser("--dump-dom", (tmp_path / "r.html").as_uri()).stdout
        assert dom.count("<img") == 4
        assert "<script" not in dom
