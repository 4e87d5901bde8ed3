"""Compiled programs, kept on disk from one start to the next."""

import os
from pathlib import Path

import jax


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
