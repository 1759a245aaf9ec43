"""Makes tests/testdata/hf_*.npz: tiny random Hugging Face models, run by transformers.

    pip install "fer-jax[torch]" transformers==5.23.0
    python tools/make_hf_goldens.py tests/testdata

Run it again only if the test's models are to change: never to make a failing parity test pass.
Each file holds the state dict twice over by name: `file/...` as `save_pretrained` writes it (the
names of all versions), and `names`, those of version 5's modules in the same order.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

SEED = 20240319
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}
MAE = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "norm_pix_loss": True,
}


def _randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Weights as of a trained model: no bias is 0, no scale is 1."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif name.endswith("lambda1"):
                tensor.copy_(0.5 + 0.1 * noise)
            else:
                tensor.copy_((0.2 if tensor.ndim > 1 else 0.1) * noise)
    return model.eval()


def _hidden(model: torch.nn.Module, images: torch.Tensor, trunk: torch.nn.Module) -> dict:
    with torch.no_grad():
        found = trunk(images, output_hidden_states=True)
    states = {f"hidden_{i}": state.numpy() for i, state in enumerate(found.hidden_states)}
    return states | {"norm": found.last_hidden_state.numpy()}


def make_golden(kind: str) -> dict[str, np.ndarray]:
    """A model of a kind (`vit` | `mae` | `dinov2`), its state dict, images and stages."""
    generator = torch.Generator().manual_seed(SEED + 1)
    images = torch.randn(2, 3, SIZE["image_size"], SIZE["image_size"], generator=generator)
    if kind == "vit":
        config = transformers.ViTConfig(**SIZE, intermediate_size=128, num_labels=7)
        model = _randomise(transformers.ViTForImageClassification(config))
        stages = _hidden(model, images, model.vit)
        with torch.no_grad():
            stages["logits"] = model(images).logits.numpy()
    elif kind == "dinov2":
        model = _randomise(transformers.Dinov2Model(transformers.Dinov2Config(**SIZE, mlp_ratio=4)))
        stages = _hidden(model, images, model)
    else:
        config = transformers.ViTMAEConfig(**SIZE, **MAE, intermediate_size=128, mask_ratio=0.75)
        model = _randomise(transformers.ViTMAEForPreTraining(config))
        noise = torch.rand(2, 9, generator=generator)
        with torch.no_grad():
            found = model(images, noise=noise)
            latent = model.vit(images, noise=noise)
        stages = {
            "noise": noise.numpy(),
            "loss": found.loss.numpy(),
            "prediction": found.logits.numpy(),
            "mask": found.mask.numpy(),
            "latent": latent.last_hidden_state.numpy(),
        }
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = load_file(Path(folder) / "model.safetensors")
        document = json.loads((Path(folder) / "config.json").read_text())
    tensors = {f"file/{name}": tensor.numpy() for name, tensor in file.items()}
    modules = {f"module/{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    # The same values under both names: only the names of the second are kept.
    names = json.dumps(
        {
            name.removeprefix("module/"): _same(value, tensors, name)
            for name, value in modules.items()
        }
    )
    return tensors | {
        "names": np.array(names),
        "config": np.array(json.dumps(document)),
        "images": images.permute(0, 2, 3, 1).numpy(),
        **{f"stage/{name}": values for name, values in stages.items()},
    }


def _same(value: np.ndarray, tensors: dict[str, np.ndarray], name: str) -> str:
    found = [key for key, other in tensors.items() if np.array_equal(value, other)]
    if len(found) != 1:
        raise SystemExit(f"{name} is {found} in the file")
    return found[0].removeprefix("file/")


def main(folder: str) -> None:
    """Writes the files."""
    for kind in ("vit", "mae", "dinov2"):
        np.savez_compressed(Path(folder) / f"hf_{kind}.npz", **make_golden(kind))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_hf_goldens.py FOLDER")
    main(sys.argv[1])
