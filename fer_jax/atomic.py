"""Write aside, then rename: what stands at a path is whole, or it is not there."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fer_jax.errors import FerJaxError


def _aside(target: Path) -> str:
    return f".{target.name}.partial-"


@contextlib.contextmanager
def atomic_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to, which replaces `target` when the block ends without an error.

    Args:
        target: the file to write; one that exists is replaced, its folder is made if missing.

    Yields:
        A path in the same folder, removed again when the block raises.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=_aside(target), suffix=target.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `target` when the block ends without an error.

    Args:
        target: the folder to make.
        overwrite: replace a folder that exists; otherwise only an empty one is replaced.

    Yields:
        A folder beside the target, removed again when the block raises.

    Raises:
        FerJaxError: the target exists and `overwrite` is false, or it is a file.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise FerJaxError(f"{target}: is a file, a folder is to be written here; name another path")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise FerJaxError(f"{target}: exists already; remove it, or pass --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=_aside(target)))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=_aside(target)))
            os.replace(target, old / "old")
            os.replace(partial, target)
            shutil.rmtree(old)
        else:
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
