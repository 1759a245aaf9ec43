"""Whether a long video takes more memory than a short one: `python tools/video_memory.py VIDEO`.

Makes two videos by repeating one (ffmpeg, without coding it again), labels each in processes of
their own, in turn, and prints the peaks of anonymous and of all resident memory, as medians.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fer_jax.bench import processes
from fer_jax.bench.video import drawn_bundle
from fer_jax.bundle import save_bundle

BOUND = 1.05


def repeat(video: Path, out: Path, seconds: float) -> None:
    """Writes a video again and again.

    Args:
        video: the file.
        out: the result, with the same kind of container.
        seconds: of the result.
    """
    subprocess.run(
        ["ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", str(video), "-t", str(seconds),
         "-c", "copy", "-an", str(out)],
        check=True,
    )  # fmt: skip


def label(video: Path, bundle: Path, every: int, smooth: str) -> tuple[processes.Run, int]:
    """Labels a video in a process of its own; what it took, and the rows it wrote."""
    out = video.with_suffix(".csv")
    run = processes.run(
        [sys.executable, "-m", "fer_jax.cli.main", "predict", str(video), "--bundle", str(bundle),
         "--out", str(out), "--every", str(every), "--smooth", smooth, "--window", "4s"]
    )  # fmt: skip
    with open(out) as table:
        return run, sum(1 for _ in table) - 1


def main() -> int:
    """Exit code 1 where the longer one takes more than 5 % more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--seconds", type=float, nargs=2, default=(60.0, 7200.0))
    parser.add_argument("--every", type=int, default=10, help="frames looked at: one in so many")
    parser.add_argument("--smooth", default="box", help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_bundle(drawn_bundle(), work / "bundle")
        videos = [work / f"{name}{arguments.video.suffix}" for name in ("short", "long")]
        for video, seconds in zip(videos, arguments.seconds, strict=True):
            repeat(arguments.video, video, seconds)
        options = (work / "bundle", arguments.every, arguments.smooth)
        label(videos[0], *options)  # compiles, which takes memory of its own
        found: dict[Path, list[processes.Run]] = {video: [] for video in videos}
        for _ in range(arguments.repeats):
            for video in videos:
                run, rows = label(video, *options)
                found[video].append(run)
                print(
                    f"{video.stem}: {rows:,} rows in {run.seconds:.0f} s; anonymous "
                    f"{run.anonymous / 1e6:,.0f} MB, resident {run.resident / 1e6:,.0f} MB",
                    flush=True,
                )
    short, long = (
        [
            statistics.median(getattr(run, name) for run in runs)
            for name in ("anonymous", "resident")
        ]
        for runs in found.values()
    )
    ratios = [more / less for more, less in zip(long, short, strict=True)]
    print(f"ratio: anonymous {ratios[0]:.3f}, resident {ratios[1]:.3f}; at most {BOUND}")
    return int(max(ratios) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
