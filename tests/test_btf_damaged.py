"""BTF out of a dump is a stranger's: it is refused with a reason, and never followed without end."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import btf
from tests.builders import btf as kinds
from tests.builders.btf import Btf


def good() -> bytes:
    blob = Btf()
    word = blob.integer("int", 4)
    inner = blob.struct("", 8, [("nip", word, 0), ("gpr", blob.array(word, 1), 32)])
    blob.struct("pt_regs", 8, [("", inner, 0)])
    blob.add(kinds.TYPEDEF, "pgd_t", word)
    return blob.build()


WANTED = {"pt_regs": ("nip", "gpr"), "pgd_t": ()}


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "shorter than its header"),
        (good()[:23], "shorter than its header"),
        (b"\x7fELF" + good()[4:], "no BTF"),
        (good()[:2] + b"\x02" + good()[3:], "no BTF"),
        (good()[:-1], "lie outside"),
        (good()[:4] + struct.pack(">I", 8) + good()[8:], "lie outside"),
        (good()[:12] + struct.pack(">I", 2**32 - 4) + good()[16:], "lie outside"),
    ],
)
def test_a_broken_header_is_refused(blob: bytes, message: str) -> None:
    with pytest.raises(SymbolError, match=message):
        btf.read_layouts(blob, WANTED, 4)


def test_a_blob_that_is_larger_than_any_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(btf, "MAX_BTF_BYTES", len(good()) - 1)
    with pytest.raises(SymbolError, match="larger"):
        btf.read_layouts(good(), WANTED, 4)


@pytest.mark.parametrize("kind", [0, 20, 31])
def test_a_kind_that_is_unknown_cannot_be_passed_over(kind: int) -> None:
    blob = Btf()
    blob.add(kind, "x", 0)
    with pytest.raises(SymbolError, match="unknown kind"):
        btf.read_layouts(blob.build(), WANTED, 4)


def test_a_list_that_runs_over_the_end_is_refused() -> None:
    blob = Btf()
    blob.add(kinds.STRUCT, "pt_regs", 8, listed=9)
    with pytest.raises(SymbolError, match="ends inside"):
        btf.read_layouts(blob.build(), WANTED, 4)


def test_a_member_of_a_type_that_is_not_there_is_refused() -> None:
    blob = Btf()
    blob.struct("pt_regs", 8, [("nip", 77, 0)])
    with pytest.raises(SymbolError, match="lacks"):
        btf.read_layouts(blob.build(), WANTED, 4)


def test_a_typedef_of_itself_is_refused() -> None:
    blob = Btf()
    blob.add(kinds.TYPEDEF, "pgd_t", 1)
    with pytest.raises(SymbolError, match="leads nowhere"):
        btf.read_layouts(blob.build(), WANTED, 4)


def test_a_struct_that_holds_itself_is_refused() -> None:
    blob = Btf()
    blob.struct("pt_regs", 8, [("", 1, 0)])
    with pytest.raises(SymbolError, match="too deeply"):
        btf.read_layouts(blob.build(), WANTED, 4)


def test_structs_that_hold_each_other_many_times_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(btf, "_MAX_MEMBERS_VISITED", 10_000)
    blob = Btf()
    for level in range(2, 21):
        blob.struct("" if level > 2 else "pt_regs", 8, [("", level, 0)] * 16)
    blob.struct("", 8, [])
    with pytest.raises(SymbolError, match="more members"):
        btf.read_layouts(blob.build(), WANTED, 4)


def test_an_array_of_itself_is_refused() -> None:
    blob = Btf()
    blob.array(1, 1)
    blob.add(kinds.TYPEDEF, "pgd_t", 1)
    with pytest.raises(SymbolError, match="arrays too deeply"):
        btf.read_layouts(blob.build(), WANTED, 4)


def test_an_array_that_is_too_large_is_refused() -> None:
    blob = Btf()
    blob.add(kinds.TYPEDEF, "pgd_t", blob.array(blob.array(blob.integer("int", 4), 2**20), 2**20))
    with pytest.raises(SymbolError, match="too large"):
        btf.read_layouts(blob.build(), WANTED, 4)


@given(st.integers(0, len(good()) - 1), st.integers(0, 255))
def test_any_changed_byte_gives_layouts_or_a_reason(place: int, value: int) -> None:
    data = bytearray(good())
    data[place] = value
    with contextlib.suppress(SymbolError):
        layouts = btf.read_layouts(bytes(data), WANTED, 4)
        assert layouts.keys() <= WANTED.keys()
