"""The files of a cache of kernel profiles: which names are its own, and what is refused as no index and no profile."""

import struct
from hashlib import blake2b
from pathlib import Path

import pytest

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import cache as caches
from crashbeam.vmcore.symbols import profile as profiles
from crashbeam.vmcore.symbols.index import SymbolIndex, list_symbol_files
from crashbeam.vmcore.symbols.profile import KernelProfile, name_in_place
from tests.builders.vmlinux import BUILD_ID
from tests.test_symbol_store_finding import KERNEL, put


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        (f"{BUILD_ID}.profile", True),
        (f"banner-{'a' * 32}.profile", True),
        (f"map-{'a' * 32}.profile", True),
        ("kernel.profile", False),
        (f"{BUILD_ID}", False),
        (f"map-banner-{'a' * 32}.profile", False),
        ("0123.profile", False),
        (f"../{BUILD_ID}.profile", False),
    ],
)
def test_only_names_that_the_cache_gives_are_its_own(name: str, is_ours: bool) -> None:
    assert caches.is_profile_name(name) is is_ours


def test_a_temporary_file_tells_what_it_would_have_become() -> None:
    assert name_in_place(".index.json.abcd_123") == "index.json"
    for name in ("index.json.abcd_123", ".index.json.abc", ".abcd_123", ".profile", "..abcd_123"):
        assert name_in_place(name) is None


@pytest.mark.parametrize("inside", [b'"x":"\xff"', b'"x":' + b"[" * 100_000])
def test_an_index_or_a_header_that_no_reader_can_follow_is_refused(tmp_path: Path, inside: bytes) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    (file,) = list_symbol_files(path)
    put(tmp_path / "cache", "index.json", b'{"entries":{"' + path.encode() + b'":{' + inside)
    assert SymbolIndex(tmp_path / "cache").entry_of(file).build_id == BUILD_ID
    header = b"{" + inside
    header += b" " * (-(40 + len(header)) % 8)
    digest = blake2b(header, digest_size=16).digest()
    data = b"crshbeam" + struct.pack("<IIQ", profiles.VERSION, len(header), 40 + len(header)) + digest + header
    with pytest.raises(SymbolError, match="makes no sense"):
        KernelProfile(data)
