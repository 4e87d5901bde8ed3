"""State dicts of PyTorch, read and written by PyTorch, the 'torch' extra."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import InputError, NotInstalledError
from alexnet_jax.weights.layout import Found, Tensors

MEAN_IMAGE = "pixels.mean_image"  # of `torch_module`, (3, S, S)


def read(file: Path) -> Found:
    """The tensors of a file, of which nothing else is unpickled."""
    torch = _torch(f"--source={file}")
    try:
        zipped = _is_zip(file)  # of which tensors stay on the disk until they are used
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, and of damage
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError as error:
        raise InputError(f"--source={file}: cannot be read ({error})") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"--source={file}: is no file of tensors alone, and a pickle is not run, "
            "since it may hold any program; where it came from a trusted source, "
            "convert it to {'weight name': tensor} in *.safetensors there "
            "(safetensors.torch.save_file)"
        ) from None
    except Exception as error:  # PyTorch's reader raises many kinds
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"--source={file}: damaged or cut off, fetch it again ({reason})"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in state.values()
    ):
        raise InputError(
            f"--source={file}: is not a state dict, {{name: tensor}}; save "
            "model.state_dict() alone"
        )
    tensors = {str(name): _array(own, file, name) for name, own in state.items()}
    mean_image = tensors.pop(MEAN_IMAGE, None)
    if mean_image is not None:
        if mean_image.ndim != 3 or not np.isfinite(mean_image).all():
            raise InputError(
                f"--source={file}: {MEAN_IMAGE} is {mean_image.shape}, and must be "
                "(3, height, width), finite"
            )
        mean_image = np.moveaxis(mean_image, 0, -1)
    return Found(tensors, mean_image=mean_image)


def write(file: Path, tensors: Tensors, mean_image: np.ndarray) -> None:
    """Write the state dict of `torch_module.make_module`.

    Args:
        file: to write.
        tensors: float32, outputs first.
        mean_image: float32 (S, S, 3).
    """
    torch = _torch(f"--destination={file}")
    tensors = {MEAN_IMAGE: np.moveaxis(mean_image, -1, 0), **tensors}
    # PyTorch takes no arrays that are JAX's; the kernels have been copied already.
    own = {name: np.require(array, None, ["C", "W"]) for name, array in tensors.items()}
    with file.open("wb") as opened:
        torch.save(
            {name: torch.from_numpy(array) for name, array in own.items()}, opened
        )


def _is_zip(file: Path) -> bool:
    """Whether PyTorch 1.6 or later wrote a file, and as it does, uncompressed."""
    with file.open("rb") as opened:
        if opened.read(2) != b"PK":
            return False
        with zipfile.ZipFile(opened) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{member.filename} is compressed")
    return True


def _array(tensor: Any, file: Path, name: str) -> np.ndarray:
    tensor = tensor.detach()
    try:
        stored = tensor.untyped_storage().nbytes()
        if stored < tensor.numel() * tensor.element_size():
            raise ValueError(f"{stored:,} bytes for the shape {tuple(tensor.shape)}")
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except Exception as error:  # sparse, quantised, …
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"--source={file}: {name} is no plain tensor ({reason}); save "
            "model.state_dict() alone"
        ) from None


def _torch(flag: str) -> Any:
    try:
        import torch
    except ImportError:
        otherwise = "; *.safetensors needs nothing more"
        raise NotInstalledError(flag, "torch", otherwise) from None
    return torch
