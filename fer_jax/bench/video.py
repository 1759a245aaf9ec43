"""How many frames of a video a second are labelled, and where the time goes."""

import dataclasses
import datetime
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from fer_jax.atomic import atomic_file
from fer_jax.bench.device import spread
from fer_jax.bench.processes import environment
from fer_jax.bundle import Bundle, View
from fer_jax.errors import FerJaxError
from fer_jax.faces.following import Follower
from fer_jax.faces.videos import VideoFrame, read_video
from fer_jax.labels import label_space
from fer_jax.models import fusion, vit
from fer_jax.predict.finish import finished
from fer_jax.predict.frame_faces import FaceSearch, FrameFaces, faces_of_frames, wanted_alignment
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import Recognizer, load, softmax
from fer_jax.predict.row_file import RowFile
from fer_jax.predict.video import predict_video
from fer_jax.predict.writing import TableFile

BOUND = 4.0  # times the peer's frames a second
_STAGE_FRAMES = 400
_PEER = Path(__file__).with_name("video_peer.py")


def drawn_bundle(size: str = "tiny", image_size: int = 112) -> Bundle:
    """Two encoders and the entry's fusion, of random weights, over the seven basic expressions.

    Args:
        size: of both encoders, see `models.vit.SIZES`.
        image_size: side of both views in pixels.
    """
    config = vit.vit_config(size, num_classes=0, image_size=image_size, pool="avg")
    labels = label_space("expw")
    views = {
        name: View(
            template="arcface_112",
            crop_source="none",
            view=view,
            image_size=image_size,
            resize="bilinear",
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        )
        for name, view in (("main", "main"), ("aux", "eyes_mouth"))
    }
    fused = fusion.fusion_config("entry", dict.fromkeys(views, config.width), len(labels))
    models: dict[str, Any] = {
        name: (config, jax.device_get(jax.jit(vit.init, static_argnums=0)(config, key)))
        for name, key in zip(views, jax.random.split(jax.random.key(0)), strict=True)
    }
    init = jax.jit(fusion.init, static_argnums=0)
    models["fusion"] = (fused, jax.device_get(init(fused, jax.random.key(1))))
    return Bundle(
        kind="two_view",
        models=models,
        views=views,
        labels=labels,
        license="none: random numbers",
        provenance={"made_by": "fer-jax bench video"},
    )


def bench_video(
    video: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] | None = None,
    search_every: int = 5,
    dtype: str = "float32",
    peer_python: str | os.PathLike[str] | None = None,
    repeats: int = 5,
) -> dict[str, Any]:
    """Measures a video from its file to its table, beside the package `fer`, in turn.

    Then each stage alone, on the first 400 frames, in processor time of all threads.

    Args:
        video: the file.
        bundle: its folder; None for two tiny encoders of random weights.
        search_every: of frames, see `FaceSearch`.
        dtype: of the computation.
        peer_python: an interpreter that has `fer`; None measures no peer.
        repeats: passes of each; medians count.

    Returns:
        Plain values: `frames`, `rows`, `ours` and `peer` (`frames_per_second`: median, low, high),
        `ratio`, `holds`, `stages` (milliseconds of a frame), `environment`.

    Raises:
        FerJaxError: the video cannot be read, or the peer not be run.
    """
    options = {"dtype": dtype}
    recognizer = load(bundle, **options) if bundle else Recognizer(drawn_bundle(), **options)
    reading = Reading(FaceSearch(search_every=search_every))
    ours, peers, peer = [], [], {}
    _pass(recognizer, video, reading)  # compiles
    for _ in range(repeats):
        ours.append(_pass(recognizer, video, reading))
        if peer_python:
            peer = _peer_pass(peer_python, video)
            peers.append(peer["frames"] / peer["seconds"])
    rates = [one["frames"] / one["seconds"] for one in ours]
    ratio = float(np.median(rates) / np.median(peers)) if peers else None
    return {
        "benchmark": "video",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "video": str(video),
        "bundle": str(bundle or "two tiny encoders, random weights"),
        "dtype": dtype,
        "batch": recognizer.batch_size,
        "search_every": search_every,
        "repeats": repeats,
        "frames": ours[0]["frames"],
        "rows": ours[0]["rows"],
        "ours": {"frames_per_second": spread(rates)},
        "peer": {
            "version": peer["version"],
            "frames": peer["frames"],
            "faces": peer["faces"],
            "frames_per_second": spread(peers),
        }
        if peers
        else None,
        "ratio": ratio,
        "bound": BOUND,
        "holds": None if ratio is None else ratio >= BOUND,
        "stages": _stages(recognizer, video, reading),
        "environment": environment() | {"backend": jax.default_backend()},
    }


def _pass(recognizer: Recognizer, video: str | os.PathLike[str], reading: Reading) -> dict:
    """One video, from its file to its table."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        reader = read_video(Path(video))
        with TableFile(Path(folder) / "table.csv") as file:
            frames = set()
            for table in predict_video(recognizer, reader, str(video), reading):
                file.write(table)
                frames.update(np.unique(table.frame).tolist())
        seconds = time.perf_counter() - begin
    return {"frames": len(frames), "rows": file.rows, "seconds": seconds}


def _peer_pass(python: str | os.PathLike[str], video: str | os.PathLike[str]) -> dict[str, Any]:
    argv = [str(python), str(_PEER), str(video)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    except OSError as error:
        raise FerJaxError(f"{python}: cannot be run: {error.strerror}") from None
    except (subprocess.CalledProcessError, IndexError, ValueError) as error:
        said = (getattr(error, "stderr", "") or "").strip().splitlines() or ["says nothing"]
        raise FerJaxError(f"{python}: the package fer did not run: {said[-1]}") from None


@dataclasses.dataclass
class _Clock:
    """Processor time of all threads, by stage."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def __call__(self, stage: str, work: Callable[[], Any]) -> Any:
        begin = time.process_time()
        out = work()
        self.seconds[stage] = time.process_time() - begin
        return out


def _stages(
    recognizer: Recognizer, video: str | os.PathLike[str], reading: Reading
) -> dict[str, float]:
    """Milliseconds of the processor that a frame takes, each stage run alone."""
    clock, size = _Clock(), wanted_alignment(recognizer.bundle).size
    first = itertools.islice(read_video(Path(video)), _STAGE_FRAMES)
    frames: list[VideoFrame] = clock("decode", lambda: list(first))
    clock("detect", lambda: _follow(frames, reading.search))
    found: list[FrameFaces] = clock(
        "align", lambda: list(faces_of_frames(frames, reading.search, size))
    )
    clock.seconds["align"] = max(0.0, clock.seconds["align"] - clock.seconds["detect"])
    images = [face.image for frame in found for face in frame.faces]
    every = range(0, len(images), recognizer.batch_size)
    batches = [images[start : start + recognizer.batch_size] for start in every]
    prepared = clock("cut, resize", lambda: [recognizer.prepare(batch) for batch in batches])
    logits = clock("model", lambda: [rows for rows, _ in recognizer.stream(prepared)])
    raw = softmax(np.concatenate(logits)) if logits else np.zeros((0, len(recognizer.classes)))
    clock("smooth, write", lambda: _finish(recognizer, reading, found, np.float32(raw)))
    return {name: 1000 * spent / len(frames) for name, spent in clock.seconds.items()}


def _follow(frames: list[VideoFrame], search: FaceSearch) -> None:
    follower = Follower(search.detector(), search_every=search.search_every)
    for frame in frames:
        follower(frame.time_s, frame.image)


def _finish(
    recognizer: Recognizer,
    reading: Reading,
    found: list[FrameFaces],
    raw: Float32[np.ndarray, "face class"],
) -> None:
    """From scores to the file."""
    with tempfile.TemporaryDirectory() as folder, RowFile(raw.shape[1]) as rows:
        place = 0
        for frame in found:
            rows.append(frame, raw[place : place + len(frame.faces)])
            place += len(frame.faces)
        with TableFile(Path(folder) / "table.csv") as file:
            for table in finished(rows, reading.finishing(recognizer, "video")):
                file.write(table)


def draw_stages(found: Mapping[str, Any], out: str | os.PathLike[str]) -> None:
    """A picture of where the time goes.

    Args:
        found: of `bench_video`.
        out: the PNG file.
    """
    import matplotlib.pyplot as plt

    from fer_jax.colours import INK, QUIET

    stages = found["stages"]
    cores = found["environment"]["cores"]
    clocks = {"clock": found["ours"]}
    if found["peer"]:
        clocks["clock, package fer"] = found["peer"]
    figure, axes = plt.subplots(figsize=(8.0, 1.3 + 0.5 * (1 + len(clocks))))
    shades = plt.colormaps["viridis"](np.linspace(0.08, 0.92, len(stages)))
    left = 0.0
    for (name, took), shade in zip(stages.items(), shades, strict=True):
        axes.barh(0, took, left=left, color=shade, edgecolor="white", label=f"{name} {took:.1f}")
        left += took
    for place, one in enumerate(clocks.values(), start=1):
        rate = one["frames_per_second"]["median"]
        axes.barh(place, 1000 / rate, color=QUIET)
        text = f"  {1000 / rate:.1f} ms, {rate:.0f} frames a second"
        axes.text(1000 / rate, place, text, va="center", color=INK)
    axes.set_yticks(range(1 + len(clocks)), ["processor, each stage alone", *clocks])
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds of a frame ({cores} cores)")
    axes.set_xlim(right=1.55 * axes.dataLim.x1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35), frameon=False, fontsize=9)
    with atomic_file(out) as partial:
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)


def table(found: Mapping[str, Any]) -> list[str]:
    """The figures for people, line by line."""

    def rate(one: Mapping[str, Any]) -> str:
        took = one["frames_per_second"]
        return f"{took['median']:.1f} ({took['low']:.1f} to {took['high']:.1f})"

    lines = [
        f"{found['video']}: {found['frames']:,} frames, {found['rows']:,} rows; {found['bundle']}, "
        f"{found['dtype']}, {found['batch']} faces at once, searched in one of "
        f"{found['search_every']} frames",
        f"frames a second      {rate(found['ours'])}, {found['repeats']} passes",
    ]
    if found["peer"]:
        verdict = "holds" if found["holds"] else "missed"
        lines += [
            f"package fer {found['peer']['version']:<9}{rate(found['peer'])}, "
            f"{found['peer']['faces']:,} faces in {found['peer']['frames']:,} frames",
            f"ratio                {found['ratio']:.2f}, at least {found['bound']:g}: {verdict}",
        ]
    lines.append("milliseconds of the processor for a frame, each stage alone:")
    lines += [f"  {name:<19}{took:.2f}" for name, took in found["stages"].items()]
    used = found["environment"]
    return [*lines, f"{used['cpu']}, {used['cores']} cores, jax {used['jax']}"]
