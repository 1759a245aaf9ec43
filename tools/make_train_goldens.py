"""Makes tests/testdata/train_steps.npz: five steps of MAE's fine-tuning recipe, run by PyTorch.

    pip install "fer-jax[torch]"
    python tools/make_train_goldens.py tests/testdata

A tiny ViT with global pool is trained with AdamW in MAE's parameter groups (layer-wise decay 0.65,
no weight decay on 1-D tensors, cls_token and pos_embed) on weighted, smoothed cross-entropy, in
float64. The same run in float32 is made beside it: their distance is the noise that a test must
allow, and is printed.

Source: facebookresearch/mae `util/lr_decay.py`. Run it again only if the test's run is to change.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from make_vit_goldens import ViT, randomise

SEED = 20240512
STEPS, BATCH, CLASSES, DEPTH = 5, 12, 5, 2
WEIGHT_DECAY, LAYER_DECAY, SMOOTHING = 0.05, 0.65, 0.1
RATE = 5e-4 * BATCH / 256  # MAE's
MEAN, STD = 0.5, 0.25
CLASS_WEIGHTS = (0.5, 1.0, 2.0, 1.5, 0.8)


def layer_id(name: str) -> int:
    """0 for embeddings, i + 1 for block i, depth + 1 for the rest."""
    if name.startswith(("cls_token", "pos_embed", "patch_embed")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return DEPTH + 1


def parameter_groups(model: ViT) -> list[dict]:
    """One group a tensor, which is the same rule as MAE's groups."""
    groups = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim == 1 or name in ("cls_token", "pos_embed")
        groups.append(
            {
                "params": [parameter],
                "lr": RATE * LAYER_DECAY ** (DEPTH + 1 - layer_id(name)),
                "weight_decay": 0.0 if plain else WEIGHT_DECAY,
            }
        )
    return groups


def run(dtype: torch.dtype, images: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """Losses, the first step's gradients and the last parameters of one run."""
    torch.set_default_dtype(torch.float32)
    model = ViT(image=16, width=24, depth=DEPTH, classes=CLASSES, global_pool=True)
    randomise(model, SEED)
    model = model.to(dtype)
    loss_fn = torch.nn.CrossEntropyLoss(
        weight=torch.tensor(CLASS_WEIGHTS, dtype=dtype), label_smoothing=SMOOTHING
    )
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.999), eps=1e-8)
    found = {f"start/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_fn(model((images[step].to(dtype) / 255 - MEAN) / STD)["logits"], labels[step])
        loss.backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                found[f"gradient/{name}"] = parameter.grad.numpy().copy()
        optimizer.step()
        losses.append(loss.item())
    found |= {f"end/{name}": value.numpy().copy() for name, value in model.state_dict().items()}
    return found | {"losses": np.array(losses)}


def main(folder: Path) -> None:
    """Writes the file."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, (STEPS, BATCH, 3, 16, 16), generator=generator).to(torch.uint8)
    labels = torch.randint(0, CLASSES, (STEPS, BATCH), generator=generator)
    single, double = (run(dtype, images, labels) for dtype in (torch.float32, torch.float64))
    noise = {
        part: max(
            np.abs(single[name] - double[name]).max()
            for name in single
            if name.startswith(part) and not name.endswith("qkv.bias")
        )
        for part in ("gradient/", "end/", "losses")
    }
    print("float32 against float64:", {part: f"{value:.1e}" for part, value in noise.items()})
    np.savez_compressed(
        folder / "train_steps.npz",
        images=images.permute(0, 1, 3, 4, 2).numpy(),
        labels=labels.numpy().astype(np.int32),
        **{name: value.astype(np.float32) for name, value in double.items()},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
