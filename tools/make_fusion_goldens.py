"""Writes tests/testdata/fusion_entry.npz: the entry's fusion in torch, its steps and gradients.

    python tools/make_fusion_goldens.py

Needs torch (made with 2.13.0). The model is written here from its description: torch's own
MultiheadAttention of width 1 between plain Linear layers, under the names of the entry's
checkpoint. Computed in float64; the script prints how far torch's own float32 lies from it. Update
the file only when a case is added here: the numbers are torch's, so a test that goes red against
them means that fer_jax has changed, not that they are old.
"""

import pathlib

import numpy as np
import torch

# Two widths, so that a mix-up of the views cannot pass.
WIDTHS, WIDTH, HIDDEN, CLASSES, BATCH = (12, 10), 16, 8, 8, 4
OUT = pathlib.Path(__file__).parent.parent / "tests" / "testdata" / "fusion_entry.npz"


class EntryFusion(torch.nn.Module):
    """Query from the auxiliary view, key from both, value and skip from the main view."""

    def __init__(self, widths: tuple[int, int], width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.linear1 = torch.nn.Linear(widths[0], width)
        self.linear2 = torch.nn.Linear(widths[1], width)
        self.linear_key = torch.nn.Linear(2 * width, width)
        self.mha = torch.nn.MultiheadAttention(embed_dim=1, num_heads=1, batch_first=True)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(width, hidden), torch.nn.Linear(hidden, classes)
        )

    def forward(self, main: torch.Tensor, aux: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every step by name."""
        main, aux = self.linear1(main), self.linear2(aux)
        key = self.linear_key(torch.cat([main, aux], dim=-1))
        query, tokens, value = (x.unsqueeze(-1) for x in (aux, key, main))
        attention = self.mha(query, tokens, value)[0].squeeze(-1)
        fused = attention + main
        hidden = self.mlp[0](fused)
        return {
            "main": main,
            "aux": aux,
            "key": key,
            "attention": attention,
            "fused": fused,
            "hidden": hidden,
            "logits": self.mlp[1](hidden),
        }


def run(
    model: EntryFusion, features: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, np.ndarray]:
    """All steps, and the gradients of the sum of squared logits, computed in `dtype`."""
    model = model.to(dtype)
    model.zero_grad()
    views = {view: x.to(dtype, copy=True).requires_grad_() for view, x in features.items()}
    stages = model(views["main"], views["aux"])
    stages["logits"].square().sum().backward()
    results = {f"stage/{name}": x.detach().numpy() for name, x in stages.items()}
    leaves = dict(model.named_parameters()) | {f"features/{view}": x for view, x in views.items()}
    return results | {f"gradient/{name}": x.grad.numpy().copy() for name, x in leaves.items()}


def main() -> None:
    """Draws weights with biases everywhere, runs both precisions, writes the double one."""
    torch.manual_seed(20240319)
    model = EntryFusion(WIDTHS, WIDTH, HIDDEN, CLASSES)
    with torch.no_grad():
        # The fresh attention has no biases, and scores so small that its softmax is nearly flat.
        model.mha.in_proj_weight.copy_(torch.tensor([[1.5], [-2.0], [0.8]]))
        model.mha.in_proj_bias.copy_(torch.tensor([0.3, -0.4, 0.25]))
        model.mha.out_proj.weight.fill_(-1.25)
        model.mha.out_proj.bias.fill_(0.15)
    features = {
        "main": torch.randn(BATCH, WIDTHS[0]) * 2,
        "aux": torch.randn(BATCH, WIDTHS[1]) * 2,
    }
    goldens = {f"state/{name}": x.numpy().copy() for name, x in model.state_dict().items()}
    goldens |= {f"features/{view}": x.numpy() for view, x in features.items()}
    single = run(model, features, torch.float32)
    double = run(model, features, torch.float64)
    for kind in ("stage", "gradient"):
        noise = max(np.abs(single[n] - double[n]).max() for n in double if n.startswith(kind))
        print(f"torch float32 against float64, {kind}s: {noise:.1e}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **goldens, **double)
    print(f"{OUT}: {OUT.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
