"""Every file in configs/ is read, and its first command names it."""

from pathlib import Path

import pytest

from fer_jax.cli.configs import parse
from fer_jax.recipes.ablation_cells import cells_of
from fer_jax.recipes.ablation_config import AblateConfig
from fer_jax.recipes.two_view_config import TwoViewConfig
from fer_jax.train.config import TrainConfig
from fer_jax.train.fuse_config import FuseConfig
from fer_jax.train.pretrain_config import PretrainConfig

FILES = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
KINDS = {
    "train": (TrainConfig, TwoViewConfig),
    "fuse": (FuseConfig,),
    "ablate": (AblateConfig,),
    "pretrain": (PretrainConfig,),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_is_read_by_the_command_that_it_names(path):
    text = path.read_text()
    (command,) = {c for c in KINDS if f"fer-jax {c} --config=configs/{path.name}" in text}
    argv = [f"--config={path}", "--workdir=run", "--config.data=data", "--config.backbone=b"]
    if command == "fuse":
        argv.pop()
    config, _ = parse(command, argv, *KINDS[command])
    assert config.data == "data"
    if command == "ablate":
        argv += ["--config.uncleaned=u", "--config.synthetic_data=s"]
        cells = cells_of(parse(command, argv, AblateConfig)[0])
        assert len(cells) == len(set(cells)) > 5
