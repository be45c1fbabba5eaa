"""The kinds of files of symbols."""

from enum import StrEnum


class FileKind(StrEnum):
    """What a file of symbols is."""

    VMLINUX = "vmlinux"
    SYSTEM_MAP = "system_map"
    PROFILE = "profile"
    OTHER = "other"
