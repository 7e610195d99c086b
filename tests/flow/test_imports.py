from pathlib import Path

import pytest

from flowpod.flow.load.late_imports import late_imports
from tests.support.flows import problems_of, write_flow


def found(folder: Path, **files: str) -> list[str]:
    write_flow(folder, "", {f"{name.replace('.', '/')}.py": text for name, text in files.items()})
    return [str(problem) for problem in late_imports(folder, ["a.py"])]


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    import no_such_module.inner",
        "async def f():\n    from no_such_module.inner import x",
        "class C:\n    def f(self):\n        if True:\n            import no_such_module.inner",
    ],
)
def test_late_import_of_a_missing_module_is_reported(tmp_path: Path, code: str) -> None:
    (problem,) = found(tmp_path, a=code)
    line = len(code.splitlines())
    assert problem == (
        f"a.py:{line}: no_such_module.inner is imported when the flow runs, and is not installed in Flowpod's environment"
    )


def test_modules_of_stand_ins_are_checked(tmp_path: Path) -> None:
    code = "def f():\n    from promptflow.core import tool\n    from promptflow.tools.aoai import chat"
    (problem,) = found(tmp_path, a=code)
    assert "promptflow.tools.aoai is imported" in problem


def test_imports_of_the_flows_own_files_are_checked(tmp_path: Path) -> None:
    files = {
        "a": "import b\ndef f():\n    from sub.c import g",
        "b": "import a, sub\ndef f():\n    import missing_1",
        "sub.__init__": "def f():\n    import missing_2",
        "sub.c": "def f():\n    import missing_3",
        "unused": "def f():\n    import missing_4",
    }
    assert sorted(line.partition(":")[0] for line in found(tmp_path, **files)) == [
        "b.py",
        "sub/__init__.py",
        "sub/c.py",
    ]


def test_all_imports_of_a_file_that_is_imported_late_are_late(tmp_path: Path) -> None:
    assert found(tmp_path, a="def f():\n    import b", b="import missing")[0].startswith("b.py:1: missing is")
    assert found(tmp_path, a="import b\ndef f():\n    import b", b="import missing") == []


@pytest.mark.parametrize(
    "code",
    [
        "import no_such_module",  # fails when the node is built
        "def f():\n    try:\n        import no_such_module\n    except ImportError: ...",
        "def f():\n    from . import x",
        "def f():\n    import json, os.path",
        "def f(:",
        "x = '\x00'",
    ],
)
def test_other_imports_are_not_reported(tmp_path: Path, code: str) -> None:
    assert found(tmp_path, a=code) == []
    assert late_imports(tmp_path, ["gone.py"]) == []


def test_warning_is_among_the_flows_problems(tmp_path: Path) -> None:
    dag = "nodes: [{name: n, type: python, source: {path: a.py}}]"
    (problem,) = problems_of(write_flow(tmp_path, dag, {"a.py": "def invoke():\n    import no_such_module"}))
    assert (problem.severity, problem.file, problem.line) == ("warning", "a.py", 2)


def test_files_of_nodes_inside_a_batch_are_checked(tmp_path: Path) -> None:
    dag = "nodes: [{name: b, type: batch, inputs: {x: [1]}, nodes: [{name: n, type: python, source: {path: a.py}}]}]"
    (problem,) = problems_of(write_flow(tmp_path, dag, {"a.py": "def invoke():\n    import no_such_module"}))
    assert problem.message.startswith("no_such_module is imported when the flow runs")
