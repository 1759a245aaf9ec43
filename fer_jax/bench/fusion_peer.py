"""The entry's fusion in torch, with the attention that it was written with."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn


class TorchEntry:
    """The fusion of given weights on given inputs; each run is forward and backward.

    Args:
        state: weights under the entry's names, as `to_torch_layout` gives them.
        features: (batch, width) of `main` and `aux`.
        tokens: (batch, n) `query`, `key` and `value`, for the attention alone.
    """

    def __init__(
        self,
        state: Mapping[str, np.ndarray],
        features: Mapping[str, np.ndarray],
        tokens: Mapping[str, np.ndarray],
    ):
        width, hidden = state["linear1.bias"].size, state["mlp.0.bias"].size
        self._model = nn.ModuleDict(
            {
                "linear1": nn.Linear(features["main"].shape[1], width),
                "linear2": nn.Linear(features["aux"].shape[1], width),
                "linear_key": nn.Linear(2 * width, width),
                "mha": nn.MultiheadAttention(1, 1, batch_first=True),
                "mlp": nn.Sequential(
                    nn.Linear(width, hidden), nn.Linear(hidden, state["mlp.1.bias"].size)
                ),
            }
        )
        copies = {name: torch.tensor(np.array(x)) for name, x in state.items()}
        self._model.load_state_dict(copies, strict=True)
        self._features = {n: torch.tensor(x, requires_grad=True) for n, x in features.items()}
        self._tokens = {
            name: torch.tensor(x[..., None], requires_grad=True) for name, x in tokens.items()
        }

    def run(self) -> None:
        """The whole fusion."""
        model = self._clean(self._features)
        main = model["linear1"](self._features["main"])
        aux = model["linear2"](self._features["aux"])
        key = model["linear_key"](torch.cat([main, aux], dim=1))
        given = (x[..., None] for x in (aux, key, main))
        attended, _ = model["mha"](*given, need_weights=False)
        model["mlp"](attended[..., 0] + main).square().sum().backward()

    def run_attention(self) -> None:
        """The attention alone."""
        model = self._clean(self._tokens)
        attended, _ = model["mha"](*self._tokens.values(), need_weights=False)
        attended.square().sum().backward()

    def gradients(self) -> dict[str, np.ndarray]:
        """Of weights and features, by name, as the last `run` left them."""
        leaves = dict(self._model.named_parameters()) | self._features
        return {name: x.grad.numpy() for name, x in leaves.items()}

    def _clean(self, inputs: Mapping[str, torch.Tensor]) -> nn.ModuleDict:
        self._model.zero_grad(set_to_none=True)
        for x in inputs.values():
            x.grad = None
        return self._model
