"""The dumped kernel's variables, per-CPU data and CPU masks, read by the names and layouts of its profile."""

from functools import cached_property

from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.errors import FormatError, SymbolError
from crashbeam.vmcore.limits import MAX_CPUS
from crashbeam.vmcore.memory import KernelMemory
from crashbeam.vmcore.symbols.layouts import Field
from crashbeam.vmcore.symbols.profile import KernelProfile


class Kernel:
    """A kernel whose memory, names and layouts are known.

    Methods raise SymbolError for what the profile does not have, TranslationError and PageError for what memory does
    not.
    """

    def __init__(self, memory: KernelMemory, profile: KernelProfile, arch: Architecture) -> None:
        self.memory = memory
        self.profile = profile
        self.arch = arch

    def address_of(self, name: str) -> int:
        """The address of a variable."""
        address = self.profile.address_of(name)
        if address is None:
            raise SymbolError(f"the symbols have no {name}")
        return address

    def field(self, struct: str, member: str) -> Field:
        """Offset and size of a member (``thread_info.cpu`` reaches into a nested one)."""
        field = self.profile.field(struct, member)
        if field is None:
            raise SymbolError(f"the layouts have no {struct}.{member}")
        return field

    def size_of(self, struct: str) -> int:
        """The size of a struct in bytes."""
        size_bytes = self.profile.size_of(struct)
        if size_bytes is None:
            raise SymbolError(f"the layouts have no {struct}")
        return size_bytes

    def word_of(self, name: str) -> int:
        """The value of a variable of word size."""
        return self.memory.word(self.address_of(name))

    def number_at(self, address: int, struct: str, member: str) -> int:
        """The unsigned value of a member of the struct at ``address``."""
        field = self.field(struct, member)
        if field.size not in (1, 2, 4, 8):
            raise SymbolError(f"{struct}.{member} is no number ({field.size} bytes)")
        return self.memory.number(address + field.offset, field.size)

    @cached_property
    def possible(self) -> tuple[int, ...]:
        """The CPUs that the kernel could ever have (``__cpu_possible_mask``)."""
        return self._mask("__cpu_possible_mask", "cpu_possible_bits")

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The CPUs that were plugged in."""
        return self._mask("__cpu_present_mask", "cpu_present_bits")

    @cached_property
    def online(self) -> tuple[int, ...]:
        """The CPUs that the scheduler used."""
        return self._mask("__cpu_online_mask", "cpu_online_bits")

    def _mask(self, name: str, name_before_4_5: str) -> tuple[int, ...]:
        if self.profile.address_of(name) is None:
            name = name_before_4_5
        address = self.address_of(name)
        size_bytes = self.profile.size_of("cpumask") or self._cpu_count_bytes()
        if not 0 < size_bytes <= MAX_CPUS // 8:
            raise FormatError(f"{name} has {size_bytes} bytes: that is no mask of CPUs")
        words = self.memory.words(address, max(size_bytes // self.arch.word_bytes, 1))
        bits = 8 * self.arch.word_bytes
        return tuple(
            index * bits + bit for index, word in enumerate(words) if word for bit in range(bits) if word >> bit & 1
        )

    def _cpu_count_bytes(self) -> int:
        word_bytes = self.arch.word_bytes
        count = self.memory.u32(self.address_of("nr_cpu_ids"))
        return -(-count // (8 * word_bytes)) * word_bytes

    def per_cpu(self, base: int, cpu: int) -> int:
        """The address of CPU ``cpu``'s copy of the per-CPU variable at ``base``."""
        offsets = self.profile.address_of("__per_cpu_offset")
        if offsets is None:
            return base
        offset = self.memory.word(offsets + cpu * self.arch.word_bytes)
        return (base + offset) & ((1 << 8 * self.arch.word_bytes) - 1)
