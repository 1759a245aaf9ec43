"""Makes tests/testdata/pretrain_steps.npz: ten steps of MAE's pre-training recipe, run by PyTorch.

    pip install "fer-jax[torch]"
    python tools/make_pretrain_goldens.py tests/testdata

A tiny masked autoencoder is trained with AdamW in MAE's two parameter groups (weight decay 0.05 but
on 1-D tensors; the class and mask tokens decay; positions are fixed), betas 0.9 and 0.95, on
normalised patches, with masks from given noise and a rate that warms up and falls on a cosine. The
model is that of tools/make_mae_goldens.py, written from the definition of facebookresearch/mae. In
float64; the same run in float32 is made beside it: their distance is the noise that a test must
allow, and is printed.

Source: facebookresearch/mae `main_pretrain.py`, `engine_pretrain.py`, `util/lr_sched.py`. Run it
again only if the test's run is to change.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from make_mae_goldens import MAE, randomise

SEED = 20240620
STEPS, BATCH = 10, 8
WEIGHT_DECAY = 0.05
BASE_RATE, WARMUP, EPOCHS = 0.05, 2, 5  # two steps an epoch
MEAN, STD = 0.5, 0.25


def rate(epoch: float) -> float:
    """MAE's: linear from 0, then half a cosine to 0; for 256 images."""
    peak = BASE_RATE * BATCH / 256
    if epoch < WARMUP:
        return peak * epoch / WARMUP
    return peak * 0.5 * (1.0 + math.cos(math.pi * (epoch - WARMUP) / (EPOCHS - WARMUP)))


def parameter_groups(model: MAE) -> list[dict]:
    """As timm's `add_weight_decay`: by rank alone, of what is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        {"params": [p for p in trained if p.ndim != 1], "weight_decay": WEIGHT_DECAY},
    ]


def run(dtype: torch.dtype, images: torch.Tensor, noise: torch.Tensor) -> dict[str, np.ndarray]:
    """Losses, and the first and last parameters of one run."""
    model = MAE(image=32, patch=8, width=24, decoder_width=16, decoder_depth=2)
    randomise(model, SEED)
    model = model.to(dtype)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    found = {f"start/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step / (STEPS / EPOCHS))
        optimizer.zero_grad()
        loss = model((images[step].to(dtype) / 255 - MEAN) / STD, noise[step])["loss_norm_pix"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found |= {f"end/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    return found | {"losses": np.array(losses)}


def main(folder: Path) -> None:
    """Writes the file."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    levels = torch.randint(0, 16, (STEPS, BATCH, 3, 32, 32), generator=generator)
    images = (17 * levels).to(torch.uint8)
    noise = torch.rand(STEPS, BATCH, 16, generator=generator)
    single, double = (run(dtype, images, noise) for dtype in (torch.float32, torch.float64))
    apart = {
        name: np.abs(single[name] - double[name]).max()
        for name in single
        if name.startswith(("end/", "losses")) and not name.endswith("qkv.bias")
    }
    worst = max((name for name in apart if name != "losses"), key=apart.get)
    print(f"float32 against float64: losses {apart['losses']:.1e}, {worst} {apart[worst]:.1e}")
    print("losses:", *(f"{loss:.4f}" for loss in double["losses"]))
    np.savez_compressed(
        folder / "pretrain_steps.npz",
        images=images.permute(0, 1, 3, 4, 2).numpy(),
        noise=noise.numpy(),
        **{name: value.astype(np.float32) for name, value in double.items()},
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_pretrain_goldens.py FOLDER")
    main(Path(sys.argv[1]))
