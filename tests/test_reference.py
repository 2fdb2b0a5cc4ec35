"""The reference page says what the operation table says."""

import importlib.util
from pathlib import Path

from nnc.compiler.operation import TABLE

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_what_the_table_gives():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "reference.md").read_text() == module.reference(), "run python docs/reference.py"
    assert {kind for kind, _ in TABLE} == module.SECTIONS.keys()


def test_every_operation_says_what_it_does():
    for operation in TABLE.values():
        assert operation.doc, operation.name
        for name, field in operation.params.model_fields.items():
            assert field.description, f"{operation.name}({name})"
