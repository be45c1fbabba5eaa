"""The lists of the rules: what ships is sound, and what users add is checked."""

import re
from pathlib import Path

import pytest

from crashbeam.vmcore.signature.names import FunctionName
from crashbeam.vmcore.signature.overrides import RulesError
from crashbeam.vmcore.signature.rules import ALIASES, NAME_LISTS, check_pattern, list_lines, load_rules, shipped_rules

SHIPPED = Path(__file__).resolve().parent.parent / "configs" / "signature"
LISTS = [*NAME_LISTS, ALIASES]


def write(folder: Path, **files: str) -> Path:
    """A user's folder of rules."""
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", LISTS)
def test_every_shipped_line_is_a_pattern_with_a_reason_in_a_group(name: str) -> None:
    lines = list(list_lines((SHIPPED / f"{name}.txt").read_text(encoding="utf-8"), name))
    assert lines
    for line in lines:
        check_pattern(line.pattern.split(" -> ")[0], line.at)
        assert line.group, line.at
        assert len(line.reason) > 2, line.at


@pytest.mark.parametrize("name", LISTS)
def test_shipped_lines_are_sorted_within_their_group(name: str) -> None:
    groups: dict[str, list[str]] = {}
    for line in list_lines((SHIPPED / f"{name}.txt").read_text(encoding="utf-8"), name):
        groups.setdefault(line.group, []).append(line.pattern)
    for group, patterns in groups.items():
        assert patterns == sorted(set(patterns)), group


def test_every_list_that_ships_is_read() -> None:
    assert {path.stem for path in SHIPPED.glob("*.txt")} == set(LISTS)


@pytest.mark.parametrize(
    ("name", "name_list"),
    [
        ("__crash_kexec", "crash_path"),
        ("panic", "crash_path"),
        ("hardware_interrupt_common_virt", "crash_path"),
        ("data_access_common_real", "crash_path"),
        ("Doorbell", "crash_path"),
        ("mpc85xx_smp_kexec_cpu_down", "crash_path"),
        ("do_enter_rtas", "crash_path"),
        ("spin_dump", "irrelevant"),
        ("do_raw_spin_lock", "irrelevant"),
        ("memcpy", "irrelevant"),
        ("start_kernel_thread", "terminators"),
        ("system_call", "terminators"),
        ("ppc_clone", "terminators"),
        ("system_call_exception", "terminators"),
        ("dev_queue_xmit", "prefix"),
        ("vfs_read", "anchors"),
        ("rtnl_lock", "victims"),
        ("rwsem_down_write_slowpath", "waits"),
        ("init_module", "generic_names"),
        ("lkdtm_BUG", "intentional"),
    ],
)
def test_a_function_is_on_its_list(name: str, name_list: str) -> None:
    assert shipped_rules().has(name_list, FunctionName(name, None))


@pytest.mark.parametrize("name", ["sysrq_handle_crash", "panicked_driver_write", "my_die", "unlock_everything", "wait"])
def test_a_function_that_merely_sounds_like_one_is_on_no_list(name: str) -> None:
    rules = shipped_rules()
    left_out = ("crash_path", "irrelevant", "terminators", "waits")
    assert not [name_list for name_list in left_out if rules.has(name_list, FunctionName(name, None))]


def test_a_function_of_a_module_is_left_out_only_if_it_is_named_with_it(tmp_path: Path) -> None:
    rules = load_rules(write(tmp_path, irrelevant="memcpy \\[mine\\]  # ours\n"))
    assert rules.has("irrelevant", FunctionName("memcpy", "mine"))
    assert not rules.has("irrelevant", FunctionName("memcpy", "another"))


def test_a_user_adds_to_the_lists_and_the_digest_tells(tmp_path: Path) -> None:
    rules = load_rules(write(tmp_path, irrelevant="[ours]\nour_(get|put)  # reference counts\n"))
    assert rules.has("irrelevant", FunctionName("our_put", None))
    assert rules.has("irrelevant", FunctionName("memcpy", None))
    assert rules.digest != shipped_rules().digest


def test_the_digest_is_of_what_the_lists_say_not_of_their_layout(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    digest = load_rules(write(one, prefix="aaa  # why\nbbb  # why\n")).digest
    assert digest == load_rules(write(other, prefix="# words\n[group]\nbbb    # another why\naaa  # why\n")).digest
    assert re.fullmatch("[0-9a-f]{32}", digest)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("foo(bar  # why", "no regular expression"),
        ("foo", "a line is PATTERN"),
        ("foo # why", "a line is PATTERN"),
        ("foo  #", "a line is PATTERN"),
        (".*  # why", "matches any name"),
        ("(a|b)*|.+  # why", "matches any name"),
        ("^foo  # why", "matches the whole name anyway"),
        ("foo$  # why", "matches the whole name anyway"),
        ("(?i)foo  # why", "named groups, references or flags"),
        ("(?P<a>foo)  # why", "named groups, references or flags"),
        ("(fo)\\1  # why", "named groups, references or flags"),
        ("x" * 2000 + "  # why", "more than 1024 characters"),
    ],
)
def test_a_bad_pattern_is_refused_with_file_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    folder = write(tmp_path, irrelevant=f"# ours\ngood  # why\n{line}\n")
    with pytest.raises(RulesError) as refused:
        load_rules(folder)
    assert str(refused.value).startswith(f"{tmp_path / 'irrelevant.txt'}:3: ")
    assert complaint in str(refused.value)


def test_an_alias_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"aliases\.txt:1: an alias is"):
        load_rules(write(tmp_path, aliases="foo  # why\n"))


def test_a_list_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="no such list"):
        load_rules(write(tmp_path, irelevant="foo  # why\n"))


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="holds no lists"):
        load_rules(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="No such file"):
        load_rules(tmp_path / "none")


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prefix.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RulesError, match="is not UTF-8"):
        load_rules(tmp_path)


def test_a_bad_table_of_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "oops.toml").write_text('[[format]]\nname = "x"\nclass = "no_such"\nstarts = ["Oops"]\n')
    with pytest.raises(RulesError, match=r"oops\.toml"):
        load_rules(tmp_path)
