"""Struct layouts from a vmlinux's DWARF, versions 2 to 5.

A kernel has hundreds of compile units; the structs that matter are whole in a few of them. These are found by a
function that each of them defines: its address leads through ``.debug_aranges`` to the unit. Of a unit only the
outermost entries are read (DWARF 5, section 7.5; DW_AT_sibling leads past their children), and what is below the
structs that are wanted.
"""

from collections.abc import Iterator, Mapping
from io import BytesIO

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo
from elftools.elf.elffile import ELFFile

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.layouts import Field, StructLayout, WantedLayouts

UNITS = {
    "schedule": "kernel/sched/core.c",
    "crash_save_cpu": "kernel/crash_core.c",
    "identify_cpu": "arch/powerpc/kernel/cputable.c",
    "rtas_call": "arch/powerpc/kernel/rtas.c",
    "arch_dup_task_struct": "arch/powerpc/kernel/process.c",
    "kmsg_dump_get_buffer": "kernel/printk/printk.c",
    "prb_reserve": "kernel/printk/printk_ringbuffer.c",
    "ktime_get": "kernel/time/timekeeping.c",
    "emergency_stack_init": "arch/powerpc/kernel/setup_64.c",
    "load_module": "kernel/module/main.c",
    "kthreadd": "kernel/kthread.c",
    "start_kernel": "init/main.c",
}
"""The compile units to look into, in this order, by a function that has long been in them (Linux 4.18 to 6.12)."""

_SECTIONS = ("info", "aranges", "abbrev", "str", "line_str", "str_offsets", "addr")
_OTHER_SECTIONS = (
    "debug_frame_sec",
    "eh_frame_sec",
    "debug_loc_sec",
    "debug_ranges_sec",
    "debug_line_sec",
    "debug_pubtypes_sec",
    "debug_pubnames_sec",
    "debug_loclists_sec",
    "debug_rnglists_sec",
    "debug_sup_sec",
    "gnu_debugaltlink_sec",
    "debug_types_sec",
)
"""What pyelftools would read too, and layouts do not need (DWARFInfo takes every section by name)."""

_MAX_SECTION_BYTES = 1 << 30
_MAX_UNITS = 100_000
_MAX_ENTRIES = 1_000_000
_MAX_DEPTH = 32
_MAX_SIZE_BYTES = 1 << 31
_STRUCTS = frozenset(("DW_TAG_structure_type", "DW_TAG_union_type"))
_MODIFIERS = frozenset(
    (
        "DW_TAG_typedef",
        "DW_TAG_const_type",
        "DW_TAG_volatile_type",
        "DW_TAG_restrict_type",
        "DW_TAG_atomic_type",
    )
)
_POINTERS = frozenset(("DW_TAG_pointer_type", "DW_TAG_reference_type"))


def read_layouts(elf: ELFFile, wanted: WantedLayouts, addresses: Mapping[str, int]) -> dict[str, StructLayout]:
    """The layouts of those of ``wanted`` that the units define; none if the file has no DWARF.

    A name is that of a struct or union, else of a typedef. Bitfields have no byte offset and are left out.
    ``addresses`` holds those of the kernel's functions. Raises SymbolError for DWARF that contradicts itself, and what
    pyelftools raises.
    """
    information = _information(elf)
    layouts: dict[str, StructLayout] = {}
    if information is None:
        return layouts
    reader = _Reader(elf.elfclass // 8)
    for unit in _units(information, addresses):
        missing = wanted.keys() - layouts.keys()
        if not missing:
            break
        for name, entry in reader.find(unit, missing).items():
            fields = {}
            for member in wanted[name]:
                field = reader.field(entry, member)
                if field is not None:
                    fields[member] = field
            layouts[name] = StructLayout(reader.size_and_count(entry)[0], fields)
    return layouts


class _Reader:
    """Questions about types, within one allowance of entries read."""

    def __init__(self, word_bytes: int) -> None:
        self._word_bytes = word_bytes
        self._entries_left = _MAX_ENTRIES

    def find(self, unit: CompileUnit, names: set[str]) -> dict[str, DIE]:
        """The entries that define the structs, unions and typedefs of these names; the first of each."""
        structs: dict[str, DIE] = {}
        typedefs: dict[str, DIE] = {}
        for entry in self._children(unit.get_top_DIE()):
            found = structs if entry.tag in _STRUCTS else typedefs if entry.tag == "DW_TAG_typedef" else None
            if found is not None and "DW_AT_declaration" not in entry.attributes:
                name = _name_of(entry)
                if name in names:
                    found.setdefault(name, entry)
        return typedefs | structs

    def field(self, entry: DIE, path: str) -> Field | None:
        """The member at a dotted path, or ``None`` if there is no such member."""
        offset = 0
        within: DIE | None = entry
        for name in path.split("."):
            member = self._member(self._resolve(within), name, 0)
            if member is None:
                return None
            offset += member[0]
            within = member[1]
        size, count = self.size_and_count(within)
        return Field(offset, size, count)

    def size_and_count(self, entry: DIE | None) -> tuple[int, int | None]:
        """Bytes of a value of the type, and of an array how many elements it has (of its first dimension)."""
        count: int | None = None
        elements = 1
        for _ in range(_MAX_DEPTH):
            entry = self._resolve(entry)
            if entry is None or entry.tag != "DW_TAG_array_type":
                return _checked(elements * self._plain_size(entry)), count
            for dimension in self._children(entry):
                if dimension.tag == "DW_TAG_subrange_type":
                    length = _length_of(dimension)
                    count = length if count is None else count
                    elements = _checked(elements * length)
            entry = _type_of(entry)
        raise SymbolError("DWARF nests arrays too deeply")

    def _member(self, entry: DIE | None, name: str, depth: int) -> tuple[int, DIE | None] | None:
        """(byte offset, type) of a member; members of anonymous structs and unions count as the struct's own."""
        if depth > _MAX_DEPTH:
            raise SymbolError("DWARF nests anonymous members too deeply")
        if entry is None or entry.tag not in _STRUCTS:
            return None
        for member in self._children(entry):
            if member.tag != "DW_TAG_member" or "DW_AT_bit_size" in member.attributes:
                continue
            member_name = _name_of(member)
            if member_name == name:
                return _offset_of(member), _type_of(member)
            if not member_name:
                inner = self._member(self._resolve(_type_of(member)), name, depth + 1)
                if inner is not None:
                    return _offset_of(member) + inner[0], inner[1]
        return None

    def _resolve(self, entry: DIE | None) -> DIE | None:
        """The type behind typedefs and qualifiers; ``None`` is void."""
        for _ in range(_MAX_DEPTH):
            if entry is None or entry.tag not in _MODIFIERS:
                return entry
            entry = _type_of(entry)
        raise SymbolError("DWARF has a typedef that leads nowhere")

    def _plain_size(self, entry: DIE | None) -> int:
        if entry is None:
            return 0
        size = entry.attributes.get("DW_AT_byte_size")
        if size is not None:
            return int(size.value)
        return self._word_bytes if entry.tag in _POINTERS else 0

    def _children(self, entry: DIE) -> Iterator[DIE]:
        for child in entry.iter_children():
            self._entries_left -= 1
            if self._entries_left < 0:
                raise SymbolError("DWARF has more entries than a kernel's", entries=_MAX_ENTRIES)
            yield child


def _information(elf: ELFFile) -> DWARFInfo | None:
    section = elf.get_section_by_name(".debug_info")
    if section is None or section["sh_type"] == "SHT_NOBITS":
        return None
    config = DwarfConfig(
        little_endian=elf.little_endian, machine_arch=elf.get_machine_arch(), default_address_size=elf.elfclass // 8
    )
    sections = {f"debug_{name}_sec": _section(elf, f".debug_{name}") for name in _SECTIONS}
    return DWARFInfo(config=config, **sections, **dict.fromkeys(_OTHER_SECTIONS))


def _section(elf: ELFFile, name: str) -> DebugSectionDescriptor | None:
    section = elf.get_section_by_name(name)
    if section is None:
        return None
    if section["sh_size"] > _MAX_SECTION_BYTES:
        raise SymbolError(f"{name} is larger than any kernel's", size_bytes=section["sh_size"])
    data = section.data()
    return DebugSectionDescriptor(BytesIO(data), name, section["sh_offset"], len(data), section["sh_addr"])


def _units(information: DWARFInfo, addresses: Mapping[str, int]) -> Iterator[CompileUnit]:
    """The compile units to look into, in order, each once."""
    ranges = information.get_aranges()
    if ranges is None:
        yield from _units_by_name(information)
        return
    seen = set()
    for function in UNITS:
        if function in addresses:
            offset = ranges.cu_offset_at_addr(addresses[function])
            if offset is not None and offset not in seen:
                seen.add(offset)
                yield information.get_CU_at(offset)


def _units_by_name(information: DWARFInfo) -> Iterator[CompileUnit]:
    """The same by file name, which takes a look at every unit: for compilers that make no ``.debug_aranges``."""
    found: dict[str, CompileUnit] = {}
    for number, unit in enumerate(information.iter_CUs()):
        if number >= _MAX_UNITS or len(found) == len(UNITS):
            break
        name = _name_of(unit.get_top_DIE())
        for file in UNITS.values():
            if name.endswith(file):
                found.setdefault(file, unit)
    for file in UNITS.values():
        if file in found:
            yield found[file]


def _type_of(entry: DIE) -> DIE | None:
    return entry.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in entry.attributes else None


def _name_of(entry: DIE) -> str:
    attribute = entry.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "replace") if attribute is not None else ""


def _offset_of(member: DIE) -> int:
    """DW_AT_data_member_location: a constant, or in DWARF 2 an expression; absent in unions."""
    attribute = member.attributes.get("DW_AT_data_member_location")
    if attribute is None:
        return 0
    if isinstance(attribute.value, int):
        return attribute.value
    return _plus_uconst(attribute.value)


def _plus_uconst(expression: list[int]) -> int:
    """The operand of DW_OP_plus_uconst (0x23), a ULEB128 number."""
    if not expression or expression[0] != 0x23 or len(expression) > 6:
        raise SymbolError("DWARF places a member by an expression that is no offset")
    return sum((byte & 0x7F) << 7 * index for index, byte in enumerate(expression[1:]))


def _length_of(dimension: DIE) -> int:
    count = dimension.attributes.get("DW_AT_count")
    if count is not None and isinstance(count.value, int):
        return max(count.value, 0)
    upper = dimension.attributes.get("DW_AT_upper_bound")
    return max(upper.value + 1, 0) if upper is not None and isinstance(upper.value, int) else 0


def _checked(size: int) -> int:
    if size > _MAX_SIZE_BYTES:
        raise SymbolError("DWARF has a type that is too large", size_bytes=size)
    return size
