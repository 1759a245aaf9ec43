"""The files of a report, of either kind."""

import json

from fer_jax.evaluate.report_files import report_files


def test_a_report_of_the_other_kind_is_replaced_whole(tmp_path):
    def write(kind):
        with report_files(tmp_path, kind) as paths:
            for name, path in paths.items():
                path.write_text(json.dumps({kind: 1}) if name == "metrics.json" else kind)
        return sorted(file.name for file in tmp_path.iterdir())

    (tmp_path / "predictions.csv").write_text("somebody's")
    images = ["confusion.png", "metrics.json", "table.md"]
    assert write("images") == sorted([*images, "predictions.csv"])
    assert write("frames") == ["metrics.json", "predictions.csv", "report.html", "table.md"]
    assert write("images") == images
