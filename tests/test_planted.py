"""The suite notices the bugs of planted.py: the tests named there fail with the bug and pass without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import BUGS, Bug, copy, plant, run


def test_the_list_is_a_list_of_different_bugs() -> None:
    assert len(BUGS) >= 30
    assert len({bug.name for bug in BUGS}) == len({(bug.file, bug.old, bug.new) for bug in BUGS}) == len(BUGS)
    assert {bug.file.partition("/")[0] for bug in BUGS} == {"compiler", "runtime"}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed(bug: Bug, tmp_path: Path) -> None:
    """Exactly the exit status of failing tests: an expression that selects none, or a copy that cannot be imported, is no notice."""
    pytest.importorskip("torch", reason="torch is the reference of many of the tests that notice, and is not installed")
    wrong = plant(bug, tmp_path)
    assert not wrong, wrong
    done = run(tmp_path, bug.selection())
    assert done.returncode == 1, f"pytest {' '.join(bug.selection())} ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-1000:]}"


@pytest.mark.parametrize("chosen", [True, False], ids=["chosen", "whole"])
def test_without_a_bug_the_same_tests_pass(chosen: bool, tmp_path: Path) -> None:
    """From an unchanged copy: what fails with a bug fails because of it. Tests that -k chooses run under all expressions together."""
    pytest.importorskip("torch", reason="torch is the reference of many of the tests that notice, and is not installed")
    copy(tmp_path)
    bugs = [bug for bug in BUGS if bool(bug.k) == chosen]
    tests = dict.fromkeys(f"tests/{test}" for bug in bugs for test in bug.tests.split())
    done = run(tmp_path, [*tests, *(["-k", " or ".join(f"({bug.k})" for bug in bugs)] if chosen else [])])
    assert done.returncode == 0, done.stdout[-3000:]


def test_an_entry_that_is_out_of_date_says_so(tmp_path: Path) -> None:
    assert "stands 0 times in compiler/source.py" in plant(Bug("gone", "compiler/source.py", "no such text", "", ""), tmp_path)
