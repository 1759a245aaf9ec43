"""Tests run on eight CPU devices, with annotations enforced and our own warnings as errors."""

import os
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes three quarters of the time, and programs run once. Set XLA_FLAGS, if only to
# nothing, for programs as users have them: the slow tests and CI's second Python do.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)

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


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_dropped() -> Iterator[None]:
    """A worker would end with gigabytes of them."""
    yield
    jax.clear_caches()


@pytest.fixture
def annotations_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users have it: what annotations would refuse comes to the functions themselves."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error:::fer_jax"))
