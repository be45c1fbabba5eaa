"""CPUs caught in firmware and in real mode: what their physical addresses are called, and where their stacks lead."""

import pytest

from crashbeam.schemas.codes import CpuMode, StopReason
from crashbeam.vmcore.firmware import FirmwareAreas
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from tests.builders.instructions import BLR, NOP, mflr, mtlr, std, stdu
from tests.builders.kernel_memory import PAGE_OFFSET_64
from tests.builders.machine_64 import AFTER_CALL, BIG, KERNEL_MSR, LITTLE, REAL_MSR, FrameForm, Machine64, chain

RTAS, OPAL = (0x2FFF0000, 0x10000), (0x30000000, 0x1C10000)
RFID = 0x4C000024

both_orders = pytest.mark.parametrize("form", [LITTLE, BIG], ids=["little", "big"])


class FirmwareMachine(Machine64):
    """A kernel that knows RTAS and OPAL, in a call of RTAS from ``worker``."""

    def __init__(self, form: FrameForm) -> None:
        super().__init__(form)
        made = self.made
        self.enter = made.function("enter_rtas", (mflr(0), std(0, 16), stdu(496), *(NOP,) * 4, RFID))
        self.back = made.function("rtas_return_loc", (NOP, mtlr(0), BLR), at=self.enter.at(8))
        at = made.base + 0x600000
        for place, (name, struct_name, area) in enumerate((("rtas", "rtas_t", RTAS), ("opal", "opal", OPAL))):
            made.variables[name] = at + 64 * place
            made.structs[struct_name] = StructLayout(32, {"base": Field(8, 8), "size": Field(16, 8)})
            made.words(at + 64 * place, 0xDEAD, *area)
        self.own = self.top - 496
        self.frame(self.own, self.top)
        self.frame(self.top, self.bottom, self.worker.at(AFTER_CALL))

    def in_rtas(self, nip: int = RTAS[0] + 0x1234, lr: int | None = None) -> Registers:
        """Registers in RTAS, called by ``enter_rtas``: real mode, NIP and LR physical, r1 the kernel's."""
        back = self.back.start - PAGE_OFFSET_64
        return self.context(nip, self.own, back if lr is None else lr, msr=REAL_MSR, trap=0x100)

    def mode_of(self, registers: Registers) -> CpuMode:
        return FirmwareAreas(self.made.kernel()).mode_of(registers)


REST = [("worker", "back_chain"), ("start_kernel_thread", "back_chain")]


def names(machine: Machine64, start: Registers) -> list[tuple[str | None, str]]:
    return [(symbol, trust) for symbol, _, trust, _ in chain(machine.walk(start))]


@both_orders
def test_rtas_was_called_by_the_function_that_lr_has_in_real_mode(form: FrameForm) -> None:
    machine = FirmwareMachine(form)
    start = machine.in_rtas()
    stack = machine.walk(start)
    assert chain(stack) == [
        (None, machine.own, "registers", "task"),
        ("rtas_return_loc", machine.own, "link_register", "task"),
        ("worker", machine.top, "back_chain", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]
    assert [frame.address for frame in stack.frames[:2]] == [
        "000000002fff1234",
        f"{machine.back.start - PAGE_OFFSET_64:016x}",
    ]
    assert [frame.offset for frame in stack.frames[:2]] == [None, 0]
    assert stack.stop_reason is StopReason.THREAD_START
    assert machine.mode_of(start) is CpuMode.FIRMWARE


@both_orders
def test_a_call_inside_rtas_left_an_lr_that_is_no_frame_of_the_kernel(form: FrameForm) -> None:
    machine = FirmwareMachine(form)
    assert names(machine, machine.in_rtas(lr=RTAS[0] + 0x800)) == [(None, "registers"), *REST]


def test_rtas_runs_big_endian_under_a_little_endian_kernel() -> None:
    """MSR[LE] is 0 there: it changes nothing of how the kernel's memory is read."""
    machine = FirmwareMachine(LITTLE)
    start = machine.in_rtas()
    assert not start.is_little_endian
    assert names(machine, start)[1:] == [("rtas_return_loc", "link_register"), *REST]


@both_orders
def test_r1_in_opal_ends_the_walk_in_firmware(form: FrameForm) -> None:
    machine = FirmwareMachine(form)
    start = machine.context(OPAL[0] + 0x4000, OPAL[0] + 0x1A0000, OPAL[0] + 0x5000, msr=REAL_MSR, trap=0x100)
    stack = machine.walk(start)
    assert [(frame.symbol, frame.address, frame.on.value) for frame in stack.frames] == [
        (None, "0000000030004000", "unknown")
    ]
    assert stack.stop_reason is StopReason.FIRMWARE
    assert machine.mode_of(start) is CpuMode.FIRMWARE


@both_orders
def test_opal_that_still_has_the_kernels_r1_was_called_by_lr(form: FrameForm) -> None:
    machine = FirmwareMachine(form)
    start = machine.context(OPAL[0] + 0x10, machine.own, machine.back.start, msr=REAL_MSR)
    assert names(machine, start)[:2] == [(None, "registers"), ("rtas_return_loc", "link_register")]


@both_orders
def test_the_first_byte_behind_firmware_is_not_its_own(form: FrameForm) -> None:
    machine = FirmwareMachine(form)
    for nip, mode in ((OPAL[0] + OPAL[1] - 4, CpuMode.FIRMWARE), (OPAL[0] + OPAL[1], CpuMode.KERNEL)):
        assert machine.mode_of(machine.context(nip, machine.own, msr=REAL_MSR)) is mode


@both_orders
def test_an_address_of_firmware_is_the_kernels_own_memory_while_addresses_are_translated(form: FrameForm) -> None:
    machine = FirmwareMachine(form)
    assert machine.mode_of(machine.context(RTAS[0] + 4, machine.own, msr=KERNEL_MSR)) is CpuMode.KERNEL


@both_orders
def test_firmware_whose_place_cannot_be_read_is_unknown_code(form: FrameForm) -> None:
    """The walk goes on by LR all the same."""
    machine = FirmwareMachine(form)
    machine.made.variables["rtas"] = machine.made.base + 0x2F000000
    start = machine.in_rtas()
    assert machine.mode_of(start) is CpuMode.KERNEL
    assert names(machine, start) == [(None, "registers"), ("rtas_return_loc", "link_register"), *REST]


@both_orders
@pytest.mark.parametrize("instruction", [0, 1, 2, 3, AFTER_CALL])
def test_kernel_text_in_real_mode_is_named_at_its_place_in_the_linear_map(form: FrameForm, instruction: int) -> None:
    """Its frames are those of translated code: the data flow is asked for the place that it has there."""
    machine = FirmwareMachine(form)
    has_frame = instruction >= 3
    own = machine.top - 32
    machine.frame(own, machine.top)
    lr = machine.worker.at(AFTER_CALL) - PAGE_OFFSET_64
    nip = machine.handler.at(instruction) - PAGE_OFFSET_64
    start = machine.context(nip, own if has_frame else machine.top, lr, msr=REAL_MSR)
    stack = machine.walk(start)
    assert (stack.frames[0].symbol, stack.frames[0].offset) == ("handler", 4 * instruction)
    assert stack.frames[0].address == f"{nip:016x}"
    from_memory = instruction == AFTER_CALL
    worker = ("worker", "back_chain" if from_memory else "link_register")
    assert [(frame.symbol, frame.trust.value) for frame in stack.frames[1:]] == [worker, REST[1]]
    assert stack.frames[1].address == f"{lr | (PAGE_OFFSET_64 if from_memory else 0):016x}"
    assert machine.mode_of(start) is CpuMode.KERNEL
