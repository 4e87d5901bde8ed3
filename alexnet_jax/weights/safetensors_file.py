"""Files of safetensors: ours, which carry a run's other files, and those of others."""

import base64
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

from alexnet_jax.errors import InputError
from alexnet_jax.weights.layout import Found, Tensors

# The other files that predict needs, carried in the metadata.
COMPANIONS = ("config.json", "classes.txt", "statistics.npz")


def read(file: Path) -> Found:
    """The tensors of a file, and those of `COMPANIONS` that it carries."""
    try:
        with safe_open(file, framework="numpy") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except Exception as error:  # NumPy lacks some of its kinds of numbers
        raise InputError(f"--source={file}: cannot be read ({error})") from None
    carried = {name: metadata[name] for name in COMPANIONS if name in metadata}
    try:
        companions = {
            name: base64.b64decode(own, validate=True) for name, own in carried.items()
        }
    except ValueError as error:
        raise InputError(f"--source={file}: damaged metadata ({error})") from None
    return Found(tensors, companions)


def write(file: Path, params: Tensors, folder: Path) -> None:
    """Write 'conv1.kernel', 'conv1.bias', …, inputs first, and the run's other files.

    Args:
        file: to write.
        params: float32, by name.
        folder: the work directory with `COMPANIONS`.
    """
    metadata = {
        name: base64.b64encode((folder / name).read_bytes()).decode()
        for name in COMPANIONS
    }
    file.touch()
    mode = file.stat().st_mode
    save_file(params, file, metadata)
    file.chmod(mode)  # which safetensors 0.8 leaves readable by its owner alone
