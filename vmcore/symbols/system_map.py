"""A System.map to one compiled kernel: names and addresses, without layouts, build id or banner.

Format: lines ``ADDRESS TYPE NAME`` as ``nm -n`` prints them, made by ``scripts/mksysmap``; TYPE is a letter of nm(1).
"""

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.compiled import Arch, CompiledKernel, name_text, text_ranges_of
from crashbeam.vmcore.symbols.compressed import open_unpacked
from crashbeam.vmcore.symbols.naming import is_local_label
from crashbeam.vmcore.symbols.variables import STATIC_LOCALS, VARIABLES

MAX_SYSTEM_MAP_BYTES = 64 << 20
_TEXT_TYPES = frozenset(b"tTwW")
_WEAK_TYPES = frozenset(b"wWvV")
_WANTED = frozenset(name.encode() for name in VARIABLES)
_STATIC_LOCALS = tuple(name.encode() for name in STATIC_LOCALS)


def read_system_map(path: str) -> CompiledKernel:
    """Compiles a System.map, plain or compressed. Raises SymbolError if it cannot be used.

    ``arch`` is ``ppc64`` for 64-bit addresses: a map does not tell the byte order, and nothing in it depends on it.
    """
    with open_unpacked(path) as stream:
        data = stream.read(MAX_SYSTEM_MAP_BYTES + 1)
    if len(data) > MAX_SYSTEM_MAP_BYTES:
        raise SymbolError(f"{path} is larger than any System.map", size_bytes=len(data))
    text, variables, digits = _symbols(data, path)
    ranges = text_ranges_of(variables)
    return CompiledKernel(
        build_id=None,
        banner=None,
        arch=_arch(digits),
        names=SymbolNames.SYSTEM_MAP,
        layouts=SymbolLayouts.NONE,
        text_ranges=ranges,
        text=name_text(text, ranges),
        variables=variables,
        structs={},
    )


def _symbols(data: bytes, path: str) -> tuple[list[tuple[int, str, bool]], dict[str, int], int]:
    """(address, name, is weak) of text symbols, the addresses of the wanted variables, and the digits of an address."""
    text: list[tuple[int, str, bool]] = []
    found: dict[str, set[int]] = {}
    of_globals: dict[str, int] = {}
    digits = 0
    for number, line in enumerate(data.splitlines(), 1):
        fields = line.split()
        try:
            digits = max(digits, len(fields[0]))
            address, letter, encoded = int(fields[0], 16), fields[1][0], fields[2]
        except (IndexError, ValueError):
            raise SymbolError(f"{path} is no System.map: line {number} is no symbol", line=number) from None
        if letter in _TEXT_TYPES:
            name = encoded.decode("utf-8", "replace")
            if not is_local_label(name):
                text.append((address, name, letter in _WEAK_TYPES))
        if encoded.startswith(_STATIC_LOCALS):
            encoded = encoded.partition(b".")[0]
        if encoded in _WANTED:
            found.setdefault(encoded.decode(), set()).add(address)
            if chr(letter).isupper():
                of_globals[encoded.decode()] = address
    variables = {name: addresses.pop() for name, addresses in found.items() if len(addresses) == 1}
    return text, variables | of_globals, digits


def _arch(digits: int) -> Arch:
    return "ppc32" if digits <= 8 else "ppc64"
