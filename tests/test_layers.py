"""The house: imports point down, never round, and the lower floors stay light."""

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import crashbeam

REPO = Path(__file__).resolve().parent.parent

FOLDERS = ("schemas", "vmcore", "workers", "transforms", "pipeline")
"""Lowest first: each may import what stands before it, and itself."""

LIGHT = ("schemas", "vmcore", "workers")
HEAVY = ("apache_beam", "pyarrow", "numpy", "duckdb")
MAX_LINES = 500

FLOORS: tuple[tuple[str, ...], ...] = (
    ("byte_source", "limits", "errors", "stage_mark"),
    ("containers", "notes", "vmcoreinfo", "vmcoreinfo_search"),
    ("symbols",),
    ("memory", "arch", "registers"),
    (
        *("kernel", "tasks", "stacks", "modules", "paca", "firmware", "taint"),
        *("log_line", "dmesg", "oops"),
    ),
    ("note_map", "unwind", "recover", "diagnosis", "trace_check"),
    (
        *("dump", "own_symbols", "facts", "crash_log", "lost_cpus", "title", "signature"),
        *("text", "text_report", "trim"),
        *("parse_headers", "map_notes", "unwind_stacks", "build_report", "stages"),
    ),
)
"""The floors of vmcore/, lowest first. Rooms of one floor may use each other, as long as they do not go round."""

OF_RECORDS_ALONE = "schemas"
"""Where values are dataclasses: elsewhere they are Structs, which cost ``show`` no time to define."""

GROUND_FOR_ALL = "facts"
"""Values that travel between the stages: any floor may give or take them."""

MODULES = {
    ".".join(("crashbeam", *path.relative_to(REPO).with_suffix("").parts)).removesuffix(".__init__"): path
    for folder in FOLDERS
    for path in sorted((REPO / folder).rglob("*.py"))
}


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it, but for those that only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    type_checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in type_checking:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else node.module


GRAPH = {module: sorted(set(imports_of(path))) for module, path in MODULES.items()}


def folder_of(module: str) -> str:
    """The folder that a module of crashbeam stands in."""
    return module.split(".")[1]


def floor_of(module: str) -> int:
    """The floor of a module of vmcore/."""
    room = module.split(".")[2]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def inner_imports(module: str) -> list[str]:
    """What a module imports from crashbeam's folders."""
    return [target for target in GRAPH[module] if target.startswith("crashbeam.") and target in MODULES]


def test_there_are_modules_in_every_folder_that_exists() -> None:
    assert {folder_of(module) for module in MODULES} == {
        folder for folder in FOLDERS if list((REPO / folder).rglob("*.py"))
    }


def test_values_are_dataclasses_among_the_records_and_structs_elsewhere() -> None:
    dataclasses, structs = set(), set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                if any("'dataclass'" in ast.dump(decorator) for decorator in node.decorator_list):
                    dataclasses.add(folder_of(module))
                if any("'Struct'" in ast.dump(base) for base in node.bases):
                    structs.add(folder_of(module))
    assert dataclasses == {OF_RECORDS_ALONE}
    assert structs == {folder for folder in FOLDERS if folder != OF_RECORDS_ALONE}


def test_imports_point_down_between_folders() -> None:
    upward = [
        f"{module} -> {target}"
        for module in MODULES
        for target in inner_imports(module)
        if FOLDERS.index(folder_of(target)) > FOLDERS.index(folder_of(module))
    ]
    assert upward == []


def test_every_room_of_vmcore_has_its_floor() -> None:
    known = {room for rooms in FLOORS for room in rooms}
    rooms = {module.split(".")[2] for module in MODULES if module.startswith("crashbeam.vmcore.")}
    assert rooms <= known


def test_imports_point_down_between_the_floors_of_vmcore() -> None:
    rooms = [module for module in MODULES if module.startswith("crashbeam.vmcore.")]
    upward = [
        f"{module} -> {target}"
        for module in rooms
        for target in inner_imports(module)
        if target in rooms and target.split(".")[2] != GROUND_FOR_ALL and floor_of(target) > floor_of(module)
    ]
    assert upward == []


def test_imports_never_go_round() -> None:
    finished: set[str] = set()

    def follow(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module in finished:
            return
        for target in inner_imports(module):
            if target != module:
                follow(target, (*above, module))
        finished.add(module)

    for module in MODULES:
        follow(module, ())


def test_the_lower_folders_name_no_heavy_library() -> None:
    heavy = [
        f"{module} -> {target}"
        for module, targets in GRAPH.items()
        if folder_of(module) in LIGHT
        for target in targets
        if target.split(".")[0] in HEAVY
    ]
    assert heavy == []


def test_every_import_of_ours_is_written_from_the_root() -> None:
    bare = [
        f"{module} -> {target}"
        for module, targets in GRAPH.items()
        for target in targets
        if target.split(".")[0] in FOLDERS
    ]
    assert bare == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_loads_nothing_under_a_bare_name_and_a_lower_one_nothing_heavy(folder: str) -> None:
    modules = [module for module in MODULES if folder_of(module) == folder and not module.endswith("__main__")]
    unwanted = (*FOLDERS, *HEAVY) if folder in LIGHT else FOLDERS
    program = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
print(sorted(name for name in sys.modules if name.split(".")[0] in {unwanted!r}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPO)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", crashbeam.__all__)
def test_every_name_of_the_public_api_is_there(name: str) -> None:
    assert getattr(crashbeam, name).__name__ == name


def test_a_name_outside_the_public_api_is_not() -> None:
    assert not hasattr(crashbeam, "no_such_name")


def test_the_public_api_alone_loads_nothing() -> None:
    program = "import sys, crashbeam; print([name for name in sys.modules if name.startswith('crashbeam.')])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPO)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES)
def test_a_file_has_one_subject_and_so_an_end(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.slow
def test_the_wheel_holds_everything_below_one_name_and_the_data(tmp_path: Path) -> None:
    copied = ("crashbeam", *FOLDERS, "configs", "pyproject.toml", "README.md", "LICENSE")
    for name in copied:
        copy = shutil.copy if (REPO / name).is_file() else partial(shutil.copytree, symlinks=True)
        copy(REPO / name, tmp_path / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path / "dist"), str(tmp_path)], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {str(path.relative_to(REPO)) for path in MODULES.values()}
    data = {str(path.relative_to(REPO)) for path in (REPO / "schemas" / "json").glob("*.json")}
    data |= {str(path.relative_to(REPO)) for path in (REPO / "configs").rglob("*") if path.is_file()}
    assert {f"crashbeam/{name}" for name in shipped | data} | {"crashbeam/__init__.py", "crashbeam/py.typed"} == {
        name for name in names if ".dist-info/" not in name
    }


def test_the_public_api_analyses_a_dump(golden: Path) -> None:
    (dump,) = crashbeam.list_inputs([str(golden / "b_sysrq.kdump")]).inputs
    record = crashbeam.analyse(dump, crashbeam.AnalysisOptions(symbols=(str(golden),)))
    assert isinstance(record, crashbeam.CrashReport)
    assert record.panic.comm == "bash"
