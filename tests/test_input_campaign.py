"""A sample of the campaign of damaged inputs, and that the campaign can fail at all."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parent.parent / "tools"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="damage needs links and pipes"),
]


def _campaign(*arguments: str, before: str = "") -> tuple[int, str]:
    """Runs the campaign in a process of its own, after a line of code."""
    code = (
        f"import sys; sys.path[:0] = [{str(TOOLS)!r}]; {before}\n"
        "import input_campaign\n"
        "if __name__ == '__main__':\n"
        f"    sys.exit(input_campaign.main({list(arguments)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_no_damaged_input_stops_a_run_or_is_lost():
    status, printed = _campaign("--count", "144", "--seed", "3", "--workers", "0")
    assert status == 0, printed
    assert "0 failures in 4 rounds" in printed
    for kind in ("picture", "annotation", "video"):
        assert f"| {kind} |" in printed


@pytest.mark.parametrize(
    ("number", "broken", "told"),
    [
        # A reader that hands out grey for what it cannot decode: nothing is named any more.
        (
            3,
            "import fer_jax.data.staging as s, fer_jax.data.images as i, numpy as np\n"
            "real = i.decode_image\n"
            "def grey(encoded):\n"
            "    try: return real(encoded)\n"
            "    except i.ImageError: return np.zeros((112, 112, 3), np.uint8)\n"
            "s.decode_image = grey",
            "is not stored as it lies there",
        ),
        # A reader that is silent about lines which it cannot read.
        (
            3,
            "import dataclasses, fer_jax.data.affwild2_units as u\n"
            "real = u.read_annotation\n"
            "u.read_annotation = lambda path: dataclasses.replace(real(path), faults=())",
            "has a fault that is not named",
        ),
        # A video that is not whole and does not say so.
        (
            11,
            "import fer_jax.data.affwild2_videos as v\n"
            "real = v.VideoFile._find\n"
            "v.VideoFile._find = lambda self: (real(self)[0], '')",
            "gives fewer frames and is not named",
        ),
        # A doctor who names the right pictures of the wrong video.
        (
            3,
            "import fer_jax.data.doctor as d\n"
            "real = d.Finding\n"
            "def elsewhere(kind, where, *rest):\n"
            "    return real(kind, 'another' if kind == 'corrupted' else where, *rest)\n"
            "d.Finding = elsewhere",
            "is named when preparing, not by the doctor",
        ),
        # A doctor who refuses what is whole.
        (
            3,
            "import fer_jax.data.doctor_pictures as d\n"
            "real = d.read_picture\n"
            "d.read_picture = lambda path: b'' if path.name == '00003.jpg' else real(path)",
            "is named by the doctor, not when preparing",
        ),
        # A reader that waits for pipes.
        (
            9,
            "import types, fer_jax.data.affwild2_files as f\n"
            "f.stat = types.SimpleNamespace(S_ISREG=lambda mode: True)\n"
            "import input_campaign\n"
            "input_campaign.WAITING = 8",
            "doctor: raised WaitingError",
        ),
        # Cleaning that takes what is for scoring.
        (
            80,
            "import fer_jax.data.cleaning as c\nc.TRAIN = 'validation'",
            "is left out, though it is for scoring",
        ),
        # A preparation that finds nothing, though much is there.
        (
            3,
            "import fer_jax.data.affwild2_units as u\nu.Person.label = lambda self, frame: -1",
            "could have been stored",
        ),
        # A step that raises.
        (
            3,
            "import fer_jax.data.doctor as d\nd.find_layout = None",
            "doctor: raised TypeError",
        ),
    ],
)
def test_a_broken_reader_is_seen(number, broken, told):
    status, printed = _campaign("--only", str(number), "--workers", "0", before=broken)
    assert status == 1
    assert told in printed


def test_a_number_makes_one_round(tmp_path):
    from input_campaign import damage_tree, write_mini_affwild2

    write_mini_affwild2(tmp_path / "clean", videos=5, frames=(24, 24), seed=0, faults="none")
    found = []
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "clean", tmp_path / name)
        damaged = damage_tree(tmp_path / name, np.random.Generator(np.random.PCG64((0, 5))))
        found.append({path.relative_to(tmp_path / name): kind for path, kind in damaged.items()})
    assert found[0] == found[1]
    assert len(found[0]) == 36
