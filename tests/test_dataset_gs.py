"""A data set in a bucket: gs:// is read through the same code as a folder."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from emulated_bucket import emulated_bucket
from pictures import write_colors

from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData
from fer_jax.data.image_folder import read_image_folder
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space


def test_a_bucket_is_read_like_a_folder(tmp_path):
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install '.[gcs]'")
    space = label_space("expw")
    write_colors(tmp_path / "src", range(30))
    build(*read_image_folder(tmp_path / "src", space), space, tmp_path / "bucket" / "data")
    local = FaceData.open(tmp_path / "bucket" / "data")
    # A process of its own: the clients look for the emulator when they start.
    script = """
        import json
        from fer_jax.data.augment import Augmentation
        from fer_jax.data.dataset import FaceData, select
        from fer_jax.data.pipeline import train_batches

        data = FaceData.open("gs://faces-for-tests/data")
        batches = train_batches(
            [(data, select(data, "train"))], views={"image": "main"}, image_size=24, batch_size=8,
            seed=0, augmentation=Augmentation(),
        )
        images = [data.records.image(row).hex() for row in range(len(data))]
        print(json.dumps([data.index["key"].tolist(), images, next(batches)["row"].tolist()]))
    """
    with emulated_bucket(tmp_path / "bucket", "faces-for-tests") as address:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=os.environ
            | {"CLOUD_STORAGE_EMULATOR_ENDPOINT": address, "STORAGE_EMULATOR_HOST": address},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    keys, images, rows = json.loads(done.stdout.splitlines()[-1])
    assert keys == local.index["key"].tolist()
    assert images == [local.records.image(row).hex() for row in range(30)]
    assert len(set(rows)) == 8


def test_without_gcsfs_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(FerJaxError, match=r"gs://faces/data: .*gcsfs"):
        FaceData.open("gs://faces/data")
