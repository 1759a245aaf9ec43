"""What an examination found, as JSON and as text for a terminal."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.data.affwild2 import LABELS
from fer_jax.data.doctor import SPLITS, Examination
from fer_jax.data.doctor_counts import VideoCheck, percent
from fer_jax.data.doctor_findings import KINDS, SEVERITIES, Finding

MEANINGS = {
    "error": "training would silently take something wrong",
    "warning": "to be known; what is broken is left out",
    "note": "as it usually is",
}
# What is shown, the count, and what it is a share of.
_ROWS = (
    ("videos", "videos", ""),
    ("with pictures", "videos_with_pictures", "videos"),
    ("lines of annotation", "lines", ""),
    ("not annotated (-1)", "unlabelled", "lines"),
    ("labels", "labels", ""),
    ("with a picture", "labels_with_picture", "labels"),
    ("without a picture", "labels_without_picture", "labels"),
    ("pictures", "pictures", ""),
    ("without a label", "pictures_without_label", "pictures"),
)
_ROWS_IF_OPENED = (
    ("cannot be opened", "corrupted", "pictures"),
    ("of one colour", "flat", "pictures"),
)
_MOST_SHOWN = 8


def as_dict(examination: Examination) -> dict[str, Any]:
    """The examination as plain values, for doctor.json.

    Args:
        examination: what was found.

    Returns:
        Counts of each split, class weights, findings with all details, and counts of each video.
    """
    layout = examination.layout
    splits = [split for split in (*SPLITS, "") if examination.split(split)]
    return {
        "root": str(layout.root),
        "failed": examination.failed,
        "seconds": round(examination.seconds, 1),
        "crops": examination.crops,
        "opened": examination.opened,
        "video_files": len(layout.videos),
        "test_list": str(layout.test_list) if layout.test_list else None,
        "sample": str(layout.sample) if layout.sample else None,
        "sample_rows": examination.sample_rows,
        "splits": {split or "none": _split(examination, split) for split in splits},
        "class_weights": class_weights_of(examination),
        "findings": [
            {
                "severity": finding.severity,
                "kind": finding.kind,
                "split": finding.split,
                "where": finding.where,
                "count": finding.count,
                "message": finding.message,
                "details": list(finding.details),
            }
            for finding in examination.findings
        ],
        "videos": [_video(check) for check in examination.videos],
    }


def class_weights_of(examination: Examination) -> dict[str, dict[str, float] | str]:
    """The weights of each class in each scheme, from what can be trained on.

    Returns:
        For each scheme the weights by class, or why there are none.
    """
    # jax takes a second to import, which `--help` and a refusal need not wait for.
    from fer_jax.errors import FerJaxError
    from fer_jax.ops.losses import CLASS_WEIGHT_SCHEMES, class_weights

    counts = examination.counts("train", pictured=bool(examination.crops))
    weights: dict[str, dict[str, float] | str] = {}
    for scheme in CLASS_WEIGHT_SCHEMES:
        try:
            values = class_weights(counts, scheme, LABELS).tolist()
            weights[scheme] = dict(zip(LABELS.classes, values, strict=True))
        except FerJaxError as error:
            weights[scheme] = str(error)
    return weights


def report_text(examination: Examination) -> str:
    """The report for a terminal.

    Args:
        examination: what was found.

    Returns:
        The text, ending in a newline; of many findings of a kind the first are shown.
    """
    report = as_dict(examination)
    lines = [heading(report), ""]
    lines += _split_table(report)
    lines += ["", *_class_table(report)]
    for severity in SEVERITIES:
        lines += _findings(examination.findings, severity)
    lines += ["", verdict(examination)]
    # A name that is no text, as file systems allow, is shown with question marks.
    return ("\n".join(lines) + "\n").encode(errors="replace").decode()


def write_json(path: Path, examination: Examination) -> None:
    """Writes `as_dict` to a file."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(as_dict(examination), indent=1) + "\n", encoding="utf-8")


def heading(report: dict[str, Any]) -> str:
    """What was looked at, in a line."""
    crops = report["crops"] or "no crops"
    opened = "all pictures opened" if report["opened"] else "by names only, no picture opened"
    extra = f", {report['video_files']:,} video files" if report["video_files"] else ""
    return f"{report['root']}: {crops}, {opened}{extra} ({report['seconds']:.0f} s)"


def verdict(examination: Examination) -> str:
    """How many findings there are of each severity."""
    counts = [
        sum(finding.severity == severity for finding in examination.findings)
        for severity in SEVERITIES
    ]
    parts = [
        f"{count or 'no'} {severity}{'' if count == 1 else 's'}"
        for count, severity in zip(counts, SEVERITIES, strict=True)
    ]
    advice = "; mend the errors before training" if counts[0] else "; it can be trained on"
    return ", ".join(parts) + advice


def by_kind(findings: Iterable[Finding], severity: str) -> list[tuple[str, list[Finding]]]:
    """The findings of a severity, those of a kind together."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity == severity:
            groups.setdefault(finding.kind, []).append(finding)
    return list(groups.items())


def rows_of(report: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """The rows of the table of splits: a title, a count, and what that is a share of."""
    return _ROWS + _ROWS_IF_OPENED if report["opened"] else _ROWS


def cell(split: dict[str, Any], count: str, whole: str) -> tuple[str, str]:
    """A count and its share, empty where the split has nothing to count."""
    if not split[whole or count] or (count == "pictures_without_label" and not split["lines"]):
        return "", ""
    share = percent(split[count], split[whole]) if whole else ""
    return f"{split[count]:,}", share


def _split(examination: Examination, split: str) -> dict[str, Any]:
    checks = examination.split(split)
    labels = examination.counts(split, pictured=False)
    pictured = examination.counts(split, pictured=True)
    return {
        "videos": len(checks),
        "videos_with_pictures": sum(check.images > 0 for check in checks),
        "lines": sum(check.lines for check in checks),
        "unlabelled": sum(check.unlabelled for check in checks),
        "labels": int(labels.sum()),
        "labels_with_picture": int(pictured.sum()),
        "labels_without_picture": int((labels - pictured).sum()),
        "pictures": sum(check.images for check in checks),
        "pictures_without_label": sum(check.images_without_label for check in checks),
        "corrupted": sum(len(check.corrupted) for check in checks),
        "flat": sum(check.flat for check in checks),
        "labels_of_class": _named(labels),
        "pictured_of_class": _named(pictured),
    }


def _named(counts: np.ndarray) -> dict[str, int]:
    return dict(zip(LABELS.classes, counts.tolist(), strict=True))


def _video(check: VideoCheck) -> dict[str, Any]:
    return {
        "video": check.video,
        "split": check.split,
        "lines": check.lines,
        "unlabelled": check.unlabelled,
        "labels": check.labelled,
        "labels_without_picture": check.labels_without_image,
        "pictures": check.images,
        "first_picture": check.first_image,
        "last_picture": check.last_image,
        "pictures_without_label": check.images_without_label,
        "corrupted": len(check.corrupted),
        "flat": check.flat,
        "labels_of_class": _named(check.labels),
    }


def _split_table(report: dict[str, Any]) -> list[str]:
    splits = report["splits"]
    rows = [["", *(text for split in splits for text in (split, ""))]]
    for title, count, whole in rows_of(report):
        cells = [cell(split, count, whole) for split in splits.values()]
        if any(number for number, _ in cells):
            indent = "  " if whole else ""
            rows.append([indent + title, *(text for pair in cells for text in pair)])
    return _aligned(rows)


def _class_table(report: dict[str, Any]) -> list[str]:
    splits = {name: report["splits"].get(name) for name in ("train", "validation")}
    splits = {name: split for name, split in splits.items() if split}
    weights = {
        scheme: values
        for scheme, values in report["class_weights"].items()
        if isinstance(values, dict) and scheme != "none"
    }
    if not splits:
        return []
    kind = "pictured_of_class" if report["crops"] else "labels_of_class"
    title = "labels with a picture" if report["crops"] else "labels"
    rows = [[title, *(text for name in splits for text in (name, ""))]]
    rows[0] += [f"weight {scheme}" for scheme in weights]
    for name in LABELS.classes:
        row = [name]
        for split in splits.values():
            row += [f"{split[kind][name]:,}", percent(split[kind][name], sum(split[kind].values()))]
        rows.append(row + [f"{values[name]:.3f}" for values in weights.values()])
    lines = _aligned(rows)
    missing = [text for text in report["class_weights"].values() if isinstance(text, str)]
    return [*lines, f"no weights: {missing[0]}"] if missing else lines


def _findings(findings: Sequence[Finding], severity: str) -> list[str]:
    groups = by_kind(findings, severity)
    if not groups:
        return []
    lines = ["", f"{severity}s: {MEANINGS[severity]}"]
    for kind, group in groups:
        lines.append(f"  {KINDS[kind].title} ({len(group):,}): {KINDS[kind].remedy}")
        lines += [f"    {one.where}: {one.message}" for one in group[:_MOST_SHOWN]]
        if len(group) > _MOST_SHOWN:
            lines.append(f"    ... and {len(group) - _MOST_SHOWN:,} more in doctor.json (--out)")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines
