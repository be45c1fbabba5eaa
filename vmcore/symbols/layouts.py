"""The structs and members that crashbeam reads from a kernel's memory, and where a kernel build keeps them."""

from collections.abc import Mapping

from msgspec import Struct


class Field(Struct, frozen=True):
    """A member of a struct: ``offset`` from the start of the struct and ``size``, both in bytes.

    ``count`` is the number of elements if the member is an array (``size`` is that of all of them), else ``None``.
    """

    offset: int
    size: int
    count: int | None = None


class StructLayout(Struct, frozen=True):
    """A struct, union or typedef of one kernel build: its size in bytes, and the members that were wanted and found."""

    size: int
    fields: Mapping[str, Field]


WantedLayouts = Mapping[str, tuple[str, ...]]
"""Names of structs, unions or typedefs, and the members wanted of each; dots lead into members that are structs."""

LAYOUTS: WantedLayouts = {
    "task_struct": (
        "thread_info.cpu",
        "thread_info.flags",
        "thread_info.preempt_count",
        "cpu",
        "stack",
        "pid",
        "tgid",
        "comm",
        "tasks",
        "thread.ksp",
        "thread.regs",
        "flags",
        "on_cpu",
        "mm",
        "active_mm",
        "worker_private",
        "set_child_tid",
    ),
    "kthread": ("threadfn",),
    "thread_info": ("cpu", "flags", "task", "preempt_count"),
    "thread_union": (),
    "pt_regs": (
        "gpr",
        "nip",
        "msr",
        "orig_gpr3",
        "ctr",
        "link",
        "xer",
        "ccr",
        "mq",
        "softe",
        "trap",
        "dar",
        "dear",
        "dsisr",
        "esr",
        "result",
    ),
    "elf_prstatus": ("common.pr_pid", "pr_pid", "pr_reg", "pr_fpvalid"),
    "note_buf_t": (),
    "hrtimer_cpu_base": ("expires_next", "clock_base"),
    "hrtimer_clock_base": ("running",),
    "hrtimer": ("node.expires", "function"),
    "rq": ("curr", "idle"),
    "cpumask": (),
    "pgd_t": (),
    "p4d_t": (),
    "pud_t": (),
    "pmd_t": (),
    "pte_t": (),
    "module": (
        "state",
        "list",
        "list.next",
        "name",
        "mem",
        "core_layout",
        "init_layout",
        "data_layout",
        "core_layout.base",
        "core_layout.size",
        "core_layout.text_size",
        "init_layout.base",
        "init_layout.size",
        "init_layout.text_size",
        "module_core",
        "module_init",
        "core_size",
        "init_size",
        "core_text_size",
        "init_text_size",
        "kallsyms",
        "symtab",
        "num_symtab",
        "strtab",
        "taints",
        "build_id",
        "btf_data",
        "btf_data_size",
    ),
    "module_memory": ("base", "size"),
    "module_layout": ("base", "size", "text_size"),
    "mod_kallsyms": ("symtab", "num_symtab", "strtab", "typetab"),
    "list_head": ("next", "prev"),
    "uts_namespace": ("name",),
    "new_utsname": ("sysname", "nodename", "release", "version", "machine", "domainname"),
    "paca_struct": (
        "lock_token",
        "paca_index",
        "hw_cpu_id",
        "cpu_start",
        "__current",
        "kstack",
        "saved_r1",
        "emergency_sp",
        "mc_emergency_sp",
        "nmi_emergency_sp",
        "in_mce",
        "in_nmi",
        "irq_soft_mask",
        "kexec_state",
        "data_offset",
    ),
    "rtas_t": ("entry", "base", "size"),
    "opal": ("base", "entry", "size"),
    "cpu_spec": ("cpu_name", "cpu_features", "mmu_features", "platform"),
    "machdep_calls": ("name",),
    "printk_ringbuffer": ("desc_ring", "text_data_ring", "fail"),
    "prb_desc_ring": ("count_bits", "descs", "infos", "head_id", "tail_id"),
    "prb_desc": ("state_var", "text_blk_lpos", "text_blk_lpos.begin", "text_blk_lpos.next"),
    "prb_data_ring": ("size_bits", "data", "head_lpos", "tail_lpos"),
    "prb_data_block": ("id", "data"),
    "printk_info": ("seq", "ts_nsec", "text_len", "facility", "flags", "level", "caller_id", "dev_info"),
    "printk_log": ("ts_nsec", "len", "text_len", "dict_len", "facility", "caller_id"),
    "log": ("ts_nsec", "len", "text_len", "dict_len"),
    "timekeeper": ("xtime_sec",),
}
"""What is compiled into a profile. What a kernel lacks is absent: ``task_struct.cpu`` left 5.x kernels, ``module.mem``
came with 6.4, ``module.core_layout`` with 4.5, ``dear`` and ``esr`` (``dar`` and ``dsisr`` of BookE) with 5.16."""
