"""Parts of a collection: what is looked at in one go, and again only if it has changed."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from fer_jax.data.examples import Example, Fault

_LISTED = 1024


@runtime_checkable
class Unit(Protocol):
    """A part of a collection, which travels to another process; its name is unique."""

    name: str

    def __len__(self) -> int:
        """About the number of faces, for progress."""

    def fingerprint(self) -> str:
        """Changes when the examples or their pictures do."""

    def examples(self) -> Iterator[Example | Fault]:
        """Lists the faces; reads a picture only where its bytes are made."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """Examples that were listed beforehand."""

    name: str
    listed: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.listed)

    def fingerprint(self) -> str:
        """Of the list, and of the files' sizes and times."""
        digest = hashlib.sha256()
        for example in self.listed:
            digest.update(repr(example).encode())
            digest.update(file_state(example.path).encode())
        return digest.hexdigest()

    def examples(self) -> Iterator[Example | Fault]:
        """The list."""
        return iter(self.listed)


def listed_units(examples: Sequence[Example]) -> list[Listed]:
    """A list of examples, in parts of a thousand."""
    return [
        Listed(f"{start:09d}", tuple(examples[start : start + _LISTED]))
        for start in range(0, len(examples), _LISTED)
    ]


def file_state(path: Path | os.DirEntry) -> str:
    """Size and time of change of a file, for fingerprints; empty if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def folder_state(folder: Path) -> str:
    """The same of everything in a folder, as one digest; empty if it cannot be listed."""
    digest = hashlib.sha256()
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                digest.update(os.fsencode(f"{entry.name}/{file_state(entry)}/"))
    except OSError:
        return ""
    return digest.hexdigest()
