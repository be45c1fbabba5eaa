"""Signatures of real crashes: one bug has one id, in whichever container, word size and kernel build it is met."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_inputs
from crashbeam.schemas.codes import Grade, SymbolNames
from crashbeam.schemas.crash_report import CrashReport, Signature
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.rules import shipped_rules
from crashbeam.vmcore.stages import analyse
from tests.b_cubed import b_cubed
from tests.shared_corpus import find_shared
from tests.signing import reports_of_dumps

GOLDEN = Path(__file__).parent / "golden"
NULL = ("a_hardirq", "c_null_module", "d2_nested", "d3_softnull_offline", "k_recurse", "n_61_null", "n2_61_extirq")
SAME_FAULT = (
    (*NULL, "o_ipi", "p_extirq", "p3_extirq_softirq", "be-hardirq", "be-null", "be-radix4k", "le-hardirq"),
    (
        "b_sysrq",
        "f_offline",
        "g2_irqofftimer",
        "h_lostnote_sysrq",
        "i_lostnote_busy",
        "m_userbusy",
        "le-sysrq",
        "be-sysrq",
    ),
    ("d_softirq", "g_irqoff", "be-softirq"),
    ("e_bug", "be-irqoff", "le-offline"),
    ("j_badjump",),
    ("l_spinlock",),
    ("le-extirq",),
    ("le-wild",),
)
"""Crashes of one fault each: of modules and built in, 32 and 64 bit, 6.1 and 6.12, both byte orders, QEMU's too."""


@cache
def golden_reports() -> Mapping[str, CrashReport]:
    """Of every golden dump, by its scenario."""
    options = AnalysisOptions((str(GOLDEN),), None)
    records = {Path(dump.paths[0]).stem: analyse(dump, options) for dump in list_inputs([str(GOLDEN)]).inputs}
    return {name: record for name, record in records.items() if isinstance(record, CrashReport)}


@cache
def golden_signatures() -> Mapping[str, Signature]:
    """Of every golden dump, by its stacks alone, without its log."""
    reports = golden_reports()
    return {name: sign(replace(reports[name], dmesg=None), shipped_rules()).signature for name in reports}


def test_a_stored_report_gives_the_signature_that_it_was_stored_with() -> None:
    for name, report in golden_reports().items():
        signed = sign(report, shipped_rules())
        assert report.signature == signed.signature, name
        assert (report.panic.title, report.panic.alternative_titles) == (signed.title, signed.alternative_titles), name


@pytest.mark.parametrize("scenarios", SAME_FAULT, ids=lambda scenarios: scenarios[0])
def test_one_fault_has_one_id(scenarios: tuple[str, ...]) -> None:
    found = golden_signatures()
    assert len({found[name].id for name in scenarios}) == 1
    others = [name for others in SAME_FAULT if others != scenarios for name in others]
    assert found[scenarios[0]].id not in {found[name].id for name in others}


def test_the_same_fault_in_another_context_is_another_narrow_bucket() -> None:
    found = golden_signatures()
    contexts = ("c_null_module", "a_hardirq", "d3_softnull_offline", "o_ipi", "p_extirq")
    assert len({found[name].narrow for name in contexts}) == len(contexts)
    assert found["o_ipi"].narrow == found["le-hardirq"].narrow
    assert found["p_extirq"].narrow == found["n2_61_extirq"].narrow


def test_the_panicking_cpu_without_a_note_and_a_log_is_unattributed() -> None:
    found = golden_signatures()["i2_lostnote_idlepanic"]
    if found.blamed.cpu is not None and found.frames:
        assert found.grade is not Grade.A
    else:
        assert found.grade is Grade.D


def test_crashes_on_purpose_are_marked_and_no_others() -> None:
    marked = {name for name, found in golden_signatures().items() if found.intentional}
    assert marked >= set(SAME_FAULT[1])
    assert not marked & {name for others in (SAME_FAULT[0], *SAME_FAULT[2:]) for name in others}


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.parametrize("symbols", ["vmlinux", "none"])
def test_the_buckets_of_the_corpus_fit_its_labels(corpus: Path, tmp_path: Path, symbols: str) -> None:
    shared = find_shared()
    assert shared is not None
    labels = json.loads((shared / "corpus" / "labels.json").read_text(encoding="utf-8"))
    kernels = corpus / "kernels" if symbols == "vmlinux" else tmp_path / "no_symbols"
    (tmp_path / "no_symbols").mkdir()
    folders = [corpus / "ppc32", corpus / "ppc64"]
    ids, narrow = [], []
    for scenario, report in reports_of_dumps(folders, kernels, tmp_path / "profiles"):
        assert (report.kernel.symbols.names is SymbolNames.VMLINUX) == (symbols == "vmlinux")
        found = sign(report, shipped_rules()).signature
        ids.append((found.id, labels[scenario]["fault"]))
        narrow.append((found.narrow, labels[scenario]["context"]))
    assert len(ids) >= 60
    fault, context = b_cubed(ids), b_cubed(narrow)
    assert (fault.precision, fault.recall) == (1.0, 1.0)
    assert context.precision == 1.0
    assert context.f1 >= 0.98
