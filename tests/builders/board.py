"""An 8-CPU 32-bit board that panicked: the mailing-list case, and every variation of who saved a note.

The register block, the addresses and the task are those of the report that started crashbeam (an 8-CPU board, ``sysrq
c`` from a shell on CPU 2, idle CPUs that save nothing). Code bytes, stacks, run queues and per-CPU data are made
here.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.containers import ContainerFacts, Utsname
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.symbols.profile import compile_profile

PAGE = 4096
LINEAR = 0xC0000000
HIGH_MEMORY = 0xF0000000
RELEASE = "5.15.92-board"
BANNER = f"Linux version {RELEASE} (builder@board) (gcc) #1 SMP PREEMPT"
BUILD_ID = "5eed" * 10
SHELL_TASK = 0xEA62B000
SHELL_STACK = 0xEB792000
THREAD_BYTES = 8192

SHELL_BLOCK = """
 R0:  00000001   R1:  eb793e60   R2:  ea62b000   R3:  00000063
 R4:  00000000   R5:  ffffffff   R6:  c043ba2c   R7:  00000000
 R8:  00008000   R9:  00000000   R10: 00000000   R11: eb793e70
 R12: 28242444   R13: 100b8448   R14: 100b07b8   R15: 100b0894
 R16: 00000000   R17: 00000000   R18: 00000000   R19: 1006d270
 R20: 00000000   R21: 100f0430   R22: 00000000   R23: 00000001
 R24: c08f1ac8   R25: 00029002   R26: c08f1bac   R27: c08d0000
 R28: 00000000   R29: c09ada48   R30: 00000063   R31: eb793e60
 NIP: c0423378   MSR: 00021002   OR3: c09ada48   CTR: c0423344
 LR:  c0423d8c   XER: 00000000   CCR: 28242444   MQ:  00008000
 DAR: 00000000 DSISR: 00800000        Syscall Result: eb793e60
  NIP [00000000c0423378] sysrq_handle_crash
  LR  [00000000c0423d8c] __handle_sysrq

 #0 [eb793e60] sysrq_handle_crash at c0423378
"""
"""The report's register block, as crash prints it (leading blanks aside)."""

_LABELS = {"CCR": "cr", "OR3": "orig_r3", "Result": "result"}
_ORDER = (
    *(f"r{number}" for number in range(32)),
    *("nip", "msr", "orig_r3", "ctr", "lr", "xer", "cr", "mq", "trap", "dar", "dsisr", "result"),
)


def shell_registers() -> dict[str, int]:
    """The registers of the block, by name; the thread does not show the trap: a data access."""
    words = SHELL_BLOCK.split("  NIP [")[0].replace("Syscall ", "").split()
    pairs = zip(words[::2], words[1::2], strict=True)
    named = {label.rstrip(":"): int(value, 16) for label, value in pairs}
    return {_LABELS.get(label, label.lower()): value for label, value in named.items()} | {"trap": 0x300}


TEXT: Mapping[str, tuple[int, tuple[int, ...]]] = {
    # A leaf with a frame: LR is never stored, as in the report (R31 is the frame pointer, R11 the caller's r1).
    "sysrq_handle_crash": (
        0xC0423344,
        (0x9421FFF0, 0x93E1000C, 0x7C3F0B78, *(0x60000000,) * 10, 0x992A0000, 0x4E800020),
    ),
    "__handle_sysrq": (0xC0423CC0, (0x9421FFD0, 0x7C0802A6, 0x90010034, *(0x60000000,) * 47, 0x4E800421, 0x4E800020)),
    "write_sysrq_trigger": (0xC0424100, (0x9421FFE0, 0x7C0802A6, 0x90010024, 0x4E800421, 0x4E800020)),
    "arch_cpu_idle": (0xC0007140, (0x9421FFF0, 0x7C0802A6, 0x90010014, 0x60000000, 0x4E800421, 0x4E800020)),
    "do_idle": (0xC0074200, (0x9421FFF0, 0x7C0802A6, 0x90010014, 0x4E800421, 0x4E800020)),
    "ret_from_syscall": (0xC0001000, (0x4E800421, 0x4E800020)),
    "text_after": (0xC0430000, (0x4E800020,)),
}
_STEXT, _ETEXT = 0xC0000000, 0xC0600000

VARIABLES = {
    "_stext": 0xC0000000,
    "linux_banner": 0xC0700000,
    "init_uts_ns": 0xC0701000,
    "__per_cpu_offset": 0xC0709000,
    "__cpu_possible_mask": 0xC0702100,
    "__cpu_present_mask": 0xC0702104,
    "__cpu_online_mask": 0xC0702108,
    "crashing_cpu": 0xC070210C,
    "high_memory": 0xC0702110,
    "modules": 0xC070A000,
    "nr_cpu_ids": 0xC0702130,
    "swapper_pg_dir": 0xC0708000,
    "crash_notes": 0xC0703000,
    "hardirq_ctx": 0xC0704000,
    "softirq_ctx": 0xC0704080,
    "runqueues": 0xC0B00000,
}
_NOTES_AT = 0xC0A00000
_PER_CPU_STEP = 0x10000

STRUCTS = {
    "task_struct": StructLayout(
        2048,
        {
            "thread_info.cpu": Field(8, 4),
            "stack": Field(16, 4),
            "pid": Field(32, 4),
            "comm": Field(48, 16, 16),
        },
    ),
    "rq": StructLayout(1024, {"curr": Field(16, 4), "idle": Field(20, 4)}),
    "cpumask": StructLayout(4, {}),
    "module": StructLayout(512, {"list": Field(4, 8), "name": Field(12, 60, 60), "core_layout": Field(208, 24)}),
    "module_layout": StructLayout(24, {"base": Field(0, 4), "size": Field(4, 4), "text_size": Field(8, 4)}),
}


@dataclass(slots=True)
class BoardCpu:
    """One CPU of the board. ``registers`` are what it saved, ``None`` if it saved nothing.

    ``buffer`` is ``whole``, ``lost`` (its page cannot be read), ``torn`` (header alone), ``foreign`` (no note at all),
    ``empty`` (nobody filled it, whatever the file has).
    """

    registers: dict[str, int] | None = None
    online: bool = True
    pid: int = 0
    comm: str = "swapper"
    task: int = 0
    stack: int = 0
    buffer: str = "whole"
    in_file: bool = True


@dataclass(slots=True)
class Board:
    """The board: its CPUs, what else of it cannot be read, how far from where it was linked its kernel ran, and whether
    VMCOREINFO has its build id (Linux 5.9).
    """

    cpus: list[BoardCpu] = field(default_factory=list)
    panic_cpu: int = 2
    kernel_offset: int = 0
    has_build_id: bool = True
    lost_variables: tuple[str, ...] = ()
    file_notes: Sequence[int] | None = None

    def write(self, folder: Path) -> Path:
        """Writes ``vmcore`` and the kernel's profile into ``folder``; returns the dump's path."""
        memory = _Memory()
        self._write_kernel(memory)
        for number, cpu in enumerate(self.cpus):
            self._write_cpu(memory, number, cpu)
        for name in self.lost_variables:
            memory.lose(VARIABLES[name])
        path = folder / "vmcore"
        with path.open("wb") as target:
            write_kdump(target, facts_of(self), memory.pages, lost_pfns=memory.lost)
        (folder / "kernel.profile").write_bytes(compile_profile(KERNEL.moved(-self.kernel_offset)))
        return path

    def _write_kernel(self, memory: "_Memory") -> None:
        for start, words in TEXT.values():
            memory.words(start, words)
        memory.bytes(VARIABLES["linux_banner"], BANNER.encode() + b"\n\0")
        for place, text in enumerate(("Linux", "board", RELEASE, "#1 SMP", "ppc", "(none)")):
            memory.bytes(VARIABLES["init_uts_ns"] + 4 + 65 * place, text.encode() + b"\0")
        everyone = (1 << len(self.cpus)) - 1
        online = sum(1 << number for number, cpu in enumerate(self.cpus) if cpu.online)
        for name, value in (
            ("__cpu_possible_mask", everyone),
            ("__cpu_present_mask", everyone),
            ("__cpu_online_mask", online),
            ("crashing_cpu", self.panic_cpu),
            ("high_memory", HIGH_MEMORY),
            ("modules", VARIABLES["modules"]),
            ("nr_cpu_ids", len(self.cpus)),
            ("crash_notes", _NOTES_AT),
        ):
            memory.words(VARIABLES[name], (value,))
        numbers = range(len(self.cpus))
        memory.words(VARIABLES["__per_cpu_offset"], [number * _PER_CPU_STEP for number in numbers])
        memory.words(VARIABLES["hardirq_ctx"], [0xEC000000 + number * 2 * THREAD_BYTES for number in numbers])
        memory.words(VARIABLES["softirq_ctx"], [0xEC002000 + number * 2 * THREAD_BYTES for number in numbers])

    def _write_cpu(self, memory: "_Memory", number: int, cpu: BoardCpu) -> None:
        memory.words(VARIABLES["runqueues"] + number * _PER_CPU_STEP + 16, (cpu.task, cpu.task))
        memory.words(cpu.task + 8, (number,))
        memory.words(cpu.task + 16, (cpu.stack,))
        memory.words(cpu.task + 32, (cpu.pid,))
        memory.bytes(cpu.task + 48, cpu.comm.encode())
        _write_stack(memory, cpu)
        address = _NOTES_AT + number * _PER_CPU_STEP
        memory.bytes(address, bytes(300))
        if cpu.registers is not None and cpu.buffer != "empty":
            memory.bytes(address, note_of(cpu.registers, cpu.pid))
        if cpu.buffer == "torn":
            memory.bytes(address, note_of({}, cpu.pid)[:48])
        elif cpu.buffer == "foreign":
            memory.bytes(address, b"\xde\xad\xbe\xef" * 75)
        elif cpu.buffer == "lost":
            memory.lose(address)


def _write_stack(memory: "_Memory", cpu: BoardCpu) -> None:
    """The shell's stack up to its system call, or an idle task's up to the bottom."""
    if cpu.task == SHELL_TASK:
        memory.words(0xEB793E60, (0xEB793E70, 0xDEADBEEF))
        memory.words(0xEB793E70, (0xEB793EA0, 0xDEADBEEF))
        memory.words(0xEB793EA0, (0xEB793EC0, 0xC0424110))
        user = {"r1": 0xBFDBB9A0, "nip": 0x0FED1234, "msr": 0x0002D002, "trap": 0xC00}
        memory.words(0xEB793EC0, (0xEB793F10, 0xC0424110))
        memory.words(0xEB793F10, (user["r1"], 0xC0001004, 0x52454753, 0))
        memory.words(0xEB793F20, [user.get(name, 0) for name in _ORDER])
        return
    memory.words(cpu.stack + 0x1F40, (cpu.stack + 0x1F50, 0))
    memory.words(cpu.stack + 0x1F50, (cpu.stack + 0x1F60, 0xC0074210))
    memory.words(cpu.stack + 0x1F60, (0, 0))


def idle_registers(cpu: BoardCpu) -> dict[str, int]:
    """What an idle CPU saves when the crash IPI interrupts it."""
    return {
        "r1": cpu.stack + 0x1F40,
        "r2": cpu.task,
        "nip": 0xC0007154,
        "lr": 0xC0007154,
        "msr": 0x29002,
        "trap": 0x2070,
    }


def mailing_list_board() -> Board:
    """The case itself: only "bash" on CPU 2 saved a note."""
    return board_of({2})


def board_of(saved: set[int], offline: frozenset[int] = frozenset()) -> Board:
    """Eight CPUs, "bash" on CPU 2, of which just those in ``saved`` saved their notes."""
    cpus = []
    for number in range(8):
        cpu = BoardCpu(
            online=number not in offline,
            comm=f"swapper/{number}",
            task=0xEA700000 + number * PAGE,
            stack=0xEA800000 + number * THREAD_BYTES,
        )
        if number == 2:
            cpu = BoardCpu(pid=1001, comm="bash", task=SHELL_TASK, stack=SHELL_STACK)
        if number in saved:
            cpu.registers = shell_registers() if number == 2 else idle_registers(cpu)
        cpus.append(cpu)
    return Board(cpus)


def note_of(registers: Mapping[str, int], pid: int) -> bytes:
    """An NT_PRSTATUS note as ``crash_save_cpu`` writes it (asm/elf.h, include/linux/elfcore.h)."""
    words = [registers.get(name, 0) for name in _ORDER]
    descriptor = bytes(24) + struct.pack(">i", pid) + bytes(44) + struct.pack(">48I", *words, *(0,) * 4) + bytes(4)
    return struct.pack(">III", 5, len(descriptor), 1) + b"CORE\0\0\0\0" + descriptor


class _Memory:
    """Physical memory by kernel address, in pages."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self.lost: set[int] = set()

    @property
    def pages(self) -> dict[int, bytes]:
        return {pfn: bytes(page) for pfn, page in self._pages.items() if pfn not in self.lost}

    def words(self, address: int, words: Sequence[int]) -> None:
        self.bytes(address, struct.pack(f">{len(words)}I", *words))

    def bytes(self, address: int, data: bytes) -> None:
        for place, byte in enumerate(data, address - LINEAR):
            self._pages.setdefault(place // PAGE, bytearray(PAGE))[place % PAGE] = byte

    def lose(self, address: int) -> None:
        self.lost.add((address - LINEAR) // PAGE)


def _vmcoreinfo(board: Board) -> bytes:
    lines = (
        f"OSRELEASE={RELEASE}",
        *([f"BUILD-ID={BUILD_ID}"] if board.has_build_id else []),
        "PAGESIZE=4096",
        f"SYMBOL(init_uts_ns)={VARIABLES['init_uts_ns']:x}",
        "OFFSET(uts_namespace.name)=4",
        f"SYMBOL(_stext)={_STEXT:x}",
        f"SYMBOL(swapper_pg_dir)={VARIABLES['swapper_pg_dir']:x}",
        f"KERNELOFFSET={board.kernel_offset:x}",
        "CRASHTIME=1700000000",
    )
    return "".join(line + "\n" for line in lines).encode()


def facts_of(board: Board) -> ContainerFacts:
    """What the headers of the board's dump say."""
    order = range(len(board.cpus)) if board.file_notes is None else board.file_notes
    notes = b"".join(
        note_of(cpu.registers, cpu.pid)
        for cpu in (board.cpus[number] for number in order)
        if cpu.registers is not None and cpu.in_file
    )
    info = _vmcoreinfo(board)
    notes += struct.pack(">III", 11, len(info), 0) + b"VMCOREINFO\0\0" + info + bytes(-len(info) % 4)
    return ContainerFacts(
        container="kdump",
        wrapping=(),
        header_version=6,
        written_by="makedumpfile",
        byte_order="big",
        word_bytes=4,
        block_size=PAGE,
        max_pfn=(HIGH_MEMORY - LINEAR) // PAGE,
        dump_level=31,
        complete=True,
        incomplete_reason=None,
        quirks=(),
        utsname=Utsname("Linux", "board", RELEASE, "#1 SMP", "ppc", "(none)"),
        timestamp_seconds=1700000000,
        notes=(notes,),
        vmcoreinfo=info,
    )


KERNEL = CompiledKernel(
    build_id=BUILD_ID,
    banner=BANNER,
    arch="ppc32",
    names=SymbolNames.VMLINUX,
    layouts=SymbolLayouts.BTF,
    text_ranges=((_STEXT, _ETEXT),),
    text=sorted((start, name) for name, (start, _) in TEXT.items()),
    variables=VARIABLES,
    structs=STRUCTS,
)
