"""The fault matrix in docs/operating.md: each row names the tests that prove it, and each such test has its row."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


def test_each_fault_of_the_matrix_names_the_tests_that_prove_it() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    matrix = text.partition("\n## Faults\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!fault |---)(.+?) \|.*\| (`.+`) \|$", matrix, re.MULTILINE)
    assert rows
    assert {fault: re.findall(r"`(.+?)`", tests) for fault, tests in rows} == marked_tests()


def marked_tests() -> dict[str, list[str]]:
    """Return the tests that are marked as proofs, `file::name`, by their row of the matrix."""
    found: dict[str, list[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        if "node_modules" in file.parts or "mark.fault(" not in (source := file.read_text(encoding="utf-8")):
            continue
        tree = ast.parse(source)
        texts = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for row in rows_of(node):
                    text = ast.literal_eval(texts[row.id] if isinstance(row, ast.Name) else row)
                    found.setdefault(text, []).append(f"{file.relative_to(TESTS)}::{node.name}")
    return found


def rows_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    """Return what the marks of a test name: texts, or names of them."""
    marks = [mark for mark in test.decorator_list if isinstance(mark, ast.Call)]
    return [mark.args[0] for mark in marks if ast.unparse(mark.func) == "pytest.mark.fault"]
