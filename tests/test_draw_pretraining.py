"""The picture of a pre-training run: what is read of its log, and that it is a picture."""

import json

import cv2
import draw_pretraining as tool


def write_log(folder, rows):
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "log.jsonl")


def row(epoch, loss, **more):
    return {"step": 10 * epoch, "group": "selection", "epoch": epoch, "masked_loss": loss, **more}


def test_an_epoch_that_was_run_twice_counts_once(tmp_path):
    train = {"step": 5, "group": "train", "epoch": 0.5, "loss": 1.0}
    path = write_log(tmp_path / "run", [train, row(1, 0.9), row(2, 0.8), row(2, 0.7), row(3, 0.6)])
    assert [one["masked_loss"] for one in tool.read_log(path)] == [0.9, 0.7, 0.6]


def test_two_runs_are_drawn_in_two_panels(tmp_path):
    logs = [
        write_log(
            tmp_path / name, [row(1, 0.9, probe_accuracy=0.3), row(2, loss, probe_accuracy=0.4)]
        )
        for name, loss in (("scratch", 0.8), ("dinov2", 0.5))
    ]
    assert tool.main([*logs, "--out", str(tmp_path / "p.png")]) == 0
    two = cv2.imread(str(tmp_path / "p.png"))
    assert two.shape[1] > 2 * two.shape[0] > 600
    assert tool.main([logs[0], "--out", str(tmp_path / "q.png")]) == 0
    one = cv2.imread(str(tmp_path / "q.png"))
    assert one.shape == two.shape
    assert (one != two).any()


def test_another_log_is_refused(tmp_path, capsys):
    path = write_log(tmp_path / "run", [{"group": "train", "loss": 1.0}])
    assert tool.main([path, "--out", str(tmp_path / "p.png")]) == 1
    assert "holds no evaluation" in capsys.readouterr().err
