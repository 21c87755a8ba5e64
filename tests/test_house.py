"""The house rules that a machine can hold: rooms, sizes, names, and what no file may contain.

Every check is also run on a copy of the house in which one fault was planted: a check that cannot
fail holds nothing.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1]
LONGEST_FILE = 400  # lines
EMPTY_NAMES = {"utils", "helpers", "common", "base", "manager", "misc", "registry", "factory"}
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec"}
UNSAFE_METHODS = {"read_pickle", "to_pickle"}
UNSAFE_SETTINGS = {("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False)}
ENVIRONMENT = {"environ", "getenv", "putenv"}


def package(house: Path) -> list[Path]:
    return sorted((house / "p5_t5").rglob("*.py"))


def program(house: Path) -> list[Path]:
    """Everything that runs on a user's machine."""
    return [*package(house), house / "train.py", *sorted((house / "data").glob("*.py"))]


def long_files(house: Path) -> list[str]:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in package(house)}
    return [
        f"{path.relative_to(house)}: {lines} lines, at most {LONGEST_FILE}: split the idea"
        for path, lines in lengths.items()
        if lines > LONGEST_FILE
    ]


def empty_names(house: Path) -> list[str]:
    folders = ("p5_t5", "data", "benchmarks", "examples", "tests")
    paths = [path for folder in folders for path in (house / folder).rglob("*.py")]
    return [
        f"{path.relative_to(house)}: the name says nothing; use a noun of the field"
        for path in paths
        for part in path.relative_to(house).with_suffix("").parts
        if part.removeprefix("test_") in EMPTY_NAMES
    ]


def unsafe_code(house: Path) -> list[str]:
    return [
        f"{path.relative_to(house)}:{line}: {fault}"
        for path in program(house)
        for line, fault in unsafe_nodes(ast.parse(path.read_text("utf-8")))
    ]


def unsafe_nodes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Find code that runs what a file says: pickles, eval, remote code."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [name.name for name in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                modules = []
        for module in modules:
            if module.split(".")[0] in UNSAFE_MODULES:
                yield node.lineno, f"imports {module}"
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in UNSAFE_CALLS:
                yield node.lineno, f"calls {name}"
            case ast.Attribute(attr=name) if name in UNSAFE_METHODS:
                yield node.lineno, f"uses {name}"
            case ast.keyword(arg=name, value=ast.Constant(value=bool(value))) if (
                name,
                value,
            ) in UNSAFE_SETTINGS:
                yield node.lineno, f"sets {name}={value}"


def environment_reads(house: Path) -> list[str]:
    return [
        f"{path.relative_to(house)}:{node.lineno}: reads the environment; pass an argument instead"
        for path in package(house)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
    ]


def broken_contracts(house: Path) -> list[str]:
    """Run import-linter with the contracts of pyproject.toml; its output is the one complaint."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=house,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return [run.stdout + run.stderr] if run.returncode else []


CHECKS = [long_files, empty_names, unsafe_code, environment_reads, broken_contracts]


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_is_in_order(check) -> None:
    complaints = check(HOUSE)
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("check", "path", "code", "complaint"),
    [
        (long_files, "p5_t5/data/long.py", "x = 1\n" * (LONGEST_FILE + 1), "long.py: 401 lines"),
        (empty_names, "p5_t5/modeling/utils.py", "", "utils.py: the name"),
        (empty_names, "tests/test_helpers.py", "", "test_helpers.py: the name"),
        (empty_names, "p5_t5/common/tree.py", "", "tree.py: the name"),
        (unsafe_code, "data/own.py", "import pickle", "own.py:1: imports pickle"),
        (unsafe_code, "data/own.py", "from dill import load", "imports dill"),
        (unsafe_code, "train.py", "x = eval('1')", "train.py:1: calls eval"),
        (unsafe_code, "p5_t5/own.py", "f(trust_remote_code=True)", "sets trust_remote_code=True"),
        (unsafe_code, "p5_t5/own.py", "\nload(x, allow_pickle=True)", "own.py:2: sets allow_p"),
        (unsafe_code, "p5_t5/own.py", "frame.to_pickle(x)", "uses to_pickle"),
        (environment_reads, "p5_t5/own.py", "import os\nos.environ['X']", "own.py:2: reads"),
        (broken_contracts, "p5_t5/data/own.py", "from p5_t5 import prompting", "p5_t5.data.own"),
        (broken_contracts, "p5_t5/data/own.py", "import p5_t5.pipeline", "p5_t5.data.own"),
        (broken_contracts, "p5_t5/decoding/own.py", "import p5_t5.evaluation", "decoding.own"),
        (broken_contracts, "p5_t5/decoding/own.py", "import accelerate", "accelerate"),
        (broken_contracts, "p5_t5/arguments.py", "import p5_t5.data.splits", "p5_t5.arguments"),
    ],
)
def test_a_planted_fault_is_found(check, path: str, code: str, complaint: str, tmp_path) -> None:
    house = copied_house(tmp_path)
    assert not check(house)
    planted = house / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(code)
    (found,) = check(house)
    assert complaint in found


@pytest.mark.parametrize("code", ["model.eval()", "f(trust_remote_code=False)", "evaluate('x')"])
def test_harmless_code_is_let_through(code: str) -> None:
    assert not list(unsafe_nodes(ast.parse(code)))


def copied_house(folder: Path) -> Path:
    shutil.copy(HOUSE / "pyproject.toml", folder)
    shutil.copy(HOUSE / "train.py", folder)
    shutil.copytree(HOUSE / "p5_t5", folder / "p5_t5")
    for name in ("data", "tests"):
        (folder / name).mkdir()
    return folder
