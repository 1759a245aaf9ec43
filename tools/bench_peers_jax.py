"""Our side of `bench_peers.py`: a process that makes programs of the ViT and times them on request.

Reads a JSON object a line from stdin and answers each with one on stdout; see `answer_requests`.
Needs jax, flax, optax and jaxtyping of what fer_jax needs, nothing of its data or training rooms.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05


def draw(model: dict[str, Any], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures and labels of both sides: uint8 (batch, side, side, 3), int64 (batch,)."""
    rng = np.random.default_rng(batch)
    side = model["image_size"]
    pictures = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
    return pictures, rng.integers(0, model["num_classes"], batch)


def answer_requests(worker: Any) -> None:
    """Calls the method that each line names with its other fields, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # told to the parent, who goes on with the rest
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


class JaxWorker:
    """Programs by name, each of which runs once and waits for nothing."""

    def __init__(self) -> None:
        self._runs: dict[str, Callable[[], Any]] = {}
        self._outputs: dict[str, Callable[[], np.ndarray]] = {}

    def about(self) -> dict[str, Any]:
        """Versions and the device."""
        import flax
        import jax

        device = jax.devices()[0]
        return {
            "version": f"jax {jax.__version__}, flax {flax.__version__}",
            "platform": device.platform,
            "device": device.device_kind,
        }

    def export(self, path: str, model: dict[str, Any]) -> dict[str, Any]:
        """Writes random weights under PyTorch's names, for both sides."""
        import jax

        from fer_jax.models import vit
        from fer_jax.models.torch_layout import to_torch_layout

        config = vit.ViTConfig(**model, head_init=0.02)
        params = jax.jit(lambda key: vit.init(config, key))(jax.random.key(0))
        np.savez(path, **dict(to_torch_layout(params, config)))
        return {"parameters": vit.parameter_count(params)}

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
        """Compiles a program on the weights of a file.

        `options` are fields of ViTConfig; `xla` among them holds options of the compiler.
        """
        import jax

        from fer_jax.models import vit
        from fer_jax.models.torch_layout import from_torch_layout

        xla = options.pop("xla", None)
        kept = dtype if kind == "infer" else "float32"  # what only runs keeps no more bits
        config = vit.ViTConfig(**model, dtype=dtype, param_dtype=kept, **options)
        with np.load(path) as tensors:
            params = from_torch_layout(dict(tensors), config)
        params = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, kept), params)
        graph = vit.build(config)

        def scores(params: Any, pictures: Any) -> Any:
            images = (pictures - np.float32(MEAN)[None, None, None]) / np.float32(STD)[
                None, None, None
            ]
            return vit.apply(graph, params, images)[0]

        pictures, labels = map(jax.device_put, draw(model, batch))
        begin = time.perf_counter()
        make = self._infer if kind == "infer" else self._train
        program, self._runs[name], self._outputs[name] = make(scores, params, pictures, labels, xla)
        seconds = time.perf_counter() - begin
        return {"compile_seconds": seconds, "temporary_bytes": _temporary(program)}

    def _infer(self, scores: Callable, params: Any, pictures: Any, _: Any, xla: Any) -> tuple:
        import jax

        program = jax.jit(scores).lower(params, pictures).compile(compiler_options=xla)
        return (
            program,
            lambda: program(params, pictures),
            lambda: np.asarray(program(params, pictures)),
        )

    def _train(self, scores: Callable, params: Any, pictures: Any, labels: Any, xla: Any) -> tuple:
        """AdamW on the mean cross-entropy; weights and their moments stay float32."""
        import jax
        import optax

        from fer_jax.ops import losses

        optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

        def step(state: Any, pictures: Any, labels: Any) -> Any:
            def loss(params: Any) -> Any:
                total, count = losses.weighted_cross_entropy(scores(params, pictures), labels)
                return total / count

            params, moments = state
            value, gradients = jax.value_and_grad(loss)(params)
            updates, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        state = [(params, jax.jit(optimizer.init)(params))]
        labels = labels.astype("int32")
        lowered = jax.jit(step, donate_argnums=0).lower(state[0], pictures, labels)
        program = lowered.compile(compiler_options=xla)

        def run() -> Any:
            state[0], value = program(state[0], pictures, labels)
            return value

        return program, run, lambda: np.asarray([float(run()) for _ in range(3)])

    def ceiling(self, name: str, dtype: str, side: int | None) -> dict[str, Any]:
        """A plain matrix product as one more program."""
        from fer_jax.bench.device import Ceiling

        found = Ceiling(dtype, side)
        self._runs[name] = found
        return {"side": found.side, "flops": 2 * found.side**3}

    def outputs(self, name: str) -> dict[str, Any]:
        """Scores of the batch, or the losses of the first three steps."""
        return {"outputs": self._outputs[name]().astype(float).ravel().tolist()}

    def run(self, name: str, calls: int) -> dict[str, Any]:
        """Seconds of a call, of so many."""
        import jax

        run = self._runs[name]
        begin = time.perf_counter()
        for _ in range(calls):
            out = run()
        jax.block_until_ready(out)
        return {"seconds": (time.perf_counter() - begin) / calls}

    def forget(self, name: str) -> dict[str, Any]:
        """Frees what a program holds."""
        self._runs.pop(name, None)
        self._outputs.pop(name, None)
        return {}


def _temporary(program: Any) -> int | None:
    account = program.memory_analysis()
    return None if account is None else account.temp_size_in_bytes


if __name__ == "__main__":
    answer_requests(JaxWorker())
