"""A stack as a signature sees it: function after function, innermost first, whether unwound in memory or printed in the
kernel's log.
"""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import StackKind, StopReason, Trust
from crashbeam.schemas.crash_report import Cpu, Frame
from crashbeam.vmcore.arch.architecture import MSR_PROBLEM_STATE
from crashbeam.vmcore.oops import Oops, TraceLine
from crashbeam.vmcore.signature.names import FunctionName
from crashbeam.vmcore.signature.rules import Rules

_VECTOR_MASK = 0xFFFF_FFF0
"""The low bits of ``pt_regs.trap`` are flags (``TRAP_FLAGS_MASK``)."""
_CERTAIN = frozenset({Trust.REGISTERS, Trust.EXCEPTION, Trust.BACK_CHAIN, Trust.LINK_REGISTER})
_USER_VECTORS = frozenset({0xC00, 0x3000})
"""System calls: what they interrupt is a process."""
_LINES_OF_R0 = 3


class Context(Struct, frozen=True):
    """The registers at an exception. ``vector`` 0: they were saved by a function of the crash path, no exception."""

    vector: int
    nip: int | None = None
    dar: int | None = None
    dsisr: int | None = None
    msr: int | None = None


class Point(Struct, frozen=True):
    """One function of a stack. ``context``: an exception interrupted it here (or its CPU was saved here)."""

    name: FunctionName | None
    context: Context | None = None
    is_certain: bool = True
    is_by_link_register: bool = False
    is_user: bool = False
    is_off_stack: bool = False
    stack_pointer: int | None = None


class Points(Struct, frozen=True):
    """A stack's functions; ``reaches_end``: the walk stopped where the stack ends, not where it could not go on."""

    points: tuple[Point, ...]
    reaches_end: bool
    is_recovered: bool = False
    is_printed: bool = False


_ENDS = frozenset({StopReason.USER_MODE, StopReason.END_OF_STACK, StopReason.THREAD_START, StopReason.VECTOR_ENTRY})


def stack_of_cpu(cpu: Cpu, rules: Rules, oops: Oops | None = None) -> Points:
    """The stack of a CPU of the report, as far as it was unwound. Where symbols were missing, functions are named as
    the log's report names the same addresses.
    """
    printed = _printed_names(oops) if any(frame.symbol is None for frame in cpu.stack.frames) else {}
    points = [_frame(frame, printed, rules) for frame in cpu.stack.frames]
    registers = cpu.registers or cpu.recovered_registers
    if points and points[0].context is None and registers is not None:
        context = _context(registers, _number(registers.get("trap")) or 0)
        points[0] = replace(points[0], context=context, is_user=_is_user(context))
    return Points(tuple(points), cpu.stack.stop_reason in _ENDS, is_recovered=cpu.stack.recovered)


def stack_of_text(oops: Oops, rules: Rules) -> Points:
    """The stack that the kernel printed: NIP, LR where the trace does not have it, and the lines of the trace.

    The kernel flags the first line as unreliable, since nothing may have been saved there; a return address at the very
    start of a function belongs to a call that ends the function before it, which is not named.
    """
    reliable = [line for line in oops.trace if not line.is_unreliable]
    points = []
    nip = oops.registers.get("nip")
    if nip is not None or (oops.function is not None and oops.function not in {line.function for line in reliable}):
        context = Context(oops.registers.get("trap", 0) & _VECTOR_MASK, nip)
        points.append(Point(rules.normalise(oops.function or "", oops.module), context))
        if _is_link_register_live(oops, reliable):
            points.append(Point(rules.normalise(oops.link_function or "", oops.link_module), is_by_link_register=True))
            reliable = reliable[_stale_lines(oops, reliable) :]
    points += [_line(line, rules) for line in reliable]
    return Points(tuple(points), reaches_end=True, is_printed=True)


def kernel_contexts(stack: Points) -> Iterator[tuple[int, Context]]:
    """The places of a stack where kernel code was interrupted, or registers saved, innermost first."""
    for place, point in enumerate(stack.points):
        if point.context is not None and not point.is_user:
            yield place, point.context


def _printed_names(oops: Oops | None) -> dict[int, tuple[str, str | None]]:
    """Function and module by the address that the kernel printed with them."""
    if oops is None:
        return {}
    printed = {
        line.address: (line.function, line.module)
        for line in oops.trace
        if line.address is not None and line.function is not None and line.offset
    }
    for register, function, module in (
        ("nip", oops.function, oops.module),
        ("lr", oops.link_function, oops.link_module),
    ):
        if register in oops.registers and function is not None:
            printed[oops.registers[register]] = (function, module)
    return printed


def _frame(frame: Frame, printed: Mapping[int, tuple[str, str | None]], rules: Rules) -> Point:
    context = None
    if frame.exception is not None:
        context = _context(frame.exception.registers, int(frame.exception.vector, 16))
    if frame.symbol is not None:
        name = rules.normalise(frame.symbol, frame.module)
    elif (address := int(frame.address, 16)) in printed:
        name = rules.normalise(*printed[address])
    elif frame.module is not None:
        name = FunctionName(f"{frame.module}+", frame.module)
    else:
        name = None
    return Point(
        name=name,
        context=context,
        is_certain=frame.trust in _CERTAIN and not frame.may_have_returned,
        is_by_link_register=frame.trust is Trust.LINK_REGISTER,
        is_user=context is not None and _is_user(context),
        is_off_stack=frame.on is StackKind.UNKNOWN,
        stack_pointer=_number(frame.stack_pointer),
    )


def _line(line: TraceLine, rules: Rules) -> Point:
    if line.vector is None:
        name = None if line.function is None else rules.normalise(line.function, line.module)
        starts_function = line.offset == 0 and name is not None and not rules.has("terminators", name)
        return Point(None if starts_function else name)
    is_user = line.vector & _VECTOR_MASK in _USER_VECTORS or line.function is None
    name = None if line.function is None else rules.normalise(line.function, line.module)
    return Point(name, Context(line.vector & _VECTOR_MASK, line.address), is_user=is_user)


def _is_link_register_live(oops: Oops, reliable: Sequence[TraceLine]) -> bool:
    """Whether LR's function is the caller: not the interrupted one, which calls others, nor in the trace already."""
    if oops.link_function is None or oops.link_function == oops.function:
        return False
    return not reliable or reliable[0].address is None or reliable[0].address != oops.registers.get("lr")


def _stale_lines(oops: Oops, reliable: Sequence[TraceLine]) -> int:
    """How many lines the trace has of return addresses that were never saved, where LR is live.

    r0 holds what the last function to save its LR saved, its prologue being ``mflr r0``: here the caller's return
    address. The line with that address is the first true one.
    """
    for place, line in enumerate(reliable[:_LINES_OF_R0]):
        if line.address is not None and line.address == oops.registers.get("r0"):
            return place
    return 0


def _context(registers: Mapping[str, str], trap: int) -> Context:
    return Context(
        vector=trap & _VECTOR_MASK,
        nip=_number(registers.get("nip")),
        dar=_number(registers.get("dar")),
        dsisr=_number(registers.get("dsisr")),
        msr=_number(registers.get("msr")),
    )


def _is_user(context: Context) -> bool:
    return context.msr is not None and bool(context.msr & MSR_PROBLEM_STATE)


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits, 16)
