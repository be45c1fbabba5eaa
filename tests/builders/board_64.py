"""A 4-CPU 64-bit machine of either byte order that panicked, as kdump, hypervisor or firmware saw it.

"bash" on CPU 2 wrote to /proc/sysrq-trigger; the others are idle. The file is a kdump or an ELF vmcore of the kernel's
own notes, or one that QEMU or the firmware made.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.containers import ByteOrder, ContainerFacts, Utsname
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.symbols.profile import compile_profile
from tests.builders.elf_file import PPC64 as EM_PPC64
from tests.builders.elf_file import PT_LOAD, PT_NOTE, ElfFile, Segment
from tests.builders.elf_notes import note, vmcoreinfo_note
from tests.builders.instructions import BCTRL, BLR, NOP, mflr, std, stdu
from tests.builders.kernel_memory import PAGE_OFFSET_64 as LINEAR
from tests.builders.machine_64 import BIG, KERNEL_MSR, LITTLE, USER_MSR
from tests.builders.paca import KEXEC_DATA_OFFSET, LOCK_TOKEN, PACA_BYTES, paca_layout

MEMORY_BYTES = 0x10000000
THREAD_BYTES = 16384
RELEASE = "6.6.1-machine"
BANNER = f"Linux version {RELEASE} (builder@machine) (gcc) #1 SMP"
BUILD_ID = "64ed" * 10
PER_CPU_STEP = 0x20000
BUFFER_BYTES = 536
SHELL_CPU = 2
_NT_PRFPREG = 2
_FRAMED = (mflr(0), std(0, 16), stdu(32), BCTRL, NOP, BLR)
_BEHIND = 4

TEXT: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "sysrq_handle_crash": (LINEAR + 0x20000, (stdu(32), *(NOP,) * 6, 0x992A0000, BLR)),
    "__handle_sysrq": (LINEAR + 0x20100, _FRAMED),
    "write_sysrq_trigger": (LINEAR + 0x20200, _FRAMED),
    "system_call_exception": (LINEAR + 0x20300, (BCTRL, NOP)),
    "arch_cpu_idle": (LINEAR + 0x20400, _FRAMED),
    "do_idle": (LINEAR + 0x20500, _FRAMED),
    "text_after": (LINEAR + 0x20600, (BLR,)),
}
_STEXT, _ETEXT = LINEAR, LINEAR + 0x100000
_DATA = LINEAR + 0x200000
VARIABLES = {
    "linux_banner": _DATA,
    "init_uts_ns": _DATA + 0x1000,
    "__cpu_possible_mask": _DATA + 0x2000,
    "__cpu_present_mask": _DATA + 0x2100,
    "__cpu_online_mask": _DATA + 0x2200,
    "crashing_cpu": _DATA + 0x2300,
    "nr_cpu_ids": _DATA + 0x2304,
    "modules": _DATA + 0x2400,
    "paca_ptrs": _DATA + 0x8000,
    "crash_notes": _DATA + 0x3000,
    "hardirq_ctx": _DATA + 0x4000,
    "softirq_ctx": _DATA + 0x5000,
    "__per_cpu_offset": _DATA + 0x6000,
    "kexec_paca": _DATA + 0x7000,
    "runqueues": _DATA + 0x80000,
}
_NOTES_AT = _DATA + 0x90000
_PACA_TABLE = LINEAR + 0x1000000
_PACAS = LINEAR + 0x1010000
_TASKS = LINEAR + 0x2000000
_STACKS = LINEAR + 0x3000000
VMCOREINFO_AT = 0x4000000
FAKE_AT = 0x3800000
"""Physical pages: where the kernel has its note, and one of a process before it."""


def structs_of(arch: Architecture, mask_bytes: int) -> dict[str, StructLayout]:
    """The layouts of the machine's kernel."""
    return {
        "task_struct": StructLayout(
            4096,
            {"thread_info.cpu": Field(8, 4), "stack": Field(32, 8), "pid": Field(64, 4), "comm": Field(96, 16, 16)},
        ),
        "rq": StructLayout(2048, {"curr": Field(16, 8), "idle": Field(24, 8)}),
        "cpumask": StructLayout(mask_bytes, {}),
        "thread_union": StructLayout(THREAD_BYTES, {}),
        "module": StructLayout(512, {"list": Field(8, 16), "name": Field(24, 56, 56)}),
        "paca_struct": paca_layout(arch),
    }


@dataclass(slots=True)
class MachineCpu:
    """One CPU. ``registers`` are what is noted of it, ``None`` for nothing.

    ``buffer`` is its ``crash_notes`` buffer: ``own`` (what it noted, if anything), ``lost`` (its page cannot be read),
    ``empty``.
    """

    registers: dict[str, int] | None = None
    online: bool = True
    pid: int = 0
    comm: str = "swapper"
    task: int = 0
    stack: int = 0
    paca: int = 0
    buffer: str = "own"


@dataclass(slots=True)
class Machine:
    """The machine. ``made_by`` is ``makedumpfile`` (a kdump file), ``qemu`` or ``fadump`` (ELF).

    ``after_crash`` has what a hypervisor or firmware noted, by CPU, in the order of the file; by default what the CPUs
    noted themselves. ``vmcoreinfo`` tells where that is: in the ``file``, in ``memory``, or ``nowhere``.
    """

    arch: Architecture
    cpus: list[MachineCpu] = field(default_factory=list)
    made_by: str = "makedumpfile"
    panic_cpu: int = SHELL_CPU
    lost_variables: tuple[str, ...] = ()
    file_notes: Sequence[int] | None = None
    after_crash: Mapping[int, dict[str, int]] | None = None
    note_pids: Mapping[int, int] = field(default_factory=dict)
    headers: ByteOrder | None = None
    vmcoreinfo: str = "file"
    fakes: Mapping[int, bytes] = field(default_factory=dict)
    page_bytes: int = 4096
    mask_bytes: int = 8

    def write(self, folder: Path) -> Path:
        """Writes ``vmcore`` and the kernel's profile into ``folder``; returns the dump's path."""
        memory = _Memory(self.arch, self.page_bytes)
        self._write_kernel(memory)
        for number, cpu in enumerate(self.cpus):
            self._write_cpu(memory, number, cpu)
        for name in self.lost_variables:
            memory.lose(VARIABLES[name])
        if self.vmcoreinfo == "memory":
            memory.bytes(LINEAR + VMCOREINFO_AT, vmcoreinfo_note(vmcoreinfo(), self.arch.byte_order))
        for physical, data in self.fakes.items():
            memory.bytes(LINEAR + physical, data)
        path = folder / "vmcore"
        if self.made_by == "makedumpfile":
            with path.open("wb") as target:
                write_kdump(target, self._facts(), memory.pages, lost_pfns=memory.lost)
        else:
            path.write_bytes(self._elf(memory))
        (folder / "kernel.profile").write_bytes(_profile(self.arch.name == "ppc64le", self.mask_bytes))
        return path

    def _write_kernel(self, memory: "_Memory") -> None:
        for start, words in TEXT.values():
            memory.numbers(start, words, 4)
        memory.bytes(VARIABLES["linux_banner"], BANNER.encode() + b"\n\0")
        for place, text in enumerate(("Linux", "machine", RELEASE, "#1 SMP", self.arch.name, "(none)")):
            memory.bytes(VARIABLES["init_uts_ns"] + 4 + 65 * place, text.encode() + b"\0")
        everyone = (1 << len(self.cpus)) - 1
        online = sum(1 << number for number, cpu in enumerate(self.cpus) if cpu.online)
        for name, mask in (("possible", everyone), ("present", everyone), ("online", online)):
            doublewords = [mask >> 64 * place & (1 << 64) - 1 for place in range(self.mask_bytes // 8)]
            memory.numbers(VARIABLES[f"__cpu_{name}_mask"], doublewords, 8)
        memory.numbers(VARIABLES["crashing_cpu"], (self.panic_cpu, len(self.cpus)), 4)
        memory.numbers(VARIABLES["modules"], (VARIABLES["modules"],), 8)
        memory.numbers(VARIABLES["crash_notes"], (_NOTES_AT,), 8)
        memory.numbers(VARIABLES["paca_ptrs"], (_PACA_TABLE,), 8)
        numbers = range(len(self.cpus))
        memory.numbers(VARIABLES["__per_cpu_offset"], [number * PER_CPU_STEP for number in numbers], 8)
        for place, name in enumerate(("hardirq_ctx", "softirq_ctx")):
            bases = [_STACKS + 0x800000 + (2 * number + place) * THREAD_BYTES for number in numbers]
            memory.numbers(VARIABLES[name], bases, 8)

    def _write_cpu(self, memory: "_Memory", number: int, cpu: MachineCpu) -> None:
        memory.numbers(VARIABLES["runqueues"] + number * PER_CPU_STEP + 16, (cpu.task, cpu.task), 8)
        memory.numbers(cpu.task + 8, (number,), 4)
        memory.numbers(cpu.task + 32, (cpu.stack,), 8)
        memory.numbers(cpu.task + 64, (cpu.pid,), 4)
        memory.bytes(cpu.task + 96, cpu.comm.encode())
        self._write_stack(memory, number, cpu)
        is_panicked = self.made_by == "makedumpfile" and number == self.panic_cpu
        self._write_paca(memory, cpu.paca, number, cpu, number * PER_CPU_STEP)
        if is_panicked:
            self._write_paca(memory, VARIABLES["kexec_paca"], number, cpu, KEXEC_DATA_OFFSET)
        memory.numbers(_PACA_TABLE + 8 * number, (VARIABLES["kexec_paca"] if is_panicked else cpu.paca,), 8)
        address = _NOTES_AT + number * PER_CPU_STEP
        memory.bytes(address, bytes(BUFFER_BYTES))
        if cpu.buffer == "own" and cpu.registers is not None:
            memory.bytes(address, note_of(self.arch, cpu.registers, self._pid(number), self.arch.byte_order))
        elif cpu.buffer == "lost":
            memory.lose(address)

    def _write_paca(self, memory: "_Memory", address: int, number: int, cpu: MachineCpu, data_offset: int) -> None:
        fields = paca_layout(self.arch).fields
        values = {"lock_token": LOCK_TOKEN, "paca_index": number, "__current": cpu.task, "data_offset": data_offset}
        memory.bytes(address, bytes(PACA_BYTES))
        for name, value in values.items():
            memory.numbers(address + fields[name].offset, (value,), fields[name].size)

    def _write_stack(self, memory: "_Memory", number: int, cpu: MachineCpu) -> None:
        memory.bytes(cpu.stack, bytes(THREAD_BYTES))
        top = cpu.stack + 0x3000
        if number != SHELL_CPU:
            memory.frames(top, ((0x40, 0), (0x80, _behind("do_idle")), (None, 0)))
            return
        form = BIG if self.arch is PPC64 else LITTLE
        memory.frames(top, ((0x20, 0), (0x60, 0), (0x100, _behind("write_sysrq_trigger"))))
        place = top + 0x100
        user = {"r1": 0x7FFFD2340000, "nip": 0x7FFF8C2A1234, "msr": USER_MSR, "trap": 0xC00}
        memory.numbers(place, (user["r1"], 0, LINEAR + 0x20304), 8)
        memory.numbers(place + form.marker_at, (form.marker,), 8)
        memory.numbers(place + form.registers_at, [user.get(name, 0) for name in self.arch.registers], 8)

    def _pid(self, number: int) -> int:
        return self.note_pids.get(number, self.cpus[number].pid)

    def _noted(self) -> Iterator[tuple[int, dict[str, int]]]:
        if self.after_crash is not None:
            yield from self.after_crash.items()
            return
        for number in range(len(self.cpus)) if self.file_notes is None else self.file_notes:
            registers = self.cpus[number].registers
            if registers is not None:
                yield number, registers

    def _file_notes(self, order: ByteOrder) -> bytes:
        found = b""
        for number, registers in self._noted():
            found += note_of(self.arch, registers, self._pid(number), order)
            if self.made_by == "qemu":
                found += note(b"CORE\0", _NT_PRFPREG, bytes(264), order)
        return found + (vmcoreinfo_note(vmcoreinfo(), order) if self.vmcoreinfo == "file" else b"")

    def _elf(self, memory: "_Memory") -> bytes:
        order = self.headers or self.arch.byte_order
        loads = [Segment(PT_LOAD, data, pfn * self.page_bytes) for pfn, data in sorted(memory.pages.items())]
        segments = [Segment(PT_NOTE, self._file_notes(order)), *loads]
        flags = 0 if self.made_by == "qemu" else 2
        return ElfFile(segments, bits=64, machine=EM_PPC64, byte_order=order, flags=flags).build()

    def _facts(self) -> ContainerFacts:
        order = self.headers or self.arch.byte_order
        return ContainerFacts(
            container="kdump",
            wrapping=(),
            header_version=6,
            written_by="makedumpfile",
            byte_order=order,
            word_bytes=8,
            block_size=self.page_bytes,
            max_pfn=MEMORY_BYTES // self.page_bytes,
            dump_level=31,
            complete=True,
            incomplete_reason=None,
            quirks=(),
            utsname=Utsname("Linux", "machine", RELEASE, "#1 SMP", self.arch.name, "(none)"),
            timestamp_seconds=1700000000,
            notes=(self._file_notes(order),),
            vmcoreinfo=vmcoreinfo() if self.vmcoreinfo == "file" else None,
        )


def _behind(name: str) -> int:
    """The return address of a framed function's call."""
    return TEXT[name][0] + 4 * _BEHIND


def machine_of(
    arch: Architecture, saved: set[int], offline: frozenset[int] = frozenset(), cpus: int = 4, made_by: str = ""
) -> Machine:
    """A machine of which just the CPUs in ``saved`` noted their registers."""
    found = []
    for number in range(cpus):
        cpu = MachineCpu(
            online=number not in offline,
            pid=1001 if number == SHELL_CPU else 0,
            comm="bash" if number == SHELL_CPU else f"swapper/{number}",
            task=_TASKS + number * 0x1000,
            stack=_STACKS + number * THREAD_BYTES,
            paca=_PACAS + number * PACA_BYTES,
        )
        if number in saved:
            cpu.registers = registers_of(arch, number, cpu)
        found.append(cpu)
    return Machine(arch, found, made_by=made_by or "makedumpfile")


def registers_of(arch: Architecture, number: int, cpu: MachineCpu) -> dict[str, int]:
    """What the CPU notes: the shell in the handler of its data access, or idle in an external interrupt."""
    name = "sysrq_handle_crash" if number == SHELL_CPU else "arch_cpu_idle"
    nip = TEXT[name][0] + 4 * (7 if number == SHELL_CPU else _BEHIND)
    return {
        "r1": cpu.stack + 0x3000,
        "r13": cpu.paca,
        "nip": nip,
        "lr": _behind("__handle_sysrq") if number == SHELL_CPU else nip,
        "msr": KERNEL_MSR | (arch is PPC64LE),
        "trap": 0x300 if number == SHELL_CPU else 0x500,
        "orig_r3": nip - 4,
    }


def user_registers() -> dict[str, int]:
    """What a CPU notes that ran a user's process: nothing of it tells the CPU."""
    return {"r1": 0x7FFFD2340000, "r13": 0x7FFF8C2B6300, "nip": 0x7FFF8C2A1234, "msr": USER_MSR, "trap": 0x500}


def note_of(arch: Architecture, registers: Mapping[str, int], pid: int, byte_order: ByteOrder) -> bytes:
    """An NT_PRSTATUS note (asm/elf.h, include/linux/elfcore.h: 504 bytes)."""
    order = ">" if byte_order == "big" else "<"
    words = [registers.get(name, 0) for name in arch.registers]
    body = bytes(32) + struct.pack(f"{order}i", pid) + bytes(76) + struct.pack(f"{order}48Q", *words, *(0,) * 4)
    return struct.pack(f"{order}III", 5, len(body) + 8, 1) + b"CORE\0\0\0\0" + body + bytes(8)


def vmcoreinfo(symbol: int | None = None, release: str = RELEASE) -> bytes:
    """The text of VMCOREINFO; its byte order is nobody's."""
    lines = (
        f"OSRELEASE={release}",
        f"BUILD-ID={BUILD_ID}",
        "PAGESIZE=4096",
        f"SYMBOL(init_uts_ns)={VARIABLES['init_uts_ns'] if symbol is None else symbol:x}",
        "OFFSET(uts_namespace.name)=4",
        f"SYMBOL(_stext)={_STEXT:x}",
        "CRASHTIME=1700000000",
    )
    return "".join(line + "\n" for line in lines).encode()


class _Memory:
    """Physical memory by kernel address, in pages."""

    def __init__(self, arch: Architecture, page_bytes: int) -> None:
        self._order = ">" if arch.byte_order == "big" else "<"
        self._page_bytes = page_bytes
        self._pages: dict[int, bytearray] = {}
        self.lost: set[int] = set()

    @property
    def pages(self) -> dict[int, bytes]:
        return {pfn: bytes(page) for pfn, page in self._pages.items() if pfn not in self.lost}

    def numbers(self, address: int, numbers: Sequence[int], size_bytes: int) -> None:
        letter = {2: "H", 4: "I", 8: "Q"}[size_bytes]
        self.bytes(address, struct.pack(f"{self._order}{len(numbers)}{letter}", *numbers))

    def frames(self, top: int, links: Sequence[tuple[int | None, int]]) -> None:
        """Frames from ``top`` on: how far above ``top`` the next one lies (``None``: nowhere), and the LR save word."""
        place = top
        for distance, return_address in links:
            following = 0 if distance is None else top + distance
            self.numbers(place, (following, 0, return_address), 8)
            place = following

    def bytes(self, address: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            pfn, offset = divmod(address - LINEAR + done, self._page_bytes)
            page = self._pages.setdefault(pfn, bytearray(self._page_bytes))
            piece = data[done : done + self._page_bytes - offset]
            page[offset : offset + len(piece)] = piece
            done += len(piece)

    def lose(self, address: int) -> None:
        self.lost.add((address - LINEAR) // self._page_bytes)


@lru_cache(maxsize=8)
def _profile(is_little: bool, mask_bytes: int) -> bytes:
    arch = PPC64LE if is_little else PPC64
    return compile_profile(
        CompiledKernel(
            build_id=BUILD_ID,
            banner=BANNER,
            arch=arch.name,
            names=SymbolNames.VMLINUX,
            layouts=SymbolLayouts.BTF,
            text_ranges=((_STEXT, _ETEXT),),
            text=sorted((start, name) for name, (start, _) in TEXT.items()),
            variables=VARIABLES,
            structs=structs_of(arch, mask_bytes),
        )
    )
