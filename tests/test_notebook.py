"""docs/notebook.ipynb, run from its first cell to its last by a real Jupyter kernel."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs/notebook.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def outputs(folder: Path) -> list[Any]:
    """Everything the cells put out, in their order; a cell that raises fails here with its traceback."""
    small = {"NOTEBOOK_KIMG": "0.128", "NOTEBOOK_FACES": "80", "NOTEBOOK_FOLDER": "faces", "OMP_NUM_THREADS": "1"}
    private = {"IPYTHONDIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder), "XDG_CACHE_HOME": str(folder)}
    with pytest.MonkeyPatch.context() as patch:  # inherited by the kernel
        for name, value in (small | private).items():
            patch.setenv(name, value)
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        client.execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_it_trains_and_measures_and_reports(outputs: list[Any], folder: Path) -> None:
    outcome = json.loads((folder / "faces/run/outcome.json").read_text())
    assert (outcome["state"], outcome["nimg"]) == ("finished", 128)
    assert "Finished at 0.128 kimg" in printed(outputs)
    assert "metrics/swd" in printed(outputs)
    assert "metrics/msssim" in printed(outputs)
    assert (folder / "faces/run/report.html").stat().st_size > 10_000


def test_it_shows_a_batch_the_curves_before_and_after_samples_and_an_interpolation(outputs: list[Any]) -> None:
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 5


def test_the_stream_is_found_again_at_its_position(outputs: list[Any]) -> None:
    assert "position 32 same batch: True" in printed(outputs)


def test_nothing_is_installed_where_the_package_is_there(outputs: list[Any], folder: Path) -> None:
    assert not (folder / "constraints-here.txt").exists()


def test_the_file_holds_no_output_and_is_of_its_format() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
