"""Makes tests/testdata/torch_save.pth and torch_save.npz: what PyTorch writes, and what it means.

    pip install "fer-jax[torch]"
    python tools/make_pth_golden.py tests/testdata

Tensors of every dtype, views, shared storages, parameters, and what training leaves beside them:
arguments, an optimiser's state, a scaler, numpy scalars.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

SEED = 20240319


def make_tensors() -> dict[str, torch.Tensor]:
    """Tensors that lie in their storages in different ways."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    return {
        "contiguous": base,
        "transposed": base.t(),
        "sliced": base[1:3, ::2],
        "scalar": torch.tensor(3.25),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "double": torch.randn(3).double(),
        "long": torch.tensor([-1, 2**40]),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "uint16": torch.tensor([1, 65535], dtype=torch.int32).to(torch.uint16),
    }


def main(folder: Path) -> None:
    """Writes both files."""
    torch.manual_seed(SEED)
    tensors = make_tensors()
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": tensors,
        "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "epoch": 7,
        "best": np.float64(0.5),
        "args": argparse.Namespace(lr=1e-3, output_dir=Path("out"), device=torch.device("cpu")),
        "layer": layer.state_dict(),
    }
    torch.save(checkpoint, folder / "torch_save.pth")
    expected = {name: value.detach().clone() for name, value in tensors.items()}
    as_float = {"bfloat16": expected["bfloat16"].float(), "uint16": expected["uint16"].int()}
    np.savez(folder / "torch_save.npz", **{k: v.numpy() for k, v in (expected | as_float).items()})
    print(f"{folder / 'torch_save.pth'}: {(folder / 'torch_save.pth').stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_pth_golden.py FOLDER")
    main(Path(sys.argv[1]))
