"""A profile that is cut off, damaged, or of another version is refused with a reason; writing one is all or nothing."""

import contextlib
import os
import struct
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile, write_profile
from tests.test_profile_lookup import BASE, KERNEL

WHOLE = compile_profile(KERNEL)
PRELUDE = 40


def with_header(change: Callable[[bytes], bytes]) -> bytes:
    """The profile with another header, and the lengths and the digest that belong to it."""
    (header_bytes,) = struct.unpack_from("<I", WHOLE, 12)
    header = change(WHOLE[PRELUDE : PRELUDE + header_bytes])
    header += b" " * (-(PRELUDE + len(header)) % 8)
    body = WHOLE[PRELUDE + header_bytes :]
    size = PRELUDE + len(header) + len(body)
    return WHOLE[:12] + struct.pack("<IQ", len(header), size) + blake2b(header, digest_size=16).digest() + header + body


def replaced(old: bytes, new: bytes) -> bytes:
    def change(header: bytes) -> bytes:
        assert old in header
        return header.replace(old, new)

    return with_header(change)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no kernel profile"),
        (b"\x7fELF" + WHOLE[4:], "no kernel profile"),
        (WHOLE[:8] + b"\x63" + WHOLE[9:], "version 99"),
        (WHOLE[:-1], "cut off"),
        (WHOLE + b"\0", "cut off"),
        (WHOLE[:12] + b"\xff\xff\xff\0" + WHOLE[16:], "cut off"),
        (WHOLE[:60] + b"~" + WHOLE[61:], "damaged header"),
        (with_header(lambda header: header[:-9]), "makes no sense"),
        (replaced(b'"arch":"ppc32"', b'"arch":"sparc"'), "makes no sense"),
        (replaced(b'"names":"vmlinux"', b'"names":"hearsay"'), "hearsay"),
        (replaced(b'"layouts":"btf"', b'"layouts":"x"'), "not a valid"),
        (replaced(b'"text_by_name"', b'"something"'), "lacks its text_by_name"),
        (replaced(b'"text_by_name":[', b'"text_by_name":[9000'), "outside the file"),
        (replaced(b'"text_by_name":[', b'"text_by_name":[-'), "outside the file"),
        (replaced(b'"text_addresses":[0,20]', b'"text_addresses":[0,18]'), "broken text_addresses"),
        (replaced(b'"text_addresses":[0,20]', b'"text_addresses":[0,16]'), "different lengths"),
    ],
)
def test_a_broken_profile_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(SymbolError, match=message):
        KernelProfile(data)


def test_a_file_that_is_empty_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        with pytest.raises(SymbolError, match="cannot be read"):
            KernelProfile.open(tmp_path / name)


def test_verify_finds_any_change_that_loading_does_not_look_for() -> None:
    changed = bytearray(WHOLE)
    changed[-1] ^= 1
    KernelProfile(WHOLE).verify()
    with pytest.raises(SymbolError, match="has changed"):
        KernelProfile(bytes(changed)).verify()


def test_an_index_that_refers_to_a_symbol_that_is_not_there_is_refused() -> None:
    data = bytearray(WHOLE)
    header_bytes = struct.unpack_from("<I", WHOLE, 12)[0]
    at = PRELUDE + header_bytes + 24 + 24
    data[at : at + 20] = b"\xff" * 20
    with pytest.raises(SymbolError, match="refers to a symbol"):
        KernelProfile(bytes(data)).address_of("schedule")


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_any_changed_byte_gives_an_answer_or_a_reason(place: int, value: int) -> None:
    data = bytearray(WHOLE)
    data[place] = value
    with contextlib.suppress(SymbolError):
        profile = KernelProfile(bytes(data))
        symbol = profile.symbol_at(BASE + 0x150)
        assert symbol is None or isinstance(symbol.name, str)
        profile.address_of("schedule")


def test_a_profile_that_cannot_be_put_in_place_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "kernel.profile"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_profile(path, WHOLE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kernel.profile"]
    assert path.read_bytes() == b"old"


def test_a_profile_may_be_read_by_everyone(tmp_path: Path) -> None:
    path = tmp_path / "kernel.profile"
    write_profile(path, WHOLE)
    assert os.stat(path).st_mode & 0o777 == 0o644
