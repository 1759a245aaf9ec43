"""Several processes as one run: how they find each other, who writes, when they wait."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from fer_jax.errors import FerJaxError, UsageError

AUTO = "auto"


def join(where: str) -> None:
    """Joins the other processes of a run; to be called before anything touches a device.

    Args:
        where: `auto` on a TPU pod, under SLURM, Open MPI or Kubernetes, which tell a process who
            it is; else `HOST:PORT,COUNT,INDEX`: where process 0 listens, how many there are, and
            which one this is.

    Raises:
        UsageError: `where` is neither.
        FerJaxError: there is no cluster to be found, or the others do not come.
    """
    options = {} if where == AUTO else _explicit(where)
    try:
        jax.distributed.initialize(**options)
    except (ValueError, RuntimeError) as error:
        said = (str(error).strip() or repr(error)).splitlines()[0]
        remedy = (
            "name it: --distributed=HOST:PORT,COUNT,INDEX"
            if where == AUTO
            else "check that process 0 runs there, and that each index is given once"
        )
        raise FerJaxError(
            f"--distributed={where}: cannot join the other processes ({said}); {remedy}"
        ) from error


def _explicit(where: str) -> dict[str, str | int]:
    try:
        address, count, index = where.split(",")
        found = {
            "coordinator_address": address,
            "num_processes": int(count),
            "process_id": int(index),
        }
        _, port = address.rsplit(":", 1)
        if not (0 < int(port) < 2**16 and 0 <= found["process_id"] < found["num_processes"]):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--distributed={where}: must be auto, or HOST:PORT,COUNT,INDEX with INDEX below COUNT"
        ) from None
    return found


def is_first() -> bool:
    """Whether this process is the one that writes what people read."""
    return jax.process_index() == 0


def as_the_first(answer: bool) -> bool:
    """The answer of the first process, on all: file systems may tell them different ones."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.int32(answer)))


@contextlib.contextmanager
def first_goes_before(name: str) -> Iterator[None]:
    """What the others do in here they do once the first process is through with it."""
    if not is_first():
        wait_for_all(name)
    yield
    if is_first():
        wait_for_all(name)


def wait_for_all(name: str) -> None:
    """Returns once every process has come here; `name` says where."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
