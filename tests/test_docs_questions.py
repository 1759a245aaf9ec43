"""docs/questions.md: commands are read by the programs, links lead somewhere, figures are known."""

import csv
import re
import shlex
from collections import Counter
from pathlib import Path

import jax
import mini_trees
import numpy as np
import pytest
from test_submission import of_aligned_crops
from tiny_bundles import tiny_two_view_bundle

from fer_jax.bench.flops import count_flops
from fer_jax.bundle import load_bundle, save_bundle
from fer_jax.cli.main import main
from fer_jax.data.mini_affwild2 import read_planted
from fer_jax.models import fusion
from fer_jax.recipes.ablation_cells import cells_of
from fer_jax.train.config import TrainConfig
from fer_jax.train.config_fields import check_field

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TEXT = (DOCS / "questions.md").read_text(encoding="utf-8")
# Where the work of each command begins: until there it reads its options and its config.
WORK = {
    "ablate": "fer_jax.recipes.ablation.run_ablation",
    "bench bundle": "fer_jax.bench.bundle.bench_bundle",
    "bench fusion": "fer_jax.bench.fusion.bench_fusion",
    "bench train": "fer_jax.bench.train.bench_train",
    "convert": "fer_jax.cli.convert._import",
    "evaluate": "fer_jax.evaluate.evaluation.evaluate_bundle",
    "evaluate predictions": "fer_jax.evaluate.frame_evaluation.evaluate_predictions",
    "plan": "fer_jax.plan.run.make_plan",
    "prepare": "fer_jax.cli.prepare._edited",
    "pretrain": "fer_jax.train.pretrain.pretrain",
    "smooth": "fer_jax.cli.smooth._search",
    "train": "fer_jax.train.finetune.finetune",
    "train two_view": "fer_jax.recipes.two_view.run_two_view",
}
# For these there is tiny data.
RUN = ("prepare", "evaluate", "smooth")


def commands() -> list[list[str]]:
    """Each command with its variables put in, as bash does it."""
    script = "".join(re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL))
    assigned = r'^(\w+)="([^"]*)"\n'
    variables = dict(re.findall(assigned, script, flags=re.MULTILINE))
    lines = re.sub(assigned, "", script, flags=re.MULTILINE).splitlines()
    filled = [re.sub(r"\$(\w+)", lambda found: variables[found[1]], line) for line in lines]
    return [shlex.split(line) for line in filled]


COMMANDS = commands()
READ = [words[1:] for words in COMMANDS if words[0] == "fer-jax"]


def section(number: int) -> str:
    return re.split(r"^## \d+\. ", TEXT, flags=re.MULTILINE)[number]


def slugs(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_ten_questions_each_with_a_command_and_what_is_unknown():
    assert re.findall(r"^## (\d+)\. .*\?$", TEXT, flags=re.MULTILINE) == [*map(str, range(1, 11))]
    for number in range(1, 11):
        assert "```bash\nfer-jax " in section(number)
        assert "unknown" in section(number)
        assert "paper" in section(number)


def test_every_command_is_one_of_the_programs():
    assert len(COMMANDS) > 25
    for words in COMMANDS:
        if words[0] != "fer-jax":
            assert words[0] == "python"
            assert (ROOT / words[1]).is_file()
    names = {" ".join(words[: 2 if words[0] == "bench" else 1]) for words in READ}
    assert names == {*WORK} - {"train two_view", "evaluate predictions"}


class ReachedError(Exception):
    """The work of a command would begin now."""


@pytest.mark.parametrize("words", READ, ids=lambda words: " ".join(words)[-60:])
def test_every_command_is_read(words, monkeypatch, capsys):
    """By itself, up to where its work begins: options, config file, fields and their values."""
    monkeypatch.chdir(ROOT)
    given = []

    def reached(*arguments, **options):
        given.extend(arguments)
        raise ReachedError

    for place in WORK.values():
        monkeypatch.setattr(place, reached)
    try:
        code = main(words)
    except ReachedError:
        code = 0
    assert code == 0, capsys.readouterr().err
    assert given or words[:2] == ["bench", "fusion"]
    if words[0] == "ablate":
        cells = cells_of(given[0])
        # One axis is varied, but where a field of training is.
        axes = [word for word in words if word.startswith("--config.axes.")]
        named = axes[-1].partition("=")[2].split(",")
        assert len(cells) == len(named)


def test_a_wrong_option_is_seen(capsys, monkeypatch):
    """What the test above would do with a page that names a field that is not there."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(WORK["ablate"], lambda *_, **__: pytest.fail("was read"))
    (one, *_) = (words for words in READ if words[0] == "ablate")
    assert main([word.replace("axes.attention", "axes.attentions") for word in one]) == 2
    assert "config.axes.attentions: no such field" in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the reader has: the unpacked data, and bundles of the runs on the page."""
    folder = tmp_path_factory.mktemp("questions")
    options = ("--videos", "10", "--frames", "24", "30", "--faults", "none")
    mini_trees.make(folder / "affwild2", *options)
    mini_trees.make(folder / "mini", *options, "--seed", "3")
    for seed, name in enumerate(("run", "from_mae_face", "from_dinov2")):
        bundle = tiny_two_view_bundle("linear", "affwild2_expr", seed=seed)
        save_bundle(of_aligned_crops(bundle), folder / name / "bundle")
    return folder


@pytest.mark.slow
def test_commands_on_predictions_and_cleaning_run(folder, monkeypatch, capsys):
    """Word for word, in the order of the page."""
    monkeypatch.chdir(folder)
    chosen = [words for words in READ if words[0] in RUN]
    for words in chosen:
        workers = ["--workers", "0"] if words[0] == "prepare" else []
        assert main([*words, *workers]) == 0, capsys.readouterr().err
    assert Counter(words[0] for words in chosen) == {"prepare": 5, "evaluate": 5, "smooth": 1}
    assert "training pictures left out" in capsys.readouterr().out
    for made in ("reviewed/cleaning.csv", "uncleaned/index.npz", "compared/table.md"):
        assert (folder / made).stat().st_size > 0
    assert "with mouth covered" in (folder / "regions" / "table.md").read_text().lower()
    assert load_bundle(folder / "run" / "bundle").smoothing is not None


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) > 20
    for link in links:
        name, _, anchor = link.partition("#")
        path = DOCS / name if name else DOCS / "questions.md"
        assert path.is_file(), link
        assert not anchor or anchor in slugs(path), link


def test_files_and_fields_in_the_text_exist():
    for name in re.findall(r"`((?:configs|tools)/\w+\.py)`", TEXT):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"tests/\w+\.py", TEXT):
        assert (ROOT / name).is_file(), name
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    fields = re.findall(
        r"`((?:config|model|optimizer|loss|sampling)\.[a-z_.]+[a-z])(?:=\w+)?`", prose
    )
    assert len(fields) >= 5
    for name in fields:
        check_field(TrainConfig, f"config.{name.removeprefix('config.')}")
    for page in (ROOT / "README.md", DOCS / "method.md"):
        assert "questions.md)" in page.read_text("utf-8"), page


def test_every_score_stands_in_the_evidence():
    """A figure that is measured anew is put there first."""
    evidence = " ".join((DOCS / "evidence.md").read_text("utf-8").replace("**", "").split())
    text = " ".join(TEXT.split())
    figures = re.findall(r"[+-]?0\.\d{3} \([+-]?0\.\d{3} to [+-]?0\.\d{3}\)", text)
    assert len(figures) > 25
    for figure in figures:
        assert figure in evidence, figure
    # No score stands without its interval.
    assert len(re.findall(r"0\.\d{3}", text)) == 3 * len(figures)


def cost_rows() -> list[list[str]]:
    rows = re.findall(r"^\| (\w+.*?) \|$", section(7), flags=re.MULTILINE)
    return [row.split(" | ") for row in rows if row.split(" | ")[0] != "fusion"]


@pytest.mark.parametrize("row", cost_rows(), ids=lambda row: row[0])
def test_costs_of_fusions_are_counted_again(row):
    """As `fer-jax plan` does, which needs the compiler for TPUs; 5 % for what it counts besides."""
    name, *options = row[0].split(", ")
    fields = dict(zip(("attention", "merge"), options, strict=False)) if options else {}
    config = fusion.fusion_config(name, {"main": 768, "aux": 768}, 8, **fields)
    params = jax.eval_shape(lambda: fusion.init(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == int(row[1].replace(",", ""))
    faces = 16
    shape = (faces, 14, 14, 768) if name == "token" else (faces, 768)
    features = {view: jax.ShapeDtypeStruct(shape, np.float32) for view in ("main", "aux")}
    counted = count_flops(lambda p, f: fusion.apply(config, p, f), params, features) / faces
    number, letter = row[2].split()
    told = float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[letter]
    assert counted == pytest.approx(told, rel=0.05)


@pytest.mark.slow
def test_what_cleaning_takes_from_the_mini_affwild2(tmp_path, monkeypatch, capsys):
    """The two commands of question 8; the list is compared with what was planted."""
    monkeypatch.chdir(tmp_path)
    (tool,) = (words for words in COMMANDS if words[0] == "python")
    assert tool[1] == "tools/make_mini_affwild2.py"
    mini_trees.make(tmp_path / tool[2], *tool[3:])
    (prepare,) = (words for words in COMMANDS if "mini_data" in words)
    assert main(prepare[1:]) == 0
    told = re.search(r"^\| mini Aff-Wild2.*$", section(8), flags=re.MULTILINE)[0]
    _, _, pictures, left_out, reasons, _ = told.split("|")
    number = int(left_out.split()[0])
    said = capsys.readouterr().out
    assert f"{number} of {pictures.strip()} training pictures" in said
    with Path("mini_data.staging/cleaning.csv").open(newline="") as file:
        gone = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert len(gone) == number
    counts = {f"{reason} {count}" for reason, count in Counter(gone.values()).items()}
    assert {*reasons.strip().split(", ")} == counts
    planted = read_planted(tmp_path / "mini")
    split_of = {video.name: video.split for video in planted.videos}
    spoiled = {
        f"{mark.video}/{mark.frame:05d}.jpg"
        for kind in ("corrupt_image", "non_face", "blurred", "low_resolution")
        for mark in planted.faults[kind]
        if split_of.get(mark.video) == "train"
    }
    assert spoiled == {path for path, reason in gone.items() if reason != "duplicate"}
    assert len(spoiled) == 30
    (copied,) = planted.faults["copied_video"]
    pairs = {
        f"{video}/{frame:05d}.jpg"
        for mark in planted.faults["duplicate_image"]
        for video, frame in (
            (mark.video, mark.frame),
            (mark.other_video, mark.other_frame),
        )
    }
    copies = {path for path, reason in gone.items() if reason == "duplicate"}
    assert len(copies & pairs) == 5
    others = copies - pairs
    assert len(others) == 64
    assert {path.split("/")[0] for path in others} <= {copied.video, copied.other_video}
