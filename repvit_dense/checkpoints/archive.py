"""Read the records of a checkpoint in the zip format and compare them with their checksums. Imports no PyTorch.

torch.save stores records uncompressed, so that a file cannot expand to more than its own size.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

_LOCAL_HEADER = struct.Struct('<4s22xHH')  # signature, lengths of the name and of the extra field
_CHUNK = 2**22  # bytes


class Damaged(Exception):
    """A file that is not as torch.save wrote it."""


def is_archive(file: BinaryIO) -> bool:
    """Return whether a file ends as a zip file does; a truncated one does not."""
    try:
        return is_zipfile(file)
    except BadZipFile:
        return False


class Archive:
    """The records of a checkpoint in the zip format.

    Args:
        file: the open file; it stays open.

    Attributes:
        has_checksums: False if the file was written after `torch.serialization.set_crc32_options(False)`, which sets
            all checksums to 0. Damage to its records cannot be noticed.

    Raises:
        Damaged, zipfile.BadZipFile: a record is compressed, encrypted, a duplicate, or overlaps another one.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        with ZipFile(file) as content:
            self._records = {info.filename: info for info in content.infolist()}
            if len(self._records) < len(content.infolist()):
                raise Damaged('two records have the same name')
            end = content.start_dir
        self.has_checksums = any(info.CRC for info in self._records.values())
        self._starts: dict[str, int] = {}  # position of the first byte of each record
        for info in sorted(self._records.values(), key=lambda info: info.header_offset, reverse=True):
            end = self._locate(info, end)
        self._checked: set[str] = set()
        pickles = [name for name in self._records if name.endswith('/data.pkl')]
        if len(pickles) != 1:
            raise Damaged(f'it has {len(pickles)} records data.pkl')
        self._prefix = pickles[0].removesuffix('data.pkl')

    def _locate(self, info: ZipInfo, end: int) -> int:
        """Record where the content of a record begins; `end` is the position of the next record."""
        if info.compress_type != ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise Damaged(f'the record {info.filename} is compressed or encrypted')
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        signature, *lengths = _LOCAL_HEADER.unpack(header) if len(header) == _LOCAL_HEADER.size else (b'', 0, 0)
        start = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
        if signature != b'PK\x03\x04' or start + info.file_size > end:
            raise Damaged(f'the record {info.filename} overlaps another one or the end of the file')
        self._starts[info.filename] = start
        return info.header_offset

    def size(self, name: str) -> int:
        """Return the number of bytes of a record; KeyError if there is none of this name."""
        return self._records[self._prefix + name].file_size

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._records

    def read(self, name: str) -> bytearray:
        """Return the content of a record.

        Raises:
            Damaged: it does not match its checksum.
        """
        info = self._records[self._prefix + name]
        content = bytearray(info.file_size)
        self._file.seek(self._starts[info.filename])
        if self._file.readinto(content) < len(content):  # type: ignore[attr-defined]
            raise Damaged('the file ends early')
        self._compare(info, zlib.crc32(content))
        return content

    def check_rest(self) -> None:
        """Compare the records that were not read with their checksums.

        Raises:
            Damaged: see `read`.
        """
        for name, info in self._records.items():
            if self.has_checksums and name not in self._checked:
                checksum = 0
                for chunk in self._chunks(info):
                    checksum = zlib.crc32(chunk, checksum)
                self._compare(info, checksum)

    def _chunks(self, info: ZipInfo) -> Iterator[bytes]:
        self._file.seek(self._starts[info.filename])
        for start in range(0, info.file_size, _CHUNK):
            yield self._file.read(min(_CHUNK, info.file_size - start))

    def _compare(self, info: ZipInfo, checksum: int) -> None:
        if self.has_checksums and checksum != info.CRC:
            raise Damaged(f'the record {info.filename} does not match its checksum')
        self._checked.add(info.filename)
