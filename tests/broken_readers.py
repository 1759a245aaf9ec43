"""Breaks the reader on purpose, one way after another, and prints what the campaign says of each.

A script, run by test_checkpoint_campaign.py in a process of its own: the audit hook of an
`Examiner` cannot be taken away again.
"""

import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import checkpoint_seeds as seeds
import numpy as np
from checkpoint_worker import Examiner

from fer_jax import safetensors_file
from fer_jax.convert import checkpoint, pth, pth_archive

TWICE = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
TWICE += b'"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}'


def main(folder: Path) -> None:
    os.chdir(folder)
    examiner = Examiner(folder)
    good = seeds.make_seeds()[0]

    def run(name: str, target: object, attribute: str, value: object, data: bytes) -> None:
        path = folder / "file"
        path.write_bytes(data)
        whole = examiner.examine(path, good.name)
        with mock.patch.object(target, attribute, value):
            broken = examiner.examine(path, good.name)
        print(json.dumps({"name": name, "whole": whole, "broken": broken}), flush=True)

    system = pth.Symbol("os.system", os.system)
    called = seeds.call(seeds.name_of("os", "system"), seeds.text("touch ran"))
    symbols = pth.SYMBOLS | {"os.system": system}
    run("runs a command", pth, "SYMBOLS", symbols, seeds.pth_of(called, {}))

    imported = pth.Symbol("builtins.__import__", __import__)
    sys.modules.pop("colorsys", None)
    called = seeds.call(seeds.name_of("builtins", "__import__"), seeds.text("colorsys"))
    symbols = pth.SYMBOLS | {"builtins.__import__": imported}
    run("imports a module", pth, "SYMBOLS", symbols, seeds.pth_of(called, {}))

    backwards = _turned(pth._checked_tensor)
    run("turns tensors round", pth, "_checked_tensor", backwards, good.data)

    header = len(TWICE).to_bytes(8, "little") + TWICE + b"ab"
    run("takes one of two keys", safetensors_file, "_no_key_twice", dict, header)

    named = seeds.dict_of({"x" * 5000: seeds.tensor(seeds.storage(seeds.text("0"), 1), (1,))})
    file = seeds.pth_of(named, {"0": bytes(4)})
    run("says long names", checkpoint, "_MAX_NAME", 1 << 30, file)

    size = 400 << 20
    one = seeds.tensor(seeds.storage(seeds.text("0"), size // 4), (1,))
    zeros = {"0": bytes(size)}
    bomb = seeds.pth_of(seeds.dict_of({"w": one}), zeros, compression=zipfile.ZIP_DEFLATED)
    run("unpacks a bomb", pth_archive.Archive, "_unpacked", _without_bound, bomb)

    errors = tuple(e for e in pth_archive._ZIP_ERRORS if not issubclass(zipfile.BadZipFile, e))
    run("lets zipfile's errors through", pth_archive, "_ZIP_ERRORS", errors, good.data[:-30])


def _without_bound(
    archive: pth_archive.Archive, packed: np.ndarray, size: int, part: str
) -> np.ndarray:
    return np.frombuffer(zlib.decompress(packed, -zlib.MAX_WBITS), np.uint8)


def _turned(check: Callable[..., pth.TensorRef]) -> Callable[..., pth.TensorRef]:
    def checked(storage, dtype, count, offset, size, stride):
        if len(size) == 2:
            rows, columns = size
            size, stride = (columns, rows), (rows, 1)
        return check(storage, dtype, count, offset, size, stride)

    return checked


if __name__ == "__main__":
    main(Path(sys.argv[1]))
