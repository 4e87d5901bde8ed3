"""How programs are compiled, and where they are kept from one start to the next."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# XLA for CPUs has two libraries: YNNPACK comes first, Eigen takes what that leaves. In
# GFLOP/s, forward for one tower, on four cores: conv2 131 and 285, conv3 196 and 330,
# conv4 200 and 323. Left to the first: products with a batch of 128 vectors (274 and
# 153 for fc6) and sums over a batch.
_FOR_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    "LIBRARY_FUSION_TYPE_REDUCE"
}


def on_cpu() -> bool:
    """The one place where the backend decides how something is computed."""
    return jax.default_backend() == "cpu"


def jit(function: Callable, **options: Any) -> jax.stages.Wrapped:
    """`jax.jit`, with what makes this network fast on the device at hand.

    Args:
        function: what to compile.
        options: of `jax.jit`.
    """
    own = _FOR_CPU if on_cpu() else None
    return jax.jit(function, compiler_options=own, **options)


def keep() -> None:
    """Keeps what takes a second or more to compile in the user's cache folder.

    That is $XDG_CACHE_HOME/alexnet_jax or ~/.cache/alexnet_jax; it may be deleted at
    any moment. JAX_COMPILATION_CACHE_DIR, JAX's own, comes before it. Where nothing can
    be written, each start compiles anew.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(caches, "alexnet_jax")
    if not folder.is_absolute():  # XDG says to ignore it; or nobody has a home
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def always() -> None:
    """Compiles everything anew, for those who time it or read what came out."""
    jax.config.update("jax_enable_compilation_cache", False)
