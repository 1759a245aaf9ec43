"""The zip archive that a `.pth` is: its members as views of the mapped file, every range checked.

`zipfile` reads the central directory, within a bound; members are found and checked here, so that
none is copied, and so that no file can make one range be read over and over.

Source: APPNOTE.TXT of PKWARE, sections 4.3.7 (local header) and 4.4.4 (flags).
"""

import errno
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fer_jax.convert.pickle_machine import shown
from fer_jax.errors import FerJaxError

_MAX_DIRECTORY = 8 << 20  # bytes; a member takes about a hundred
_ENCRYPTED, _PATCHED, _UTF8 = 0x41, 0x20, 0x800  # flags
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile raises on damaged bytes.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, EOFError),
    *(ValueError, OverflowError, IndexError),
)


class _DirectoryFile(io.FileIO):
    """A file that refuses large reads: zipfile takes the whole central directory in one."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory claims {size} bytes")
        return super().read(size)


class Archive:
    """The members of the folder that holds `data.pkl`, by their names in it.

    Attributes:
        path: the file.
        infos: what the central directory says of each member.
        mapped: the whole file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _DirectoryFile(path) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        roots = [i.filename[: -len("data.pkl")] for i in infos if i.filename.endswith("/data.pkl")]
        if len(roots) != 1:
            raise FerJaxError(f"{path}: a zip file, but not one of torch.save; check the path")
        self.infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.flag_bits & _ENCRYPTED:
                raise FerJaxError(f"{path}: is encrypted; unpack it and save it again")
            if info.flag_bits & _PATCHED or info.compress_type not in _COMPRESSIONS:
                raise self.damaged("is compressed in a way that torch does not write")
            if info.filename.startswith(roots[0]):
                name = info.filename[len(roots[0]) :]
                if name in self.infos:
                    raise self.damaged(f"holds {shown(name)} twice")
                self.infos[name] = info
        # torch.serialization.set_crc32_options(False) writes zero for every checksum.
        self._has_checksums = any(info.CRC for info in infos)
        self.mapped = np.memmap(path, np.uint8, "r")
        self._check_overlaps(infos)
        self._cache: dict[str, np.ndarray] = {}
        # All that is ever decompressed: real weights shrink by little, bombs by a thousand.
        self._allowance = max(64 << 20, 8 * self.mapped.size)

    def _check_overlaps(self, infos: list[zipfile.ZipInfo]) -> None:
        """Parts that overlap would make one range of the file be checked over and over."""
        end = 0
        for info in sorted(infos, key=lambda one: one.header_offset):
            if info.header_offset < end:
                raise self.damaged(f"part {shown(info.filename)} overlaps another")
            end = info.header_offset + 30 + info.compress_size

    def damaged(self, what: str) -> FerJaxError:
        """An error that names the file."""
        return FerJaxError(f"{self.path}: {what}; save or download it again")

    def size(self, name: str) -> int:
        """Bytes of a member, unpacked."""
        if name not in self.infos:
            raise self.damaged(f"lacks its part {shown(name)}")
        return self.infos[name].file_size

    def member(self, name: str) -> np.ndarray:
        """The bytes of a member, checked once against its checksum.

        Raises:
            FerJaxError: it is missing or damaged, or too much is unpacked.
        """
        if name not in self._cache:
            self.size(name)
            info = self.infos[name]
            part = f"part {shown(info.filename)}"
            values = self._packed(info, part)
            if info.compress_type == zipfile.ZIP_DEFLATED:
                values = self._unpacked(values, info.file_size, part)
            if values.size != info.file_size:
                raise self.damaged(f"{part} has not the size that the zip file says")
            if self._has_checksums and zlib.crc32(values) != info.CRC:
                raise self.damaged(f"{part} does not match its checksum")
            self._cache[name] = values
        return self._cache[name]

    def _packed(self, info: zipfile.ZipInfo, part: str) -> np.ndarray:
        """A member as it stands in the file."""
        header = bytes(self.mapped[info.header_offset : info.header_offset + 30])
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise self.damaged(f"{part} is not where the zip file says")
        name_length, extra_length = struct.unpack_from("<2H", header, 26)
        begin = info.header_offset + 30 + name_length
        own_name = bytes(self.mapped[begin - name_length : begin])
        encoding = "utf-8" if info.flag_bits & _UTF8 else "cp437"
        if own_name != info.orig_filename.encode(encoding):
            raise self.damaged(f"{part} is not where the zip file says")
        begin += extra_length
        if begin + info.compress_size > self.mapped.size:
            raise self.damaged(f"{part} reaches beyond the end of the file")
        return self.mapped[begin : begin + info.compress_size]

    def _unpacked(self, packed: np.ndarray, size: int, part: str) -> np.ndarray:
        self._allowance -= size
        if self._allowance < 0:
            raise self.damaged(f"{part} claims {size} bytes when unpacked")
        try:  # one byte more would be seen; without a limit, a bomb would go off
            values = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
        except zlib.error as error:
            raise self.damaged(f"{part} cannot be unpacked ({error})") from error
        return np.frombuffer(values, np.uint8)


def open_archive(path: Path) -> Archive:
    """Opens a `.pth`.

    Raises:
        FerJaxError: it is no zip file of `torch.save`, or it is damaged.
    """
    try:
        return Archive(path)
    except _ZIP_ERRORS as error:
        reason = f"truncated or damaged ({shown(str(error))})"
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to before the file's beginning
            raise
        reason = "truncated or damaged"
    raise FerJaxError(f"{path}: {reason}; save or download it again")
