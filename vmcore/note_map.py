"""Notes to CPUs: the heart.

A file's ``NT_PRSTATUS`` notes stand in the order of their CPUs with the empty ones dropped, so their order says
nothing. What decides is each CPU's own ``crash_notes`` buffer: a note in the file is a byte copy of it. Where buffers
cannot be read, the registers themselves are asked; order comes last, and only where nothing contradicts it.

``assign_notes`` is a pure function of what was read: the buffers, the notes, and a table of witnesses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct, field

from crashbeam.schemas.codes import Evidence, NoteMethod, NoteState, WarningCode
from crashbeam.schemas.crash_report import ReportWarning
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.registers import Registers, decode_registers

_NOTE_HEADER_BYTES = 12
_NAME = b"CORE\0\0\0\0"
_NT_PRSTATUS = 1
_DESCRIPTOR_AT = _NOTE_HEADER_BYTES + len(_NAME)
_WITNESSES = (
    *(Evidence.CRASH_IPI, Evidence.PACA, Evidence.CURRENT_TASK, Evidence.THREAD_INFO_CPU),
    *(Evidence.STACK, Evidence.PR_PID),
)
"""The weaker witnesses, strongest first."""
_SCARCE = (NoteState.UNREADABLE, NoteState.NOT_POPULATED)
"""States of a CPU that may own a note which its buffer does not show."""


class FileNote(Struct, frozen=True):
    """An ``NT_PRSTATUS`` note of the file: its place among them, its bytes (header, name, descriptor), pid and
    registers.
    """

    index: int
    content: bytes
    pid: int
    registers: Registers


class Buffer(Struct, frozen=True):
    """A CPU's ``crash_notes`` buffer as it was read: ``content``, or ``problem`` why not.

    ``assumed_zero``: it lies on a page that the dump left out and that was taken for zeros.
    """

    content: bytes | None
    problem: str | None = None
    assumed_zero: bool = False


class CpuNoteMap(Struct, frozen=True):
    """What was decided for one CPU; ``registers`` and ``pid`` are those of its note, wherever it was found."""

    state: NoteState
    index: int | None = None
    evidence: tuple[Evidence, ...] = ()
    pid: int | None = None
    registers: Registers | None = None


class NoteMap(Struct, frozen=True):
    """The whole map: every possible CPU, the notes that nobody owns, and how it was found."""

    cpus: Mapping[int, CpuNoteMap]
    unassigned: tuple[int, ...]
    method: NoteMethod
    order_would_mislead: bool
    warnings: tuple[ReportWarning, ...]


Witness = Callable[[FileNote], Mapping[Evidence, int]]
"""What the weaker witnesses say of a note: the CPU that each names; a silent one is left out."""


def buffer_bytes(arch: Architecture) -> int:
    """The size of a CPU's buffer (``note_buf_t``): one note and an empty one behind it."""
    return _DESCRIPTOR_AT + arch.kernel_note_bytes + _NOTE_HEADER_BYTES


def decode_note(arch: Architecture, byte_order: str, index: int, content: bytes) -> FileNote | None:
    """A whole note (header, name, descriptor) as a FileNote, or ``None`` for a descriptor size that nobody writes."""
    note_format = arch.notes.get(len(content) - _DESCRIPTOR_AT)
    if note_format is None:
        return None
    (pid,) = struct.unpack_from(
        (">" if byte_order == "big" else "<") + "i", content, _DESCRIPTOR_AT + note_format.pid_at
    )
    registers = decode_registers(arch, byte_order, content, _DESCRIPTOR_AT + note_format.registers_at)
    return FileNote(index, content, pid, registers)


class _Judged(Struct, frozen=True):
    """A buffer's state; with SAVED its note, with INVALID and UNREADABLE what is wrong."""

    state: NoteState
    note: FileNote | None = None
    problem: str | None = None


def judge_buffer(arch: Architecture, byte_order: str, buffer: Buffer, *, online: bool) -> _Judged:
    """The state of one buffer, by itself.

    A note counts as whole if its header is that of a kernel's NT_PRSTATUS; since the header is written first,
    registers that no running CPU can have (r1 = 0, or nip = msr = 0) show a write that was cut short.
    """
    if buffer.content is None:
        return _Judged(NoteState.UNREADABLE, problem=buffer.problem)
    if not any(buffer.content):
        return _Judged(NoteState.NOT_SAVED if online else NoteState.OFFLINE)
    order = ">" if byte_order == "big" else "<"
    name_bytes, descriptor_bytes, note_type = struct.unpack_from(order + "III", buffer.content)
    if (name_bytes, note_type) != (5, _NT_PRSTATUS) or buffer.content[_NOTE_HEADER_BYTES:_DESCRIPTOR_AT] != _NAME:
        return _Judged(NoteState.INVALID, problem="its header is not that of an NT_PRSTATUS note")
    if descriptor_bytes != arch.kernel_note_bytes:
        return _Judged(
            NoteState.INVALID, problem=f"its size is {descriptor_bytes} bytes instead of {arch.kernel_note_bytes}"
        )
    note = decode_note(arch, byte_order, -1, buffer.content[: _DESCRIPTOR_AT + descriptor_bytes])
    if note is None or note.registers.stack_pointer == 0 or not any(note.registers.words[32:34]):
        return _Judged(NoteState.INVALID, problem="it was not written to its end")
    return _Judged(NoteState.SAVED, note)


class _Decision(Struct):
    """The map while it is made."""

    states: dict[int, NoteState]
    notes: dict[int, FileNote]
    owner: dict[int, int] = field(default_factory=dict)
    evidence: dict[int, list[Evidence]] = field(default_factory=dict)
    warnings: list[ReportWarning] = field(default_factory=list)
    after_crash: bool = False

    def warn(self, code: WarningCode, cpu: int | None, message: str) -> None:
        self.warnings.append(ReportWarning(code, cpu, message))

    def give(self, cpu: int, index: int, evidence: Evidence) -> None:
        self.owner[index] = cpu
        self.evidence.setdefault(cpu, [evidence])

    def is_free(self, cpu: int) -> bool:
        """Whether the CPU may still get a note: its buffer does not tell, and it has none yet. A hypervisor notes
        every CPU, whatever its buffer says.
        """
        if self.after_crash:
            return cpu in self.states and cpu not in self.owner.values()
        return self.states.get(cpu) in _SCARCE and cpu not in self.evidence


def assign_notes(
    arch: Architecture,
    byte_order: str,
    notes: Sequence[FileNote],
    buffers: Mapping[int, Buffer],
    *,
    online: frozenset[int] | None,
    present: frozenset[int] | None,
    witness: Witness,
    after_crash: bool = False,
) -> NoteMap:
    """Decides for every CPU of ``buffers`` (the possible ones) whether it saved a note and which one it is.

    ``online`` and ``present`` are ``None`` where the masks cannot be read: then every possible CPU counts.
    ``after_crash``: the file's notes are a hypervisor's, one for every CPU, taken after the crash; what a CPU saved by
    itself goes before.
    """
    possible = frozenset(buffers)
    online = possible if online is None else online
    judged = {cpu: judge_buffer(arch, byte_order, buffer, online=cpu in online) for cpu, buffer in buffers.items()}
    decision = _Decision({cpu: found.state for cpu, found in judged.items()}, {note.index: note for note in notes})
    decision.after_crash = after_crash
    from_buffer = _decide_by_content(decision, judged)
    _doubt_assumed_zeros(decision, buffers)
    _find_not_populated(decision)
    _warn_of_states(decision, judged)
    sayings = {note.index: witness(note) for note in notes}
    _decide_by_witnesses(decision, sayings)
    _decide_by_order(decision, sayings, _candidates(decision, online, possible if present is None else present))
    _confirm(decision, sayings)
    unassigned = tuple(sorted(set(decision.notes) - set(decision.owner)))
    for index in unassigned:
        decision.warn(WarningCode.NOTE_UNASSIGNED, None, f"note {index}: no CPU could be shown to own it")
    return NoteMap(
        cpus=_cpus(decision, from_buffer),
        unassigned=unassigned,
        method=_method(decision, from_buffer),
        order_would_mislead=any(decision.owner.get(cpu, cpu) != cpu for cpu in possible),
        warnings=tuple(decision.warnings),
    )


def _decide_by_content(decision: _Decision, judged: Mapping[int, _Judged]) -> dict[int, FileNote]:
    """Gives each saved CPU the note that equals its buffer; returns the saved notes that the file lacks."""
    places: dict[bytes, list[int]] = {}
    for index in sorted(decision.notes, reverse=True):
        places.setdefault(decision.notes[index].content, []).append(index)
    missing = {}
    for cpu, found in sorted(judged.items()):
        if found.note is None:
            continue
        equal = places.get(found.note.content)
        if equal:
            decision.give(cpu, equal.pop(), Evidence.CRASH_NOTES)
            continue
        missing[cpu] = found.note
        decision.evidence[cpu] = [Evidence.CRASH_NOTES]
        decision.warn(
            WarningCode.NOTE_MISSING_FROM_FILE,
            cpu,
            f"cpu {cpu}: its crash_notes buffer holds a note that the file lacks",
        )
    return missing


def _doubt_assumed_zeros(decision: _Decision, buffers: Mapping[int, Buffer]) -> None:
    """If the file holds a note that no readable buffer has, an empty buffer on a page that was left out proves
    nothing.
    """
    if decision.after_crash or len(decision.owner) == len(decision.notes):
        return
    for cpu, buffer in buffers.items():
        if buffer.assumed_zero and decision.states[cpu] in (NoteState.NOT_SAVED, NoteState.OFFLINE):
            decision.states[cpu] = NoteState.UNREADABLE


def _find_not_populated(decision: _Decision) -> None:
    empty = (NoteState.NOT_SAVED, NoteState.OFFLINE)
    if decision.notes and all(state in empty for state in decision.states.values()):
        decision.states = dict.fromkeys(decision.states, NoteState.NOT_POPULATED)


def _warn_of_states(decision: _Decision, judged: Mapping[int, _Judged]) -> None:
    problems = {found.problem for found in judged.values()}
    everywhere = len(problems) == 1 and all(found.state is NoteState.UNREADABLE for found in judged.values())
    if everywhere and (problem := problems.pop()):
        decision.warn(WarningCode.CRASH_NOTES_UNREADABLE, None, f"crash_notes cannot be read: {problem}")
    for cpu, state in sorted(decision.states.items()):
        if state is NoteState.NOT_SAVED:
            message = f"cpu {cpu}: NT_PRSTATUS note was not saved by the crashing system"
            decision.warn(WarningCode.NOTE_NOT_SAVED, cpu, message)
        elif state is NoteState.INVALID:
            decision.warn(
                WarningCode.NOTE_INVALID,
                cpu,
                f"cpu {cpu}: its crash_notes buffer holds no whole note: {judged[cpu].problem}",
            )
        elif state is NoteState.UNREADABLE and not everywhere:
            problem = judged[cpu].problem or "its page was left out of the dump"
            decision.warn(
                WarningCode.CRASH_NOTES_UNREADABLE, cpu, f"cpu {cpu}: crash_notes buffer cannot be read: {problem}"
            )


def _decide_by_witnesses(decision: _Decision, sayings: Mapping[int, Mapping[Evidence, int]]) -> None:
    """Step by step, strongest first: a note goes to the CPU that its first witness names, if that CPU may have it.

    A note whose first witness names a CPU that cannot have it, or one that another note claims by the same witness,
    goes nowhere: a weaker witness does not outvote a stronger one.
    """
    undecided = set(decision.notes) - set(decision.owner)
    for evidence in _WITNESSES:
        claims: dict[int, list[int]] = {}
        for index in sorted(undecided):
            cpu = sayings[index].get(evidence)
            if cpu is not None:
                claims.setdefault(cpu, []).append(index)
        for cpu, indexes in claims.items():
            undecided.difference_update(indexes)
            if len(indexes) == 1 and decision.is_free(cpu):
                decision.give(cpu, indexes[0], evidence)
                continue
            for index in indexes:
                decision.warn(
                    WarningCode.NOTE_EVIDENCE_CONFLICT,
                    cpu if cpu in decision.states else None,
                    f"note {index}: {evidence} says cpu {cpu}, {_why_not(decision, cpu, len(indexes))}",
                )


def _why_not(decision: _Decision, cpu: int, claims: int) -> str:
    if cpu not in decision.states:
        return "which is no possible CPU"
    if claims > 1:
        return "and so it does of another note"
    if cpu in decision.evidence:
        return f"which {decision.evidence[cpu][0]} gives another note"
    return f"whose crash_notes buffer says {decision.states[cpu]}"


def _candidates(decision: _Decision, online: frozenset[int], present: frozenset[int]) -> list[list[int]]:
    """The CPUs that order may be tried on, first choice first: the online ones; not populated: present, else possible
    ones.
    """
    populated = all(state is not NoteState.NOT_POPULATED for state in decision.states.values())
    pools: Iterable[Iterable[int]] = (online,)
    if decision.after_crash or not populated:
        pools = (present, decision.states)
    return [sorted(cpu for cpu in pool if decision.is_free(cpu)) for pool in pools]


def _decide_by_order(
    decision: _Decision, sayings: Mapping[int, Mapping[Evidence, int]], pools: Sequence[Sequence[int]]
) -> None:
    """Lowest to lowest, only if exactly as many notes as CPUs are left and no witness of any of those notes objects."""
    left = sorted(set(decision.notes) - set(decision.owner))
    for pool in pools:
        if not left or len(pool) != len(left):
            continue
        if any(
            cpu not in (None, given) for index, given in zip(left, pool, strict=True) for cpu in sayings[index].values()
        ):
            continue
        for index, cpu in zip(left, pool, strict=True):
            decision.give(cpu, index, Evidence.NOTE_ORDER)
            decision.warn(
                WarningCode.NOTE_ORDER_USED,
                cpu,
                f"cpu {cpu}: note {index} was given to it by its order in the file alone",
            )
        return


def _confirm(decision: _Decision, sayings: Mapping[int, Mapping[Evidence, int]]) -> None:
    """Asks the weaker witnesses of every note that was given: they join the evidence or contradict it."""
    for index, cpu in sorted(decision.owner.items()):
        given = decision.evidence[cpu]
        rank = _WITNESSES.index(given[0]) if given[0] in _WITNESSES else -1
        if given[0] is Evidence.NOTE_ORDER or (decision.after_crash and given[0] is Evidence.CRASH_NOTES):
            continue
        for evidence in _WITNESSES[rank + 1 :]:
            said = sayings[index].get(evidence)
            if said == cpu:
                given.append(evidence)
            elif said is not None:
                decision.warn(
                    WarningCode.NOTE_EVIDENCE_CONFLICT,
                    cpu,
                    f"cpu {cpu}: {given[0]} gives it note {index}, but {evidence} says cpu {said}",
                )


def _cpus(decision: _Decision, from_buffer: Mapping[int, FileNote]) -> dict[int, CpuNoteMap]:
    index_of = {cpu: index for index, cpu in decision.owner.items()}
    found = {}
    for cpu, state in sorted(decision.states.items()):
        index = None if cpu in from_buffer else index_of.get(cpu)
        note = decision.notes[index] if index is not None else from_buffer.get(cpu)
        evidence = tuple(decision.evidence.get(cpu, ()))
        found[cpu] = CpuNoteMap(state) if note is None else CpuNoteMap(state, index, evidence, note.pid, note.registers)
    return found


def _method(decision: _Decision, from_buffer: Mapping[int, FileNote]) -> NoteMethod:
    decided = {evidence[0] for evidence in decision.evidence.values()}
    if Evidence.NOTE_ORDER in decided:
        return NoteMethod.ORDER
    if decided - {Evidence.CRASH_NOTES}:
        return NoteMethod.WITNESSES
    return NoteMethod.CRASH_NOTES if decided or from_buffer else NoteMethod.NONE
