"""The class and title of every crash of the corpus, from its serial console, against what is known of it."""

import json
from pathlib import Path

import pytest

from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.oops import find_oopses, parse_lines
from crashbeam.vmcore.title import titles_of

CLASSES = (
    ("BUG: Kernel NULL pointer dereference", CrashClass.NULL_DEREF),
    ("NULL write", CrashClass.NULL_DEREF),
    ("sysrq", CrashClass.SYSRQ_CRASH),
    ("kernel BUG", CrashClass.BUG),
    ("BUG()", CrashClass.BUG),
    ("crashlab: panic requested", CrashClass.PANIC),
    ("panic()", CrashClass.PANIC),
    ("instruction fetch", CrashClass.BAD_JUMP),
    ("stale pointer", CrashClass.BAD_JUMP),
    ("soft lockup", CrashClass.SOFT_LOCKUP),
)
"""What ``title`` of truth.json says, and the class: the first that it has in it."""
BY_SCENARIO = {
    "be-qemu-dump": CrashClass.NULL_DEREF,
    "le-kdump-real": CrashClass.NULL_DEREF,
    "le-lostnote-sysrq": CrashClass.SYSRQ_CRASH,
    "le-qemu-dump": CrashClass.NULL_DEREF,
}
"""Where the title of truth.json begins with how the dump was made."""
TITLES = {
    CrashClass.NULL_DEREF: "Kernel NULL pointer dereference in crashlab_level_c",
    CrashClass.SYSRQ_CRASH: "sysrq: crash triggered on purpose",
    CrashClass.BUG: "kernel BUG in crashlab_level_c",
    CrashClass.PANIC: "panic: crashlab: panic requested, arg NUM",
    CrashClass.BAD_JUMP: "Bad kernel instruction fetch, called from crashlab_level_c",
    CrashClass.SOFT_LOCKUP: "soft lockup in _raw_spin_lock",
}
OTHER_FUNCTION = {"le-extirq": "crashext_poll_queue", "le-wild": "crashext_poll_queue"}


@pytest.mark.corpus
def test_class_title_and_cpu_of_every_console(corpus: Path) -> None:
    wrong = []
    consoles = sorted(corpus.glob("ppc*/*/dmesg.txt"))
    for path in consoles:
        name = path.parent.name
        truth = json.loads((path.parent / "truth.json").read_text(encoding="utf-8"))
        class_ = BY_SCENARIO.get(name) or next(class_ for words, class_ in CLASSES if words in truth["title"])
        oops = find_oopses(parse_lines(path.read_text(errors="replace").splitlines()))[0]
        title = titles_of(oops, oops.class_, None, None)[0].partition(" [")[0]
        expected = TITLES[class_].replace("crashlab_level_c", OTHER_FUNCTION.get(name, "crashlab_level_c"))
        found = (oops.class_, title, oops.cpu)
        if found != (class_, expected, truth["panic_cpu"]):
            wrong.append(f"{name}: {found}")
    assert wrong == []
    assert len(consoles) == 41
