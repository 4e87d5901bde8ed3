"""Ctrl-C while an app starts."""

import os
import signal
import subprocess
import sys

import pytest
from apps import ROOT

# In place of jax: an import that takes as long as it is let.
SLOW = """
import time
print("importing", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("app", ["main", "evaluate", "predict", "convert", "report"])
def test_ctrl_c_while_jax_is_imported_is_no_traceback(app, tmp_path):
    (tmp_path / "jax.py").write_text(SLOW)
    started = subprocess.Popen(
        [sys.executable, "-m", f"alexnet_jax.{app}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout.readline() == "importing\n"
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=30) == ("", "")
    assert started.returncode == -signal.SIGINT  # 130 in a shell


def test_ctrl_c_after_the_start_is_the_apps_own():
    program = (
        "import signal, sys\n"
        "sys.argv[0] = '-m'\n"  # as while `python -m` finds a module of the package
        "from alexnet_jax import cli\n"
        "assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL\n"
        "sys.argv[0] = 'app'\n"
        "cli.run(lambda _: signal.raise_signal(signal.SIGINT))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("name", ["", "-c", "/usr/bin/pytest", "notebook.py"])
def test_as_a_library_it_leaves_signals_alone(name):
    program = (
        "import signal, sys\n"
        f"sys.argv[:] = {[name] if name else []!r}\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "import alexnet_jax.cli\n"
        "assert signal.getsignal(signal.SIGINT) == before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
