"""VMCOREINFO: the numbers of every kind of line, and nothing from lines that make no sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo, read_vmcoreinfo

TEXT = b"""OSRELEASE=6.12.117-p64le
BUILD-ID=fc61c261b8f8de5fc6e350aad16665dd8f1a8a4d
PAGESIZE=65536
SYMBOL(init_uts_ns)=c0000000008b5428
OFFSET(uts_namespace.name)=0
NUMBER(VMALLOC_START)=0xc008000000000000
LENGTH(mem_section)=1024
SIZE(mem_section)=16
NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376
KERNELOFFSET=1000000
CRASHTIME=1795473664
"""


def test_every_kind_of_line_is_read() -> None:
    info = Vmcoreinfo.parse(TEXT)

    assert info == Vmcoreinfo(
        osrelease="6.12.117-p64le",
        build_id="fc61c261b8f8de5fc6e350aad16665dd8f1a8a4d",
        page_size=65536,
        crash_time_seconds=1795473664,
        kernel_offset=0x1000000,
        symbols={"init_uts_ns": 0xC0000000008B5428},
        sizes={"mem_section": 16},
        offsets={"uts_namespace.name": 0},
        lengths={"mem_section": 1024},
        numbers={"VMALLOC_START": 0xC008000000000000, "PAGE_SLAB_MAPCOUNT_VALUE": -184549376},
    )


def test_what_is_not_said_is_absent() -> None:
    assert Vmcoreinfo.parse(b"") == Vmcoreinfo(None, None, None, None, None, {}, {}, {}, {}, {})


def test_a_key_that_stands_twice_counts_as_it_stands_first() -> None:
    info = Vmcoreinfo.parse(b"SYMBOL(a)=10\nSYMBOL(a)=20\nPAGESIZE=4096\nPAGESIZE=65536\n")

    assert (info.symbols, info.page_size) == ({"a": 0x10}, 4096)


@pytest.mark.parametrize("cut_value", [b"1" * 30, b"ffff"])
def test_a_line_that_the_kernel_cut_costs_itself_and_not_the_next(cut_value: bytes) -> None:
    long_line = (b"SYMBOL(" + b"x" * (79 - len(b"SYMBOL()=") - len(cut_value)) + b")=" + cut_value)[:79]
    assert len(long_line) == 79

    info = Vmcoreinfo.parse(b"SIZE(page)=56\n" + long_line + b"OFFSET(page.flags)=8\nLENGTH(zone.free_area)=9\n")

    assert (info.symbols, info.sizes, info.offsets) == ({}, {"page": 56}, {"page.flags": 8})
    assert info.lengths == {"zone.free_area": 9}


def test_the_text_may_end_without_a_newline_or_in_zeros() -> None:
    assert Vmcoreinfo.parse(b"CRASHTIME=5").crash_time_seconds == 5
    assert Vmcoreinfo.parse(b"CRASHTIME=5\0\0").crash_time_seconds == 5


@pytest.mark.parametrize(
    "line",
    [
        b"SYMBOL(a)=",
        b"SYMBOL(a)=0x10",
        b"SYMBOL(a)=-1",
        b"SYMBOL(a)=10000000000000000",
        b"SYMBOL(a)=g",
        b"SYMBOL()=1",
        b"SYMBOL(a b)=1",
        b"SIZE(a)=-1",
        b"OFFSET(a)=1e3",
        b"LENGTH(a)=18446744073709551616",
        b"NUMBER(a)=-9223372036854775809",
        b"NUMBER(a)=99999999999999999999999",
        b"NUMBER(a)=\xff",
        b"PAGESIZE=4097",
        b"PAGESIZE=0",
        b"PAGESIZE=524288",
        b"BUILD-ID=xyz",
        b"BUILD-ID=abc",
        b"CRASHTIME=0",
        b"CRASHTIME=-5",
        b"CRASHTIME=9223372036854775808",
        b"KERNELOFFSET=-1",
        b"OSRELEASE=6.12\x1b[31m",
        b"no equals sign",
    ],
)
def test_a_value_that_makes_no_sense_is_absent(line: bytes) -> None:
    assert Vmcoreinfo.parse(line + b"\n") == Vmcoreinfo.parse(b"")


def test_the_text_is_bounded() -> None:
    assert Vmcoreinfo.parse(b"\n" * (1 << 18) + b"PAGESIZE=4096\n").page_size is None


LINES = st.sampled_from(
    [b"CRASHTIME=17\n", b"CRASHTIME=18", b"CRASHTIME=", b"\n", b"\0", b"SIZE(a)=1\n", b"x" * 79, b"PAGESIZE=4096\n"]
)


@given(st.lists(LINES | st.binary(max_size=30), max_size=8).map(b"".join))
def test_what_is_kept_of_a_build_never_changes_what_is_read(text: bytes) -> None:
    assert read_vmcoreinfo(text) == Vmcoreinfo.parse(text)


def test_of_two_crash_times_the_first_counts_in_what_is_kept_too() -> None:
    text = b"CRASHTIME=3\nSIZE(page)=56\nCRASHTIME=4\n"

    assert read_vmcoreinfo(text) == Vmcoreinfo.parse(text)
    assert read_vmcoreinfo(text).crash_time_seconds == 3


def test_dumps_of_one_build_keep_their_own_crash_time() -> None:
    body = TEXT.rpartition(b"CRASHTIME=")[0]

    times = [read_vmcoreinfo(body + b"CRASHTIME=%d\n" % time).crash_time_seconds for time in (3, 4)]

    assert times == [3, 4]
