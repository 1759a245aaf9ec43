"""Tests run on eight CPU devices, with annotations enforced and our own warnings as errors."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags
from jaxtyping import config, install_import_hook

# Shapes and dtypes in the signatures of public functions are enforced while testing.
_HOOK = install_import_hook("fer_jax", "typechecker.check")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def annotations_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users have it: what annotations would refuse comes to the functions themselves."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error:::fer_jax"))
