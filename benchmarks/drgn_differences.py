"""For bench_drgn: where frames differ from the corpus' truth, and the words of memory that say who is right."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

LINK_REGISTER = 65
NOT_READABLE = "?"
NO_END = 1 << 64
LINEAR_MAP = 0xC000000000000000


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of the kernel's stacks: where it is, r1 in it, and its function.

    In the truth, ``a|b`` are names of one address, and what begins with ``(`` or ``0x`` is no name.
    """

    pc: int
    sp: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Context:
    """What is true of one CPU of one dump. ``links`` says how frame n leads to n + 1 where it is no plain call."""

    dump: str
    cpu: int
    frames: tuple[Frame, ...]
    links: dict[int, str]
    pt_regs: dict[int, int]
    user_pc: int | None
    live: dict[int, int]


@dataclass(slots=True)
class Tally:
    """Sums over all CPUs for one tool. ``exact``: CPUs with every kernel frame right and none too many."""

    exact: int = 0
    right: int = 0
    missing: int = 0
    untrue: int = 0
    names_differ: int = 0
    user: int = 0
    answered: int = 0


@dataclass(slots=True)
class Difference:
    """Differences of one kind behind one function."""

    kind: str
    after: str
    proof: str
    where: list[str] = field(default_factory=list)
    missing: int = 0
    untrue: list[str] = field(default_factory=list)


def contexts_of(dump: str, truth: dict[str, Any]) -> list[Context]:
    return [context_of(dump, cpu) for cpu in truth["cpus"] if cpu.get("frames")]


def context_of(dump: str, cpu: dict[str, Any]) -> Context:
    frames: list[Frame] = []
    links: dict[int, str] = {}
    pt_regs: dict[int, int] = {}
    live = {0: int(cpu["registers"]["link"], 16)} if cpu.get("registers") else {}
    user_pc = None
    for entry in cpu["frames"]:
        if "interrupt" in entry:
            links[len(frames) - 1] = "exception"
            pt_regs[len(frames) - 1] = int(entry["pt_regs"], 16)
            live[len(frames)] = int(entry["lr"], 16)
        elif "user" in entry:
            user_pc = int(entry["user"], 16)
        elif "fn" in entry:
            frames.append(Frame(int(entry["pc"], 16), int(entry["sp"], 16), entry["fn"].split(" [")[0]))
            if entry.get("stack_switch_below"):
                links[len(frames) - 1] = "switch"
    return Context(dump, cpu["cpu"], tuple(frames), links, pt_regs, user_pc, live)


def counted(tally: Tally, context: Context, answer: Sequence[Frame]) -> list[tuple[int, int, list[Frame]]]:
    """Adds a tool's frames of one CPU to its sums; gives (first true frame missed, how many, frames too many)."""
    kernel = list(answer)
    if kernel and context.user_pc is not None and kernel[-1].pc == context.user_pc:
        kernel.pop()
        tally.user += 1
    tally.answered += bool(answer)
    matcher = SequenceMatcher(
        None, [(frame.pc, frame.sp) for frame in context.frames], [(frame.pc, frame.sp) for frame in kernel], False
    )
    blocks = []
    for kind, first, last, got_first, got_last in matcher.get_opcodes():
        if kind == "equal":
            tally.right += last - first
            pairs = zip(context.frames[first:last], kernel[got_first:got_last], strict=True)
            tally.names_differ += sum(not same_name(true.name, got.name) for true, got in pairs)
        else:
            tally.missing += last - first
            tally.untrue += got_last - got_first
            blocks.append((first, last - first, kernel[got_first:got_last]))
    tally.exact += not blocks
    return blocks


def same_name(true: str, got: str) -> bool:
    return got.startswith("0x") if true.startswith(("(", "0x")) else got in true.split("|")


def words_wanted(context: Context) -> set[int]:
    """The addresses whose words a proof may show: each frame's link and LR slot, exception frames, instructions."""
    wanted = set()
    for number, frame in enumerate(context.frames):
        if frame.sp is not None:
            wanted |= {frame.sp, frame.sp + 16, frame.sp + 32}
        wanted.add(frame.pc - 4)
        if number in context.live:
            wanted.add(context.live[number] - 4)
        if number in context.pt_regs:
            wanted |= {context.pt_regs[number] + offset for offset in (8, 256, 320)}
    return wanted


@dataclass(frozen=True, slots=True)
class Proofs:
    """Words of one dump's memory as drgn itself reads them, and the kernel's CFI."""

    words: dict[str, str | None]
    image: "KernelImage"

    def word(self, address: int) -> str:
        return self.words.get(f"{address:x}") or NOT_READABLE

    def call_at(self, address: int) -> str:
        """The instruction at an address, if it is a call (the words are little endian)."""
        word = self.word(address)
        if word == NOT_READABLE:
            return "unreadable"
        code = int(word, 16) & 0xFFFFFFFF
        if code >> 26 == 18 and code & 3 == 1:
            offset = (code & 0x3FFFFFC) - ((code & 0x2000000) << 1)
            return f"bl {self.image.name_at(address + offset)}"
        return "bctrl" if code == 0x4E800421 else f"{code:08x}"


def explained(context: Context, first: int, proofs: Proofs) -> tuple[str, str, str]:
    """Kind of a difference that begins at a true frame, the function below it, and the words that show the truth."""
    if first == 0:
        return "no frame at all", "", ""
    below = context.frames[first - 1]
    above = context.frames[first] if first < len(context.frames) else None
    link = context.links.get(first - 1)
    if link == "exception":
        return "exception frame", "(any)", exception_words(context, first - 1, proofs)
    if link == "switch" and above is not None:
        return "change of stack", below.name, switch_words(below, above, proofs)
    if above is None:
        return "too many at the end", below.name, ""
    if below.name.startswith("(firmware"):
        return "firmware, LR in real mode", "(firmware)", firmware_words(below, above, proofs)
    if context.live.get(first - 1) == above.pc:
        return "return address in LR", below.name, live_words(context, first, proofs)
    return "plain call", below.name, f"[{above.sp or 0:x}+16] = {proofs.word((above.sp or 0) + 16)}, {above.name}"


def exception_words(context: Context, number: int, proofs: Proofs) -> str:
    sp, pt_regs = context.frames[number].sp or 0, context.pt_regs[number]
    return (
        f"marker [{sp:x}+32] = {proofs.word(sp + 32)} (REGS), trap {proofs.word(pt_regs + 320).lstrip('0')}, "
        f"nip {proofs.word(pt_regs + 256)}, gpr1 {proofs.word(pt_regs + 8)} = back chain word {proofs.word(sp)}"
    )


def switch_words(below: Frame, above: Frame, proofs: Proofs) -> str:
    sp, caller = below.sp or 0, above.sp or 0
    return (
        f"back chain [{sp:x}] = {proofs.word(sp)}, another stack, where [{caller:x}+16] = {proofs.word(caller + 16)} = "
        f"{above.name} after `{proofs.call_at(above.pc - 4)}`; the CFI there, {proofs.image.cfi_at(below.pc - 1)}, "
        "is of r1 before the switch"
    )


def firmware_words(below: Frame, above: Frame, proofs: Proofs) -> str:
    name = proofs.image.name_at(above.pc | LINEAR_MAP)
    return f"NIP {below.pc:x} and LR {above.pc:x} are physical; LR is {name} by its place in the linear map"


def live_words(context: Context, first: int, proofs: Proofs) -> str:
    below, above = context.frames[first - 1], context.frames[first]
    sp = above.sp or 0
    words = f"LR = {above.pc:x} = {above.name}, after `{proofs.call_at(above.pc - 4)}`"
    if below.sp != above.sp:
        words += f"; the slot [{sp:x}+16] = {proofs.word(sp + 16)} is stale"
    elif first + 1 < len(context.frames):
        caller = context.frames[first + 1]
        words += (
            f"; r1 is its frame, for [[{sp:x}]+16] = [{proofs.word(sp)}+16] = {caller.pc:x}, after "
            f"`{proofs.call_at(caller.pc - 4)}`"
        )
    return f"{words}; CFI at {below.pc:x}: {proofs.image.cfi_at(below.pc)}"


class KernelImage:
    """Function names and CFI rows of a kernel and its modules, by address, from their symbol tables and .debug_frame.

    ``files``: each with the address its text was loaded at, 0 for the kernel.
    """

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        self._tables = [(base, functions_of(path), call_frames_of(path)) for path, base in files]

    def name_at(self, address: int) -> str:
        """The function, with the offset unless it is 0 or ELFv2's local entry."""
        for base, functions, _ in self._tables:
            number = bisect_right(functions, (address - base, NO_END, "\x7f")) - 1
            if number >= 0:
                start, end, name = functions[number]
                offset = address - base - start
                if 0 <= offset < max(end - start, 1):
                    return name if offset in (0, 8) else f"{name}+{offset:x}"
        return f"{address:x}"

    def cfi_at(self, address: int) -> str:
        """The CFA and the return address at an instruction, in words."""
        for base, _, entries in self._tables:
            for start, end, entry in entries:
                if start <= address - base < end:
                    row = [row for row in entry.get_decoded().table if row["pc"] <= address - base][-1]
                    rule = row.get(LINK_REGISTER)
                    kept = "LR" if rule is None else f"CFA+{rule.arg}" if rule.type == "OFFSET" else f"r{rule.arg}"
                    return f"CFA = r{row['cfa'].reg}+{row['cfa'].offset}, return address in {kept}"
        return "none"


@cache
def functions_of(path: Path) -> list[tuple[int, int, str]]:
    with path.open("rb") as file:
        elf = ELFFile(file)
        text = next(number for number, section in enumerate(elf.iter_sections()) if section.name == ".text")
        table = elf.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise ValueError(f"{path.name} has no symbol table")
        relocatable = elf["e_type"] == "ET_REL"
        sized = sorted(
            (symbol["st_value"], symbol["st_size"], symbol.name)
            for symbol in table.iter_symbols()
            if symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE") and symbol.name
            if isinstance(symbol["st_shndx"], int) and (not relocatable or symbol["st_shndx"] == text)
        )
    # Assembler routines mostly have no size: they reach to the next symbol.
    following = [start for start, _, _ in sized[1:]] + [sized[-1][0]]
    return [
        (start, start + size if size else end, name) for (start, size, name), end in zip(sized, following, strict=True)
    ]


@cache
def call_frames_of(path: Path) -> list[tuple[int, int, Any]]:
    with path.open("rb") as file:
        elf = ELFFile(file)
        entries = elf.get_dwarf_info(relocate_dwarf_sections=elf["e_type"] == "ET_REL").CFI_entries()
        frames = [entry for entry in entries if isinstance(entry, FDE)]
    return [(entry["initial_location"], entry["initial_location"] + entry["address_range"], entry) for entry in frames]
