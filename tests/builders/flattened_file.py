"""Flattened files, record by record (``makedumpfile -F``)."""

import struct
from collections.abc import Iterable

END_RECORD = struct.pack(">qq", -1, -1)


def flat_header(kind: int = 1, version: int = 1) -> bytes:
    """The first 4096 bytes."""
    return (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", kind, version)).ljust(4096, b"\0")


def flat_record(offset: int, data: bytes) -> bytes:
    """One record: bytes and where they go."""
    return struct.pack(">qq", offset, len(data)) + data


def flatten(records: Iterable[tuple[int, bytes]], *, end: bytes = END_RECORD) -> bytes:
    """A flattened file of these records, in this order."""
    return flat_header() + b"".join(flat_record(offset, data) for offset, data in records) + end


def flatten_file(data: bytes, record_bytes: int = 1000) -> bytes:
    """A whole file, cut into records of one size."""
    return flatten((at, data[at : at + record_bytes]) for at in range(0, len(data), record_bytes))
