"""A notebook: plans show themselves, migrations show a bar, `await` works."""

import sys

import pytest
from support import rows

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

REFUSED = """
try:
    relance.migrate(place, relance.cast("text", "int64"))
except relance.RefusedError as error:
    print(error.findings[0].count)
"""

CELLS = [
    "import relance\nchanges = [relance.add('category', 'string', default='general')]\nplace = (DB, 'documents')",
    "plan = relance.plan(place, changes)\nplan",
    "done = relance.migrate(place, changes, progress=True)\nprint(done.ended)",
    "import lancedb\nlancedb.connect(DB).open_table('documents').to_arrow()['category'].unique().to_pylist()",
    "(await relance.status_async(place)).version",
    "(await relance.rollback_async(place)).restored",
    REFUSED,
    "print(plan)",
]


@pytest.fixture
def cells(db):
    """The cells of a notebook after it was run."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(f"DB = {db!r}"), *map(nbformat.v4.new_code_cell, CELLS)]
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": db}})
    client.execute()
    return notebook.cells[1:]


def said(cell, name: str) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == name)


def shown(cell) -> dict:
    (data,) = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return data


@pytest.mark.skipif(sys.platform == "win32", reason="kernels start otherwise there")
def test_a_notebook(db, cells):
    _, plan, migrate, values, status, rollback, refused, printed = cells
    page = shown(plan)["text/html"]
    assert "<table>" in page and "category" in page and "columns" in page and "Plan(" not in page
    assert said(migrate, "stdout") == "swapped\n"
    shows_a_widget = any(output.output_type == "display_data" for output in migrate.outputs)
    assert shows_a_widget or "documents" in said(migrate, "stderr")
    assert shown(values)["text/plain"] == "['general']"
    assert shown(status)["text/plain"] == "2"
    assert shown(rollback)["text/plain"] == "1"
    assert said(refused, "stdout") == "500\n"
    assert "category" in said(printed, "stdout")
    assert "category" not in rows(db)[0]
