"""Makes tests/testdata/mae.npz: a tiny random masked autoencoder, run by PyTorch.

    pip install "fer-jax[torch]"
    python tools/make_mae_goldens.py tests/testdata

Run it again only if the test's model is to change: never to make a failing parity test pass.
The model is written out here from the definition of facebookresearch/mae `models_mae.py`, so that
it shares no code with the package; its state dict has the names of that file.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from make_vit_goldens import Block, PatchEmbed
from torch import nn

SEED = 20240313
STAGES = ("latent", "decoder_embed", "prediction", "loss_pixels", "loss_norm_pix")


class MAE(nn.Module):
    """Encoder over the visible patches, decoder over all of them."""

    def __init__(
        self,
        *,
        image: int = 32,
        patch: int = 8,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        decoder_width: int = 16,
        decoder_depth: int = 3,
        decoder_heads: int = 2,
    ) -> None:
        super().__init__()
        self.patch = patch
        tokens = 1 + (image // patch) ** 2
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width), requires_grad=False)
        self.blocks = nn.ModuleList([Block(width, heads, False) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        positions = torch.zeros(1, tokens, decoder_width)
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            [Block(decoder_width, decoder_heads, False) for _ in range(decoder_depth)]
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_width, patch * patch * 3)

    def forward(
        self, images: torch.Tensor, noise: torch.Tensor, mask_ratio: float = 0.75
    ) -> dict[str, torch.Tensor]:
        """images: (batch, 3, side, side), normalised; noise: (batch, patches).

        Returns every stage of STAGES, and `mask`. Each image is taken alone and each of its patches
        put where it belongs by an index, so that no permutation has to be inverted.
        """
        kept_count = int(noise.shape[1] * (1 - mask_ratio))
        patches = self.patch_embed(images) + self.pos_embed[:, 1:]
        mask = torch.ones_like(noise)
        latent, places = [], []
        for i in range(len(images)):
            visible = noise[i].argsort(stable=True)[:kept_count]
            mask[i, visible] = 0
            places.append(visible)
            tokens = [self.cls_token[0] + self.pos_embed[0, :1], patches[i, visible]]
            latent.append(torch.cat(tokens))
        latent = torch.stack(latent)
        for block in self.blocks:
            latent = block(latent)
        latent = self.norm(latent)

        embedded = self.decoder_embed(latent)
        x = self.mask_token.repeat(len(images), 1 + noise.shape[1], 1)
        for i, visible in enumerate(places):
            x[i, 0] = embedded[i, 0]
            x[i, 1 + visible] = embedded[i, 1:]
        x = decoder_embed = x + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        return {
            "latent": latent,
            "decoder_embed": decoder_embed,
            "prediction": prediction,
            "loss_pixels": self.loss(images, prediction, mask, norm_pix=False),
            "loss_norm_pix": self.loss(images, prediction, mask, norm_pix=True),
            "mask": mask,
        }

    def loss(
        self, images: torch.Tensor, prediction: torch.Tensor, mask: torch.Tensor, *, norm_pix: bool
    ) -> torch.Tensor:
        """Mean over the hidden patches, patch by patch: pixel (p, q, channel) of each in turn."""
        side, losses = self.patch, []
        for i in range(len(images)):
            for n in mask[i].nonzero()[:, 0].tolist():
                row, column = divmod(n, images.shape[3] // side)
                rows = slice(row * side, (row + 1) * side)
                columns = slice(column * side, (column + 1) * side)
                target = images[i, :, rows, columns].permute(1, 2, 0).flatten()
                if norm_pix:
                    target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                losses.append((prediction[i, n] - target).square().mean())
        return torch.stack(losses).mean()


def randomise(model: MAE, seed: int) -> None:
    """Fills every parameter so that each one matters.

    Tokens are kept small (0.05), because LayerNorm's epsilon is only seen beside a small variance.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith(("_token", "pos_embed")):
                parameter.copy_(0.05 * noise)
            elif name.startswith("patch_embed"):
                parameter.copy_(0.05 * noise / parameter[0].numel() ** 0.5)
            elif name.startswith("decoder_embed"):
                parameter.copy_(0.05 * noise / parameter.shape[-1] ** 0.5)
            elif parameter.ndim == 2:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.1 * noise)


def draw(batch: int, image: int, patches: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (batch, 3, image, image) whose right half is nearly flat, and noise.

    The epsilon of `norm_pix` is only seen beside a variance like its own, 1e-6.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, image, image, generator=generator)
    images[..., image // 2 :] *= 1e-3
    return images, torch.rand(batch, patches, generator=generator)


def make_golden(seed: int = SEED) -> dict[str, np.ndarray]:
    """State dict, images (batch, side, side, 3), noise, outputs, and float32's own error."""
    model = MAE().eval()
    randomise(model, seed)
    images, noise = draw(2, 32, 16, seed + 1)
    golden = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        stages = {name: value.numpy().copy() for name, value in model(images, noise).items()}
        exact = model.double()(images.double(), noise.double())
    golden["images"] = images.permute(0, 2, 3, 1).contiguous().numpy()
    golden["noise"] = noise.numpy()
    golden["mask"] = stages["mask"]
    for name in STAGES:
        golden[f"stage/{name}"] = stages[name]
        golden[f"float32/{name}"] = np.abs(stages[name] - exact[name].numpy()).max()
    return {name: np.asarray(value, np.float32) for name, value in golden.items()}


def main(folder: Path) -> None:
    """Writes the file."""
    torch.set_num_threads(1)
    golden = make_golden()
    path = folder / "mae.npz"
    np.savez(path, **golden)
    print(f"{path}: {path.stat().st_size:,} bytes")
    for stage in STAGES:
        print(f"{stage}: float32 against float64 {float(golden[f'float32/{stage}']):.1e}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_mae_goldens.py FOLDER")
    main(Path(sys.argv[1]))
