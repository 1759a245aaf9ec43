"""How many floating-point operations a function takes, counted in its program."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from fer_jax.errors import FerJaxError
from fer_jax.models.config import ViTConfig

# Each number that comes out costs one operation; what only moves numbers costs none.
_ELEMENTWISE = frozenset(
    {
        *("add", "add_any", "sub", "mul", "div", "rem", "max", "min", "neg", "abs", "sign"),
        *("sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow", "exp", "exp2", "expm1"),
        *("log", "log1p", "logistic", "tanh", "sin", "cos", "erf", "erf_inv", "erfc"),
    }
)
# Each number that goes in costs one.
_REDUCTIONS = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin", "cumsum"}
)


def count_flops(function: Callable, *arguments: Any) -> int:
    """Operations of one call, a multiply-add as two, loops as often as they run.

    XLA's own count takes a loop's body once, however often it runs.

    Args:
        function: jits.
        *arguments: arrays, or shapes of them.

    Returns:
        Additions, products, functions of single floating-point numbers, sums and maxima.

    Raises:
        FerJaxError: a loop whose number of rounds depends on the numbers.

    Example:
        >>> a, b = jax.ShapeDtypeStruct((2, 3), "float32"), jax.ShapeDtypeStruct((3, 4), "float32")
        >>> count_flops(lambda a, b: a @ b, a, b)
        48
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def vit_flops(config: ViTConfig) -> int:
    r"""Operations of a ViT's matrix products for one image, forward, a multiply-add as two.

    .. math::
        2 n (3 P^2) d + L (8 t d^2 + 4 t d h + 4 t^2 d) + 2 d C

    of n patches of P pixels a side, t = n + 1 tokens of width d, L blocks with h hidden channels
    and C classes. A training step takes three times that: each product has two in its gradient.

    Args:
        config: the model.

    Returns:
        What `count_flops` counts of the same model is 1 to 2 % more: norms, softmax, GELU.

    Example:
        >>> from fer_jax.models.vit import vit_config
        >>> vit_flops(vit_config("base", num_classes=8))
        35126132736
    """
    patches, tokens, width = config.grid**2, config.num_tokens, config.width
    hidden = int(width * config.mlp_ratio)
    embedding = 2 * patches * 3 * config.patch_size**2 * width
    block = 8 * tokens * width**2 + 4 * tokens * width * hidden + 4 * tokens**2 * width
    return embedding + config.depth * block + 2 * width * config.num_classes


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "while":
        raise FerJaxError("a loop without a fixed number of rounds: its operations depend on data")
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * _size(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * _size(equation.outvars[0]) * (math.prod(kernel.shape) // outputs)
    inner = [
        getattr(value, "jaxpr", value)
        for value in params.values()
        if isinstance(value, (core.Jaxpr, core.ClosedJaxpr))
    ]
    if inner:
        # A function with a gradient of its own holds the program of the function alone.
        return params.get("length", 1) * sum(map(_count, inner))
    if not jax.numpy.issubdtype(equation.outvars[0].aval.dtype, jax.numpy.floating):
        return 0
    if name in _ELEMENTWISE:
        return _size(equation.outvars[0])
    return _size(equation.invars[0]) if name in _REDUCTIONS else 0


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)
