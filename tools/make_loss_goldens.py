"""Writes tests/testdata/loss_goldens.npz: torch's CrossEntropyLoss and its gradient.

    python tools/make_loss_goldens.py

Needs torch (made with 2.13.0). Update the file only when a case is added here: the numbers are
torch's, so a test that goes red against them means that fer_jax has changed, not that they are old.
"""

import itertools
import pathlib

import numpy as np
import torch

BATCH, CLASSES = 24, 8
OUT = pathlib.Path(__file__).parent.parent / "tests" / "testdata" / "loss_goldens.npz"


def main() -> None:
    """Runs every combination of targets, weights and smoothing through torch, in float64."""
    rng = np.random.default_rng(20240319)
    goldens = {
        "logits": rng.normal(0, 3, (BATCH, CLASSES)).astype(np.float32),
        "hard": rng.integers(0, CLASSES, BATCH).astype(np.int64),
        "soft": rng.dirichlet(np.full(CLASSES, 0.5), BATCH).astype(np.float32),
        # Aff-Wild2's own imbalance: max / n_c of the training labels that have an image.
        "weights": (
            177198 / np.array([177198, 16573, 10771, 9080, 95463, 78751, 31615, 165866])
        ).astype(np.float32),
    }
    goldens["hard_ignored"] = goldens["hard"].copy()
    goldens["hard_ignored"][[0, 5, 6, BATCH - 1]] = -1
    for kind, weighted, smoothing in itertools.product(
        ("hard", "hard_ignored", "soft"), (False, True), (0.0, 0.1)
    ):
        logits = torch.tensor(goldens["logits"], dtype=torch.float64, requires_grad=True)
        targets = torch.tensor(goldens[kind])
        weights = torch.tensor(goldens["weights"], dtype=torch.float64) if weighted else None
        criterion = torch.nn.CrossEntropyLoss(weights, ignore_index=-1, label_smoothing=smoothing)
        loss = criterion(logits, targets.double() if kind == "soft" else targets)
        loss.backward()
        case = f"{kind}/{'weighted' if weighted else 'plain'}/{smoothing}"
        goldens[f"{case}/loss"] = loss.detach().numpy()
        goldens[f"{case}/gradient"] = logits.grad.numpy()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **goldens)
    print(f"{OUT}: {OUT.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
