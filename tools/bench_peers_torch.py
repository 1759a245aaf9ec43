"""PyTorch's side of `bench_peers.py`: timm's ViT where it imports, else a plain one of our own.

Answers the same requests as `bench_peers_jax.py`; needs torch and numpy.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_peers_jax import (
    LEARNING_RATE,
    MEAN,
    STD,
    WEIGHT_DECAY,
    answer_requests,
    draw,
)
from torch import nn
from torch.nn import functional

try:
    import timm
except Exception:  # absent, or broken beside this torch
    timm = None

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, eps: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.attn["proj"](y.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainViT(nn.Module):
    """MAE's ViT: pre-norm blocks, exact GELU, the mean of the patch tokens."""

    def __init__(self, model: dict[str, Any]):
        super().__init__()
        width, patch, eps = model["width"], model["patch_size"], model["norm_eps"]
        tokens = (model["image_size"] // patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.Sequential(
            *(_Block(width, model["num_heads"], 4 * width, eps) for _ in range(model["depth"]))
        )
        self.fc_norm = nn.LayerNorm(width, eps)
        self.head = nn.Linear(width, model["num_classes"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (batch, classes) of images (batch, 3, side, side)."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.fc_norm(self.blocks(x)[:, 1:].mean(dim=1)))


def _make(model: dict[str, Any], path: str) -> nn.Module:
    if timm is None:
        made: nn.Module = PlainViT(model)
    else:
        made = timm.models.vision_transformer.VisionTransformer(
            img_size=model["image_size"],
            patch_size=model["patch_size"],
            embed_dim=model["width"],
            depth=model["depth"],
            num_heads=model["num_heads"],
            num_classes=model["num_classes"],
            global_pool="avg",
            norm_layer=lambda width: nn.LayerNorm(width, model["norm_eps"]),
        )
    with np.load(path) as tensors:
        made.load_state_dict({name: torch.tensor(tensors[name]) for name in tensors}, strict=True)
    return made.to(_DEVICE)


class TorchWorker:
    """Programs by name, as `JaxWorker`."""

    def __init__(self) -> None:
        self._runs: dict[str, Callable[[], Any]] = {}
        self._outputs: dict[str, Callable[[], np.ndarray]] = {}
        if _DEVICE == "cuda":  # TF32 in float32, as jax has it there
            torch.set_float32_matmul_precision("high")

    def about(self) -> dict[str, Any]:
        """Versions and the device."""
        peer = "plain ViT of torch" if timm is None else f"timm {timm.__version__}"
        name = torch.cuda.get_device_name() if _DEVICE == "cuda" else "cpu"
        return {
            "version": f"torch {torch.__version__}, {peer}",
            "platform": _DEVICE,
            "device": name,
        }

    def prepare(
        self,
        name: str,
        kind: str,
        path: str,
        model: dict[str, Any],
        dtype: str,
        batch: int,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Makes a program on the weights of a file; `options`: `compile`, a mode or None."""
        half = dtype == "bfloat16"
        made = _make(model, path)
        if kind == "infer":
            made = made.eval().to(getattr(torch, dtype))
        called = torch.compile(made, mode=options["compile"]) if options["compile"] else made
        pictures, labels = (torch.tensor(each).to(_DEVICE) for each in draw(model, batch))
        mean, std = (torch.tensor(each, device=_DEVICE) for each in (MEAN, STD))

        def scores() -> torch.Tensor:
            images = ((pictures - mean) / std).permute(0, 3, 1, 2)
            return called(images.to(getattr(torch, dtype)) if kind == "infer" else images)

        begin = time.perf_counter()
        if kind == "infer":
            run = torch.inference_mode()(scores)
            self._runs[name] = run
            self._outputs[name] = lambda: run().float().cpu().numpy()
            run()
        else:
            fused = _DEVICE == "cuda"
            optimizer = torch.optim.AdamW(
                made.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused
            )

            def step() -> torch.Tensor:
                with torch.autocast(_DEVICE, dtype=torch.bfloat16, enabled=half):
                    loss = functional.cross_entropy(scores().float(), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                return loss.detach()

            self._runs[name] = step
            self._outputs[name] = lambda: np.asarray([float(step()) for _ in range(3)])
        _wait()
        return {"compile_seconds": time.perf_counter() - begin}

    def outputs(self, name: str) -> dict[str, Any]:
        """Scores of the batch, or the losses of the first three steps."""
        return {"outputs": self._outputs[name]().astype(float).ravel().tolist()}

    def run(self, name: str, calls: int) -> dict[str, Any]:
        """Seconds of a call, of so many."""
        run = self._runs[name]
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        _wait()
        return {"seconds": (time.perf_counter() - begin) / calls}

    def forget(self, name: str) -> dict[str, Any]:
        """Frees what a program holds."""
        self._runs.pop(name, None)
        self._outputs.pop(name, None)
        if _DEVICE == "cuda":
            torch.cuda.empty_cache()
        return {}


def _wait() -> None:
    if _DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    answer_requests(TorchWorker())
