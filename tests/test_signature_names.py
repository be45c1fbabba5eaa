"""Function names as they enter a signature."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.signature.names import FunctionName, normalise
from crashbeam.vmcore.signature.rules import shipped_rules

SUFFIXES = (".isra.0", ".part.12", ".constprop.3", ".cold", ".cold.7", ".lto_priv.0", ".llvm.8812345", ".localalias")
WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True).filter(
    lambda word: not word.startswith(("sys_", "ksys"))
)


@pytest.mark.parametrize(
    ("given_name", "function", "module"),
    [
        ("ext4_writepages+0x7a4/0x1060 [ext4]", "ext4_writepages", "ext4"),
        (".ext4_writepages+0x7a4/0x1060", "ext4_writepages", None),
        (".L123", "L123", None),
        (".17", ".17", None),
        ("txUpdateMap.isra.0.part.3", "txUpdateMap", None),
        ("call_timer_fn.constprop.0", "call_timer_fn", None),
        ("a_name.with.dots", "a_name.with.dots", None),
        ("probe [snd-hda-intel]", "probe", "snd_hda_intel"),
        ("probe [ipr(OE)]", "probe", "ipr"),
        ("probe [ipr 0f3c9a7b5d1e2f30]", "probe", "ipr"),
        ("0000001a.plt_call.memcpy", "memcpy", None),
        ("00000045.long_branch.ext4_map_blocks", "ext4_map_blocks", None),
        ("SyS_write", "sys_write", None),
        ("SYSC_write", "sys_write", None),
        ("__se_sys_write", "sys_write", None),
        ("__do_sys_write", "sys_write", None),
        ("ksys_write", "sys_write", None),
        ("compat_sys_ioctl", "sys_ioctl", None),
        ("__se_compat_sys_ioctl", "sys_ioctl", None),
        ("ppc_clone", "ppc_clone", None),
        ("__schedule", "__schedule", None),
        ("sysfs_kf_write", "sysfs_kf_write", None),
        ("bpf_prog_6deef7357e7b4530_filter", "bpf_prog_filter", None),
        ("bpf_prog_6deef7357e7b4530", "bpf_prog", None),
    ],
)
def test_a_name_loses_what_builds_add_to_it(given_name: str, function: str, module: str | None) -> None:
    assert normalise(given_name) == FunctionName(function, module)


@pytest.mark.parametrize("given_name", ["", " ", "0xc0004567", "+0x10/0x20"])
def test_what_names_no_function_is_none(given_name: str) -> None:
    assert normalise(given_name) is None


@given(WORDS, st.lists(st.sampled_from(SUFFIXES), max_size=4))
def test_suffixes_of_compilers_change_no_name(word: str, suffixes: list[str]) -> None:
    assert normalise(word + "".join(suffixes)) == normalise(word)


@given(st.text(max_size=600))
def test_any_text_is_a_name_or_none_and_stays_what_it_became(text: str) -> None:
    once = normalise(text)
    if once is not None and once.module is None and "[" not in once.function:
        again = normalise(once.function)
        assert again is None or len(again.function) <= len(once.function) + len("sys_")


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (["_raw_spin_lock", "_raw_spin_lock_irqsave", "_raw_spin_lock_bh"], "spin_lock"),
        (["mutex_lock", "__mutex_lock", "mutex_lock_nested"], "mutex_lock"),
        (["___do_page_fault", "__do_page_fault", "do_page_fault"], "do_page_fault"),
        (["smp_call_function_many", "smp_call_function_many_cond"], "smp_call_function"),
    ],
)
def test_one_function_of_several_names_has_one(names: list[str], one: str) -> None:
    rules = shipped_rules()
    assert {rules.normalise(name, None) for name in names} == {FunctionName(one, None)}


def test_a_function_of_a_module_has_no_alias() -> None:
    assert shipped_rules().normalise("mutex_lock", "mine") == FunctionName("mutex_lock", "mine")
