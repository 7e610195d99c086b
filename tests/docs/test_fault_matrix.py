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
        texts = {node.targets[0].id: node.value for node in tree.body if is_constant(node)}
        for node in tree.body:
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                    row = decorator.args[0]
                    row = texts[row.id] if isinstance(row, ast.Name) else row
                    test = f"{file.relative_to(TESTS)}::{node.name}"
                    found.setdefault(ast.literal_eval(row), []).append(test)
    return found


def is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
