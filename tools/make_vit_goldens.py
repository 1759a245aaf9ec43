"""Makes tests/testdata/vit_mae.npz and vit_timm.npz: tiny random ViTs, run by PyTorch.

    pip install "fer-jax[torch]"
    python tools/make_vit_goldens.py tests/testdata

Run it again only if the test's models are to change: never to make a failing parity test pass.
The model is written out here from the definitions of facebookresearch/mae `models_vit.py` and timm
`vision_transformer.py`, so that it shares no code with the package.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

SEED = 20240319
STAGES = ("patch_embed", "block_0", "blocks", "pooled", "logits")


class Attention(nn.Module):
    """Self-attention with the rows of qkv ordered [q | k | v], scores written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, tokens, width)."""
        batch, tokens, width = x.shape
        size = width // self.heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = (query * size**-0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, tokens, width)."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A scale for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, tokens, width)."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm block."""

    def __init__(self, width: int, heads: int, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, tokens, width)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 3, height, width)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """ViT whose state dict has MAE's and timm's names.

    `global_pool` is MAE's fine-tuning: mean of the patch tokens, then fc_norm; otherwise the CLS
    token after norm. `layer_scale` is timm's init_values, as in DINOv2.
    """

    def __init__(
        self,
        *,
        image: int = 32,
        patch: int = 8,
        width: int = 32,
        depth: int = 3,
        heads: int = 4,
        classes: int = 8,
        global_pool: bool = False,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        self.global_pool = global_pool
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, width))
        self.blocks = nn.ModuleList([Block(width, heads, layer_scale) for _ in range(depth)])
        if global_pool:
            self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        else:
            self.norm = nn.LayerNorm(width, eps=1e-6)
        if classes:
            self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """images: (batch, 3, height, width), normalised. Returns every stage of STAGES."""
        patches = self.patch_embed(images)
        stages = {"patch_embed": patches}
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        x = x + self.pos_embed
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 0:
                stages["block_0"] = x
        stages["blocks"] = x
        pooled = self.fc_norm(x[:, 1:].mean(dim=1)) if self.global_pool else self.norm(x)[:, 0]
        stages["pooled"] = pooled
        if hasattr(self, "head"):
            stages["logits"] = self.head(pooled)
        return stages


def randomise(model: ViT, seed: int) -> None:
    """Fills every parameter so that each one matters.

    Tokens are kept small (0.1), because LayerNorm's epsilon is only seen beside a small variance.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("gamma"):
                parameter.copy_(0.5 + 0.2 * noise)
            elif name in ("cls_token", "pos_embed"):
                parameter.copy_(0.05 * noise)
            elif name.startswith("patch_embed"):
                parameter.copy_(0.05 * noise / parameter[0].numel() ** 0.5)
            elif parameter.ndim == 2:
                parameter.copy_(1.5 * noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.1 * noise)


def make_golden(seed: int, **fields: bool) -> dict[str, np.ndarray]:
    """State dict, images (batch, height, width, 3), stage outputs, and float32's own error."""
    torch.manual_seed(seed)
    model = ViT(**fields).eval()
    randomise(model, seed)
    images = torch.randn(2, 3, 32, 32)
    golden = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        stages = {name: value.numpy().copy() for name, value in model(images).items()}
        exact = {name: value.numpy() for name, value in model.double()(images.double()).items()}
    golden["images"] = images.permute(0, 2, 3, 1).contiguous().numpy()
    golden["heads"] = np.int32(4)
    for name in STAGES:
        golden[f"stage/{name}"] = stages[name]
        golden[f"noise/{name}"] = np.abs(stages[name] - exact[name]).max()
    return {name: np.asarray(value, _kind(value)) for name, value in golden.items()}


def _kind(value: np.ndarray) -> type:
    return np.int32 if np.asarray(value).dtype.kind == "i" else np.float32


def main(folder: Path) -> None:
    """Writes both files."""
    torch.set_num_threads(1)
    goldens = {
        "vit_mae.npz": make_golden(SEED, global_pool=True),
        "vit_timm.npz": make_golden(SEED + 1, layer_scale=True),
    }
    for name, golden in goldens.items():
        np.savez(folder / name, **golden)
        noise = max(float(golden[f"noise/{stage}"]) for stage in STAGES)
        size = (folder / name).stat().st_size
        print(f"{folder / name}: {size:,} bytes, float32 against float64 {noise:.1e}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_vit_goldens.py FOLDER")
    main(Path(sys.argv[1]))
