"""A sample of the campaign of stopped runs, and that the campaign can fail at all."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.record_writer import RecordWriter

from fer_jax.errors import FerJaxError, Preempted
from fer_jax.train.checkpoints import Checkpoints
from fer_jax.train.config import MeshConfig
from fer_jax.train.logs import RunLog
from fer_jax.train.sharding import make_mesh

TOOLS = Path(__file__).parent.parent / "tools"

linux = pytest.mark.skipif(sys.platform != "linux", reason="disks are mounted as Linux does")


@pytest.fixture(autouse=True)
def _tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def campaign(*arguments, before=""):
    """Runs the campaign in a process of its own, after a line of code."""
    code = (
        f"import sys; sys.path[:0] = [{str(TOOLS)!r}]; {before}\n"
        "import preemption_campaign\n"
        f"sys.exit(preemption_campaign.main({list(arguments)!r}))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"JAX_PLATFORMS": "cpu"},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@linux
def test_stopped_runs_end_as_if_nothing_had_been():
    status, printed = campaign("--kill", "2", "--term", "1", "--disk", "1", "--seed", "3")
    assert status == 0, printed
    assert "0 of 4 rounds failed" in printed
    assert re.search(r"^disk 0: equal: .*exit code 1, newest", printed, re.MULTILINE)


@pytest.mark.slow
@linux
def test_a_run_that_begins_its_data_anew_is_seen():
    """The truth, which is never started again, does not notice."""
    before = (
        "import preemption_runs as runs\n"
        "right, wrong = 'start_step=start_step, **kwargs', 'start_step=0, **kwargs'\n"
        "runs._CHILD = runs._CHILD.replace(right, wrong)\n"
    )
    status, printed = campaign("--kill", "2", "--term", "0", "--disk", "0", before=before)
    assert status == 1, printed
    assert " is another" in printed


def test_digests_tell_bits_types_and_shapes_apart():
    from preemption_runs import digests, told

    kernel = np.float32([[1, 2], [3, 4]])
    truth = digests({"a": {"kernel": kernel}, "step": 3, "losses": [0.5]})
    assert sorted(truth) == ["a/kernel", "losses/0", "step"]
    assert told("params", digests({"a": {"kernel": kernel.copy()}}), truth) == [
        "params: 2 differ, such as losses/0"
    ]
    one_bit = kernel.copy()
    one_bit.view(np.uint32)[1, 1] ^= 1
    for other in (one_bit, kernel.astype(np.float64), kernel.reshape(4)):
        assert digests({"a": {"kernel": other}})["a/kernel"] != truth["a/kernel"]
    assert told("params", truth, truth) == []


def test_batches_may_be_taken_twice_but_not_otherwise_nor_never(tmp_path):
    from preemption_runs import read_notes, wrong_batches

    truth = {0: "aa", 1: "bb", 2: "cc"}
    notes = tmp_path / "run.batches"
    assert read_notes(notes) == []
    notes.write_text("0 aa\n1 bb\n1 bb\n2 cc\n3 d")
    assert read_notes(notes) == [(0, "aa"), (1, "bb"), (1, "bb"), (2, "cc")]
    assert wrong_batches(read_notes(notes), truth) == []
    assert wrong_batches([(0, "aa"), (1, "xx"), (1, "bb"), (3, "dd")], truth) == [
        "batch 1 is another",
        "batch 3 is another",
        "batch 2 was not taken",
    ]


def test_a_bad_end_is_named(tmp_path):
    from preemption_campaign import unclear

    good = f"fer-jax train: {tmp_path}/checkpoints: no space; see to the disk and start again\n"
    assert unclear(1, good, tmp_path) == []
    assert unclear(2, good, tmp_path)[0].startswith("exit code 2, not 1")
    assert unclear(1, "Traceback (most recent call last):\n" + good, tmp_path)[0].startswith("a tr")
    assert len(unclear(1, "OSError: [Errno 28] No space left on device", tmp_path)) == 2
    assert unclear(1, "", tmp_path)[0] == "the last line names no folder: nothing said"


def test_whole_and_unfinished_saves_are_told_apart(tmp_path):
    from preemption_runs import saved_step, unfinished, whole_steps

    folder = tmp_path / "checkpoints"
    assert whole_steps(folder) == unfinished(folder) == []
    for name in ("10", "2", "12.orbax-checkpoint-tmp-17", "scores.json"):
        (folder / name).mkdir(parents=True)
    assert whole_steps(folder) == [2, 10]
    assert unfinished(folder) == ["12.orbax-checkpoint-tmp-17"]
    line = "fer-jax train: stopped by SIGTERM at step 1,204, which is saved; the same command"
    assert saved_step(line) == 1204
    assert saved_step("stopped by SIGTERM after its last checkpoint") is None


@pytest.mark.parametrize(
    ("ends_with", "raised", "told"),
    [
        (None, FerJaxError, "checkpoints: a checkpoint cannot be saved .disk.; .* see to the disk"),
        (Preempted("in an evaluation"), FerJaxError, "a checkpoint cannot be saved"),
        (FerJaxError("told already"), FerJaxError, "told already"),
    ],
)
def test_a_save_that_failed_is_told_once_and_as_a_line(tmp_path, ends_with, raised, told):
    """Found by the campaign: on closing, Orbax raises the error of the last save once more."""

    def close():
        raise ValueError("disk")

    checkpoints = Checkpoints(tmp_path / "checkpoints", make_mesh(MeshConfig()))
    checkpoints._checkpointer.close()
    checkpoints._checkpointer.close = close
    with pytest.raises(raised, match=told), checkpoints:
        if ends_with:
            raise ends_with


def test_curves_that_cannot_be_written_end_the_run_and_do_not_hold_it(tmp_path, monkeypatch):
    """Found by the campaign: the thread of tensorboardX died of it, and then the run waited."""

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    told = r"No space left on device: .*tensorboard/events\.out"
    with RunLog(tmp_path, 0, 9) as log:
        log.write(1, "train", {"loss": 0.5})
        monkeypatch.setattr(RecordWriter, "write", full)
        with pytest.raises(OSError, match=told):
            log.write(2, "train", {"loss": 0.25})
