"""The package as a library: its names, its page and its notebook."""

import subprocess
import sys

import nbformat
import pytest
from apps import ROOT
from nbclient import NotebookClient
from runs import finished_run

import alexnet_jax

NAMES = """
import sys, alexnet_jax
assert not {"jax", "tensorflow", "matplotlib"} & sys.modules.keys()
for name in alexnet_jax.__all__:
    getattr(alexnet_jax, name)
from absl import flags
assert not flags.FLAGS.is_parsed()
assert "checkpoint" not in flags.FLAGS
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""


def run(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, **options
    )


def test_importing_parses_no_flags_and_starts_no_device():
    done = run("-c", NAMES, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_loading_a_run_prints_nothing():
    words = f"import alexnet_jax; alexnet_jax.load_run({str(finished_run())!r})"
    done = run("-c", words, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_name_is_documented():
    assert {"AlexNet", "load_run", "make_program"} <= set(alexnet_jax.__all__)
    for name in alexnet_jax.__all__:
        assert getattr(alexnet_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="load_ran"):
        _ = alexnet_jax.load_ran


def test_the_api_page_is_made_without_warnings(tmp_path):
    done = run("-W", "error", "-m", "pdoc", "-o", tmp_path, "alexnet_jax", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()
    page = (tmp_path / "alexnet_jax.html").read_text()
    for name in alexnet_jax.__all__:
        assert f'id="{name}"' in page


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS")  # one device, as for most readers
    notebook = nbformat.read(ROOT / "examples" / "library.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    (trained,) = [c for c in notebook.cells if "train(config, folder)" in c.source]
    assert '"3000", "300"' in trained.source
    trained.source = trained.source.replace("3000", "320")  # images to train on
    NotebookClient(notebook, timeout=300).execute(cwd=tmp_path)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    texts = "".join(o.get("text", "") for o in outputs)
    assert "60,965,224 parameters" in texts
    assert "{'conv1': (300, 15, 15, 32), 'fc7': (300, 512)}" in texts
    assert sum("image/png" in o.get("data", ()) for o in outputs) == 2
