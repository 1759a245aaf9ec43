"""Runs that are told to stop: what they save, and that they go on as if nothing had been."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorstore

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.data.synthetic import write_synthetic_faces
from fer_jax.errors import FerJaxError, Preempted
from fer_jax.train import run as runs
from fer_jax.train import task as tasks
from fer_jax.train.checkpoints import Checkpoints
from fer_jax.train.config import MeshConfig, default_config, freeze
from fer_jax.train.finetune import finetune
from fer_jax.train.logs import RunLog
from fer_jax.train.sharding import make_mesh

# 80 faces to train on, 5 steps an epoch; a line of the log covers 3 of them, or the 2 left.
_STEPS = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preemption")
    write_synthetic_faces(folder / "faces", identities=8, images_per_identity=16, size=32)
    arguments = ["--csv", f"{folder}/faces/labels.csv", "--labels", "affwild2_expr"]
    out = str(folder / "data")
    assert main(["prepare", "images", f"{folder}/faces", *arguments, "--out", out]) == 0
    return out


def tiny(folder, **changes):
    config = default_config()
    config.data = folder
    config.epochs = 2
    config.batch_size = 16
    config.log_every = 3
    config.selection = 0.2
    config.ema_decay = 0.9
    config.model.width, config.model.depth, config.model.num_heads = 32, 2, 2
    config.model.image_size, config.model.patch_size = 32, 8
    config.augment.mixup = 0.5
    config.optimizer.warmup_epochs = 1.0
    config.update(changes)
    return freeze(config)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nobody stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    state, _ = finetune(tiny(data), workdir)
    return workdir, state


def log_lines(workdir):
    """The log without what a clock has to do with."""
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.is_dir())


def assert_same_run(workdir, state, whole):
    assert log_lines(workdir) == log_lines(whole[0])
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (load_bundle(folder / "bundle") for folder in (workdir, whole[0]))
    for one, other in zip(
        jax.tree.leaves(ours.models["main"][1]),
        jax.tree.leaves(theirs.models["main"][1]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def at_step(number):
    """SIGTERM when the bar moves to a step."""
    advance = RunLog.advance

    def hook(self, steps=1):
        advance(self, steps)
        hook.step += 1
        if hook.step == number:
            os.kill(os.getpid(), signal.SIGTERM)

    hook.step = 0
    return hook


def test_sigterm_within_an_epoch_saves_the_step_and_goes_on(data, whole, tmp_path, monkeypatch):
    """After step 4: one line of the log is written, one loss waits for the next."""
    workdir = tmp_path / "run"
    listening = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", at_step(4))
        with pytest.raises(Preempted, match="at step 4, which is saved"):
            finetune(tiny(data), workdir)
    assert saved_steps(workdir) == [4]
    assert [line["step"] for line in log_lines(workdir)] == [3]
    assert signal.getsignal(signal.SIGTERM) is listening
    state, _ = finetune(tiny(data), workdir)
    assert_same_run(workdir, state, whole)


@pytest.mark.slow
def test_sigterm_while_scoring_loses_nothing(data, whole, tmp_path, monkeypatch):
    """The checkpoint of the epoch is written before it is scored; later only that is done."""
    workdir, evaluate_step = tmp_path / "run", tasks.evaluate_step

    def told(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "evaluate_step", told)
        with pytest.raises(Preempted, match="after its last checkpoint"):
            finetune(tiny(data, evaluate_batch_size=8), workdir)
    assert saved_steps(workdir) == [5]
    assert {line["group"] for line in log_lines(workdir)} == {"train"}
    state, _ = finetune(tiny(data, evaluate_batch_size=8), workdir)
    # Another batch of the evaluation rounds differently: only the training can be the same.
    ours, theirs = (
        [line for line in log_lines(folder) if line["group"] == "train"]
        for folder in (workdir, whole[0])
    )
    assert ours == theirs
    steps = [line["step"] for line in log_lines(workdir) if line["group"] == "selection"]
    assert steps == [5, 10]
    np.testing.assert_array_equal(state.ema["head"]["kernel"], whole[1].ema["head"]["kernel"])


def test_a_score_that_was_not_noted_is_made_again(data, whole, tmp_path):
    """As after a kill between the line of the log and the note: the line is not there twice."""
    workdir = tmp_path / "run"
    finetune(tiny(data), workdir)
    scores = json.loads((workdir / "checkpoints" / "scores.json").read_text())
    del scores[str(_STEPS)]
    (workdir / "checkpoints" / "scores.json").write_text(json.dumps(scores))
    state, _ = finetune(tiny(data), workdir)
    assert_same_run(workdir, state, whole)


@pytest.mark.slow
def test_a_continuation_may_lie_on_another_mesh(data, whole, tmp_path, monkeypatch):
    """Stopped on 8 x 1 devices, gone on with on 1 x 8; also saves within the epochs."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", at_step(6))
        with pytest.raises(Preempted):
            finetune(tiny(data, checkpoint_steps=2), workdir)
    config = tiny(data, checkpoint_steps=4, mesh={"data": 1, "fsdp": 8})
    state, _ = finetune(config, workdir)
    assert saved_steps(workdir)[-1] == _STEPS
    ours, theirs = ([line.get("loss") for line in log_lines(w)] for w in (workdir, whole[0]))
    # Seen: 3e-7, from other orders of summation.
    np.testing.assert_allclose(ours, theirs, atol=3e-6)
    kernel = state.params["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, None, "fsdp")


def test_the_command_exits_with_75(data, tmp_path, monkeypatch, capsys):
    config = config_file(data, tmp_path)
    monkeypatch.setattr(RunLog, "advance", at_step(1))
    assert main(["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 75
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == (
        "fer-jax train: stopped by SIGTERM at step 1, which is saved; the same command goes on "
        "from there"
    )


def test_a_disk_that_fails_while_a_checkpoint_is_written(data, whole, tmp_path, monkeypatch):
    """The error of the writer's thread reaches the user as a line; the checkpoint before stands."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", at_step(3))
        with pytest.raises(Preempted):
            finetune(tiny(data), workdir)
    folder = workdir / "checkpoints"
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(FerJaxError, match=r"cannot be saved .*the one before it stands"):
            finetune(tiny(data), workdir)
    finally:
        folder.chmod(0o755)
    state, _ = finetune(tiny(data), workdir)
    assert_same_run(workdir, state, whole)


async def _until(written: "tensorstore.Future") -> None:
    await written


def test_writers_that_outlive_a_failed_checkpoint_say_nothing(tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(str(what.exc_value)))
    with Checkpoints(tmp_path / "checkpoints", make_mesh(MeshConfig())):
        promise, written = tensorstore.Promise.new()
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(_until(written))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()  # as Orbax closes it once another array could not be written
        promise.set_result(None)
        assert reported == []
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError("another"), err_msg=None))
        assert reported == ["another"]
        waiting.get_coro().close()


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_became_read_only_keeps_nobody_waiting(small_disk):
    # A process of its own: writers that wait for a folder would keep it from its end for minutes.
    program = """
        import dataclasses, pathlib, subprocess, sys
        import jax.numpy as jnp
        from fer_jax.train.checkpoints import Checkpoints
        from fer_jax.train.config import MeshConfig
        from fer_jax.train.sharding import make_mesh
        from fer_jax.train.state import TrainState

        state = TrainState(jnp.int32(1), {"w": jnp.ones(4)}, {"m": jnp.ones(4)}, None)
        with Checkpoints(pathlib.Path(sys.argv[1]), make_mesh(MeshConfig())) as checkpoints:
            checkpoints.save(state, {"rows": "x"})
            checkpoints.wait()
            subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(2)), {"rows": "x"})
            checkpoints.wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(small_disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "see to the disk and start again" in done.stderr


def test_sigterm_after_the_last_step_is_not_forgotten(data, whole, tmp_path, monkeypatch):
    """A recipe would go on to its next run. Started again, the run is done."""
    workdir, save_bundle = tmp_path / "run", runs.save_bundle

    def told(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        save_bundle(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_bundle", told)
        with pytest.raises(Preempted, match="at the end of a run"):
            finetune(tiny(data), workdir)
    state, _ = finetune(tiny(data), workdir)
    assert_same_run(workdir, state, whole)


def test_a_score_of_a_checkpoint_that_never_was_is_forgotten(data, whole, tmp_path, monkeypatch):
    """Scored, but killed before it was whole on disk: scored again when the run comes there."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", at_step(4))
        with pytest.raises(Preempted):
            finetune(tiny(data), workdir)
    (workdir / "checkpoints" / "scores.json").write_text('{"5": 0.99}')
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "evaluate_step", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(tiny(data), workdir)
    state, _ = finetune(tiny(data), workdir)
    assert_same_run(workdir, state, whole)


_PROCESS = """
import jax, os, signal, sys
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
from fer_jax.cli.main import main
from fer_jax.train.logs import RunLog
advance = RunLog.advance
def hook(self, steps=1):
    advance(self, steps)
    hook.step += 1
    if hook.step == int(os.environ.get("STOP", 0)):
        if os.environ.get("GROUP"):
            os.killpg(0, signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
hook.step = 0
RunLog.advance = hook
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def config_file(data, folder, **changes):
    """A config file of `tiny`."""
    path = folder / "config.py"
    fields = dataclasses.asdict(tiny(data, **changes))
    path.write_text(
        "from fer_jax.train.config import default_config\n"
        "def get_config():\n    config = default_config()\n"
        f"    config.update({fields!r})\n"
        "    return config\n"
    )
    return path


def start(folder, arguments, log, **variables):
    program = folder / "program.py"
    program.write_text(_PROCESS)
    return subprocess.Popen(
        [sys.executable, str(program), *arguments],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "DEVICES": "8"} | variables,
    )


def in_two_processes(arguments, folder, stop=0):
    """The command in two processes of four devices each, joined by gloo; the second is told."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    logs = [folder / f"process{index}.log" for index in range(2)]
    running = [
        start(
            folder,
            [*arguments, f"--distributed=localhost:{port},2,{index}"],
            log,
            DEVICES="4",
            STOP=str(stop * index),
        )
        for index, log in enumerate(logs)
    ]
    codes = [process.wait(300) for process in running]
    return codes, [log.read_text() for log in logs]


@pytest.mark.slow
def test_two_processes_and_one_go_on_with_each_others_run(data, whole, tmp_path, monkeypatch):
    """1 x 8 devices to step 2, 2 x 4 to about step 5, where one of them is told, then 1 x 8."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", at_step(2))
        with pytest.raises(Preempted):
            finetune(tiny(data), workdir)
    config = config_file(data, tmp_path, mesh={"data": -1, "fsdp": 2})
    arguments = ["train", f"--config={config}", f"--workdir={workdir}"]
    codes, said = in_two_processes(arguments, tmp_path, stop=2)
    assert codes == [75, 75], said[0][-2000:] + said[1][-2000:]
    assert "resumed at step 2" in said[0]
    assert "resumed" not in said[1]
    assert 4 <= saved_steps(workdir)[-1] < _STEPS
    codes, said = in_two_processes(arguments, tmp_path)
    assert codes == [0, 0], said[0][-2000:] + said[1][-2000:]
    ours, theirs = ([line.get("loss") for line in log_lines(w)] for w in (workdir, whole[0]))
    # Seen: 3e-7 after ten steps, whose updates differ by rounding.
    np.testing.assert_allclose(ours, theirs, atol=3e-6)
    state, _ = finetune(tiny(data), workdir)
    np.testing.assert_allclose(
        state.ema["head"]["kernel"], whole[1].ema["head"]["kernel"], atol=1e-4
    )


@pytest.mark.slow
def test_sigterm_to_the_whole_group_spares_the_workers_until_all_is_saved(data, whole, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    config = config_file(data, tmp_path, workers=1)
    arguments = ["train", f"--config={config}", f"--workdir={workdir}"]
    process = start(tmp_path, arguments, log, STOP="4", GROUP="1")
    assert process.wait(300) == 75, log.read_text()[-2000:]
    assert saved_steps(workdir) == [4]
    state, _ = finetune(tiny(data), workdir)
    assert_same_run(workdir, state, whole)
