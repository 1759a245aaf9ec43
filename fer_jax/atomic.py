"""Write aside, then rename: what stands at a path is whole, or it is not there."""

import contextlib
import glob
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
    except OSError as error:
        raise _named(error, target) from error
    finally:
        partial.unlink(missing_ok=True)


def check_free(target: Path, *, marker: str, overwrite: bool) -> None:
    """Whether `atomic_directory` could write here, for those who work long before they write.

    Raises:
        FerJaxError: as `atomic_directory`.
    """
    if target.exists() and not target.is_dir():
        raise FerJaxError(f"{target}: is a file, a folder is to be written here; name another path")
    if target.is_dir() and any(target.iterdir()):
        if not (target / marker).exists():
            raise FerJaxError(
                f"{target}: is in use and holds no {marker}, so it will not be replaced; "
                "name another path"
            )
        if not overwrite:
            raise FerJaxError(f"{target}: exists already; remove it, or pass --overwrite")


@contextlib.contextmanager
def atomic_directory(
    target: str | os.PathLike[str], *, marker: str, overwrite: bool = False
) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `target` when the block ends without an error.

    Args:
        target: the folder to make.
        marker: a file that every folder of this kind holds: one without it is somebody else's and
            is never replaced.
        overwrite: replace a folder of this kind; otherwise only an empty one is replaced.

    Yields:
        A folder beside the target, removed again when the block raises.

    Raises:
        FerJaxError: the target is in use and `overwrite` is false, or it is of another kind.
    """
    target = Path(target)
    check_free(target, marker=marker, overwrite=overwrite)
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
    except OSError as error:
        raise _named(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partials(target: str | os.PathLike[str]) -> None:
    """Removes what a process that was killed left aside of a file or folder that it was writing.

    Args:
        target: which nobody else may be writing now.
    """
    target = Path(target)
    for left in target.parent.glob(f"{glob.escape(_aside(target))}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _named(error: OSError, target: Path) -> OSError:
    """The same error with a file's name: a write to a full disk carries none."""
    if error.filename is not None or error.errno is None:
        return error
    return OSError(error.errno, error.strerror, str(target))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
