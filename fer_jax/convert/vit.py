"""Temporary names, until the campaign uses plan.py."""

from fer_jax.convert.options import Options
from fer_jax.convert.plan import Conversion, Plan, family_of
from fer_jax.convert.plan import convert_checkpoint as convert_vit
from fer_jax.convert.plan import plan_conversion as plan_vit
from fer_jax.convert.sizes import registered_size

__all__ = [
    "Conversion",
    "Options",
    "Plan",
    "convert_vit",
    "family_of",
    "plan_vit",
    "registered_size",
]
