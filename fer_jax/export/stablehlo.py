"""`OUT.stablehlo` of a bundle, and `OUT.json` beside it, written only if the parity holds."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from fer_jax import __version__
from fer_jax.atomic import atomic_file
from fer_jax.bundle import GOLDEN_FILE, Bundle, bundle_hash, load_bundle, read_document
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.export.parity import (
    TOLERANCE,
    Comparison,
    batch_sizes,
    compare_faces,
    compare_golden,
    drawn_faces,
    folder_faces,
)
from fer_jax.export.program import (
    PLATFORMS,
    check_flatbuffers,
    frame_calibration,
    loaded,
    serialized,
)
from fer_jax.faces.alignment import template, template_name
from fer_jax.golden import read_golden
from fer_jax.predict.frame_faces import wanted_alignment

FORMAT = "fer_jax stablehlo"
FORMAT_VERSION = 1
SUFFIX = ".stablehlo"
FACE_SIZES = (16, 1024)  # least and most, pixels

_REFUSED = {
    "fusion": "is a fusion, which takes the features of encoders and no faces; name a bundle of "
    "two views, which holds its encoders as well",
    "mae": "is a masked autoencoder, which paints faces and names nothing; make a classifier of "
    "it with `fer-jax train`, or convert its checkpoint without --decoder",
}


def export_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    face_size: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
    faces: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Writes a bundle as one file that runs with jax alone, after comparing the two.

    The function in the file takes whole aligned faces, uint8 RGB (batch, N, N, 3), any batch from
    one, and holds weights, cutting, resizing and normalisation. It gives a dict of float32 arrays:
    `logits` and `probabilities` (batch, classes), or `features` (batch, width) of an encoder.
    OUT.json says what the file takes and gives, where it comes from, and the parity.

    Args:
        source: the bundle.
        out: the file to write, OUT.stablehlo.
        face_size: N, pixels; None is the side of the template that the bundle was trained on, or
            112 where it does not name one.
        platforms: of `PLATFORMS`, what the file can run on; this machine's must be among them.
        faces: a folder of pictures for the comparison, each one aligned face; None draws 100.
        overwrite: replace the two files if they exist.

    Returns:
        What was compared and written, for people.

    Raises:
        UsageError: an unknown ending, platform or size, or a bundle that takes or names no faces.
        FerJaxError: no bundle, a damaged one, its views have no alignment in common, a file exists,
            or the exported file does not compute what the bundle computes; nothing is written.
    """
    source, out = Path(source), Path(out)
    document_path = out.with_suffix(".json")
    _check_out(out, document_path, overwrite)
    platforms = tuple(platforms)
    _check_platforms(platforms)
    if face_size is not None and not FACE_SIZES[0] <= face_size <= FACE_SIZES[1]:
        raise UsageError(f"--face-size={face_size}: must lie in {FACE_SIZES[0]} to {FACE_SIZES[1]}")
    _, fields, _ = read_document(source)
    if fields["kind"] in _REFUSED:
        raise UsageError(f"{source}: {_REFUSED[fields['kind']]}")
    check_flatbuffers()

    bundle = load_bundle(source)
    size = face_size or wanted_alignment(bundle).size
    pictures = drawn_faces(size) if faces is None else folder_faces(faces, size)
    blob, convention = serialized(bundle, size, size, platforms)
    name = "drawn faces" if faces is None else "faces of the folder"
    comparisons = compare_faces(loaded(blob), bundle, pictures, name)
    comparisons = _golden(source, bundle, blob, size, platforms) + comparisons
    for one in comparisons:
        if not one.passed:
            raise FerJaxError(
                f"{out}: not written, {one.output} differ ({one.what}) by {one.difference:.3g} "
                f"of the largest value, {one.allowed:.3g} is allowed, {one.floor:.3g} it is "
                "without the file; this jax computes wrongly, try another version or machine"
            )
    document = _document(source, bundle, blob, size) | {
        "platforms": list(platforms),
        "jax_version": jax.__version__,
        "jaxlib_version": importlib.metadata.version("jaxlib"),
        "calling_convention_version": convention,
        "parity": _parity(comparisons, len(pictures), name),
    }
    # The document last: it names the hash of the file that it belongs to.
    with atomic_file(document_path) as described, atomic_file(out) as partial:
        text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
        described.write_text(text + "\n", encoding="utf-8")
        partial.write_bytes(blob)
    return _lines(out, document_path, document, comparisons)


def _check_out(out: Path, document: Path, overwrite: bool) -> None:
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: must end in {SUFFIX}")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name a file")
    if not out.parent.is_dir():
        raise FerJaxError(f"{out.parent}: no such folder; make it first, or name another one")
    for path in (out, document):
        if path.exists() and not overwrite:
            raise FerJaxError(f"{path}: exists already; pass --overwrite, or name another file")


def _check_platforms(platforms: Sequence[str]) -> None:
    given = ",".join(platforms)
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UsageError(
                f"--platforms={given}: {platform!r} must be one of {', '.join(PLATFORMS)}"
            )
    if len(set(platforms)) < len(platforms):
        raise UsageError(f"--platforms={given}: names one twice")
    from jax import export

    here = export.default_export_platform()
    if here not in platforms:
        raise UsageError(
            f"--platforms={given}: the comparison runs on this machine's {here}; add it"
        )


def _golden(
    source: Path, bundle: Bundle, blob: bytes, size: int, platforms: Sequence[str]
) -> list[Comparison]:
    inputs, stored = read_golden(source / GOLDEN_FILE, bundle)
    height, width = inputs["faces"].shape[1:3]
    if (height, width) != (size, size):  # the sample's faces need a file of their own size
        blob, _ = serialized(bundle, height, width, platforms)
    return compare_golden(loaded(blob), bundle, inputs["faces"], stored)


def _document(source: Path, bundle: Bundle, blob: bytes, size: int) -> dict[str, Any]:
    classes = None if bundle.labels is None else list(bundle.labels.classes)
    if classes is None:
        config, _ = bundle.models["main"]
        outputs = {"features": _output(config.width, "pooled features of the encoder")}
    else:
        outputs = {
            "logits": _output(len(classes), "scores before the softmax"),
            "probabilities": _output(len(classes), _meaning(bundle)),
        }
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fer_jax_version": __version__,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "bytes": len(blob),
        "kind": bundle.kind,
        "input": _input(bundle, size),
        "outputs": outputs,
        "label_space": None if bundle.labels is None else bundle.labels.name,
        "classes": classes,
        "license": bundle.license,
        "provenance": bundle.provenance,
        "bundle_sha256": bundle_hash(source),
    }


def _input(bundle: Bundle, size: int) -> dict[str, Any]:
    trained_on = sorted({view.template for view in bundle.views.values()})[0]
    known = trained_on == template_name(size)
    return {
        "dtype": "uint8",
        "shape": ["batch, 1 or more", size, size, 3],
        "range": [0, 255],
        "color_order": "RGB",
        "what": "whole aligned faces; views are cut, resized and normalised inside",
        "template": trained_on,
        # Where eyes, nose and corners of the mouth belong, (x, y); 0 is the middle of a pixel.
        "template_points": template(size).round(4).tolist() if known else None,
    }


def _meaning(bundle: Bundle) -> str:
    if frame_calibration(bundle) is not None:
        return "softmax of the logits, calibrated for single frames"
    if bundle.calibration is not None:
        return "softmax of the logits; the bundle's calibration is of smoothed rows, not applied"
    return "softmax of the logits, not calibrated"


def _output(width: int, what: str) -> dict[str, Any]:
    return {"dtype": "float32", "shape": ["batch", width], "what": what}


def _parity(comparisons: Sequence[Comparison], number: int, name: str) -> dict[str, Any]:
    return {
        "measured_on": jax.default_backend(),
        "measure": "largest difference over largest value",
        "tolerance": TOLERANCE,
        "faces": f"{number} {name}",
        "batch_sizes": sorted(set(batch_sizes(number))),
        "comparisons": [
            {
                "what": one.what,
                "output": one.output,
                "difference": one.difference,
                "floor": one.floor,
                "allowed": one.allowed,
            }
            for one in comparisons
        ],
    }


def _lines(
    out: Path, document_path: Path, document: dict[str, Any], comparisons: Sequence[Comparison]
) -> list[str]:
    given, size = document["input"], document["input"]["shape"][1]
    lines = [f"takes uint8 RGB faces (batch, {size}, {size}, 3), aligned as {given['template']!r}"]
    lines += [f"gives {name}: {about['what']}" for name, about in document["outputs"].items()]
    lines.append(f"parity on {document['parity']['measured_on']}, of the largest value:")
    width = max(len(f"{one.what}: {one.output}") for one in comparisons)
    for one in comparisons:
        label = f"{one.what}: {one.output}"
        floor = f" + {one.floor:.1e} without the file" if one.floor else ""
        lines.append(f"  {label:{width}}  {one.difference:.1e}  (allowed {TOLERANCE:.0e}{floor})")
    lines.append(
        f"{out}: {document['bytes'] / 1e6:.1f} MB, for {', '.join(document['platforms'])}; "
        f"what it takes and gives: {document_path}"
    )
    return lines
