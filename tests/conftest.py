import os
import signal
from pathlib import Path

import pytest

# Before anything imports jax: meshes of eight devices on any machine, and float32 that
# is float32 (a GPU's convolutions may round to fewer bits).
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

# A shell ignores Ctrl-C in what it starts with '&', and programs that the tests start
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures that development shares; see its README.md."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real pictures needed, and there is no {folder}")
    return folder
