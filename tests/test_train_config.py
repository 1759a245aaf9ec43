"""Config files and the command line: every mistake is named in one line."""

import dataclasses

import pytest

from fer_jax.cli.main import main
from fer_jax.errors import UsageError
from fer_jax.train.config import TrainConfig, default_config, freeze, to_dict


def test_defaults_survive_the_way_through_a_config_dict():
    assert freeze(default_config()) == TrainConfig()
    assert freeze(to_dict(TrainConfig())) == TrainConfig()


def test_changes_arrive_typed():
    config = default_config()
    config.model.image_size = 112
    config.augment.crop_scale = (0.5, 1.0)
    frozen = freeze(config)
    assert frozen.model.image_size == 112
    assert frozen.augment.crop_scale == (0.5, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.epochs = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {}}, "config.optimiser: no such field; did you mean config.optimizer"),
        ({"optimizer": {"lr": 1.0}}, "config.optimizer.lr: no such field; known: name, learning"),
        ({"epochs": "ten"}, "config.epochs='ten': must be int"),
        ({"epochs": True}, "config.epochs=True: must be int"),
        ({"epochs": 0}, "config.epochs=0: must be at least 1"),
        ({"selection": 0.95}, r"config.selection=0.95: must be in \[0, 0.9\]"),
        ({"optimizer": {"name": "sgd"}}, "config.optimizer.name='sgd': must be one of adamw, adam"),
        ({"view": "ears"}, "config.view='ears': must be one of main, eyes"),
        ({"resize": "best"}, "config.resize='best': must be one of bilinear"),
        ({"model": {"pool": "max"}}, "config.model.pool='max': must be one of cls, avg"),
        ({"model": {"size": "giant"}}, "config.model.size='giant': must be one of tiny, small"),
        (
            {"augment": {"crop_scale": (0.5, 2.0)}},
            r"config.augment.crop_scale=\(0.5, 2.0\) is out of range",
        ),
        ({"augment": {"crop_scale": 0.5}}, "config.augment.crop_scale=0.5: must be 2 numbers"),
        ({"model": 3}, "config.model=3: holds fields"),
        ({"seed": -1}, "config.seed=-1: must be at least 0"),
        ({"sampling": {"stride": 0}}, "config.sampling.stride=0: must be at least 1"),
        ({"sampling": {"strid": 2}}, "config.sampling.strid: no such field; did you mean"),
        ({"sampling": {"balance": "x"}}, "config.sampling.balance='x': must be one of natural"),
        (
            {"sampling": {"source_weights": "a=b"}},
            "config.sampling.source_weights='a=b': 'a=b' is not one source=weight",
        ),
        (
            {"sampling": {"stride": 2, "frames_per_video": 2}},
            "config.sampling.stride=2: does not go together with frames_per_video=2",
        ),
        ({"loss": {"name": "dice"}}, "config.loss.name='dice': must be one of cross_entropy, foc"),
        ({"loss": {"focal_gamma": -1.0}}, "config.loss.focal_gamma=-1.0: must be at least 0"),
        (
            {"loss": {"logit_adjustment_tau": -1.0}},
            "config.loss.logit_adjustment_tau=-1.0: must be at least 0",
        ),
        (
            {"loss": {"effective_beta": 1.1}},
            r"config.loss.effective_beta=1.1: must be in \[0, 1\]",
        ),
        (
            {"model": {"head_dropout": 1.0}},
            r"config.model.head_dropout=1.0: must be in \[0, 0.99\]",
        ),
        ({"loss": {"soft_labels": 1}}, "config.loss.soft_labels=1: must be bool"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        freeze(changes)


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from fer_jax.train.config import default_config\n\n"
        "def get_config():\n    return default_config()\n"
    )
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "line 1"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("def get_config():\n    return nothing", "name 'nothing' is not defined"),
    ],
)
def test_a_broken_config_file_is_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(text)
    assert main(["train", f"--config={path}", f"--workdir={tmp_path}/run"]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config={file}", "--config.optimzer.name=adam"], "did you mean config.optimizer?"),
        (["--config={file}", "--config.model.width.x=1"], "config.model.width.x: no such field"),
        (["--config={file}", "--config.epochs=many"], "many"),
        (["--config={file}", "--config.epochs=0", "--workdir=x"], "must be at least 1"),
        (["--config={file}", "--workdri=x"], "workdri"),
        (["--config={file}"], "--workdir=DIR is missing"),
        (["--config={file}", "--workdir=x", "stray"], "'stray' is not an option"),
        (["--workdir=x"], "--config=FILE.py is missing"),
        (["--config=absent.py", "--workdir=x"], "--config=absent.py: no such file"),
        (["--config={file}", "--workdir={dir}/run"], "config.data is empty"),
    ],
)
def test_command_line_mistakes_exit_with_2_in_one_line(
    arguments, message, config_file, tmp_path, capsys
):
    filled = [a.format(file=config_file, dir=tmp_path) for a in arguments]
    assert main(["train", *filled]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1
