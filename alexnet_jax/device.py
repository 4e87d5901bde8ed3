"""The backend: how programs are compiled for it, cached, and how fast it multiplies."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from jax.sharding import Mesh

REPEATS = 9  # of a product that is measured
CACHE_BYTES = 1 << 30  # of compiled programs, thousands of them on a CPU
M_ARENA_MAX = -8  # malloc.h
CONTAINER = "/sys/fs/cgroup/memory.max"
LOADED = 0.1  # share of the processor that other programs take, from which it is loaded

# XLA:CPU has two libraries: YNNPACK comes first, Eigen takes the rest. In GFLOP/s,
# forward for one tower, on four cores: conv2 131 and 285, conv3 196 and 330, conv4 200
# and 323. Left to the first: products with a batch of 128 vectors (274 and 153 for fc6)
# and sums over a batch.
_FOR_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    "LIBRARY_FUSION_TYPE_REDUCE"
}

# XLA for GPUs otherwise starts a sum of gradients only where the one before has ended:
# that of fc6 overlaps 62 kernels of the backward pass this way, and 40 of the update
# without it. Not tried with the XLA of later versions, which may not have the option.
_FOR_GPU = {"xla_gpu_experimental_parallel_collective_overlap_limit": 4}
_KNOWN_TO_GPU = jax.__version_info__ < (0, 11)


def on_cpu(mesh: Mesh | None = None) -> bool:
    """Whether the devices of a mesh, or JAX's default device, are processors."""
    return _platform(mesh) == "cpu"


def _platform(mesh: Mesh | None) -> str:
    first = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return first.platform


def by_target(*arrays: Any, default: Callable, **forms: Callable) -> Any:
    """The one place where an operation's form follows the device compiled for.

    It is chosen when the program is lowered: one for the GPU that is compiled or
    exported on a machine without one has the GPU's form, and no other.

    Args:
        arrays: arguments of every form.
        default: the form for devices that have none of their own.
        forms: those that have, by 'cpu', 'cuda' or 'tpu'.
    """
    return jax.lax.platform_dependent(*arrays, default=default, **forms)


def jit(
    function: Callable, mesh: Mesh | None = None, **options: Any
) -> jax.stages.Wrapped:
    """`jax.jit` with the compiler options that make this network fast.

    Args:
        function: to compile.
        mesh: that it is compiled for; None: JAX's default device.
        options: of `jax.jit`.
    """
    own: dict[str, Any] | None = _FOR_CPU if on_cpu(mesh) else None
    if _KNOWN_TO_GPU and _platform(mesh) in ("gpu", "cuda"):
        own = _FOR_GPU
    return jax.jit(function, compiler_options=own, **options)


@contextmanager
def float64(enabled: bool) -> Iterator[None]:
    """Allow 64-bit arrays while the block runs, for precision='float64'."""
    before = jax.config.values["jax_enable_x64"]
    jax.config.update("jax_enable_x64", enabled or before)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def cache_programs() -> None:
    """Keep programs that take a second or more to compile in the user's cache folder.

    That is $XDG_CACHE_HOME/alexnet_jax or ~/.cache/alexnet_jax, if it can be written;
    it may be deleted at any time. Each start deletes the programs used longest ago
    above `CACHE_BYTES`. JAX_COMPILATION_CACHE_DIR takes precedence.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(caches, "alexnet_jax")
    if not folder.is_absolute():  # to be ignored (XDG), or the user has no home
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs that are run
    except OSError:
        return
    if os.access(folder, os.W_OK):
        _bound(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _bound(folder: Path) -> None:
    """Delete programs above `CACHE_BYTES`.

    Not by jax_compilation_cache_max_size: JAX then caches nothing more once a kill, or
    an earlier version, has left a program without the file of its last use, and a
    stopped process that holds its lock stops all others for ten seconds a program.
    """
    with suppress(FileNotFoundError):  # another process deletes too
        programs = [(file.stat(), file) for file in folder.glob("*-cache")]
        size = sum(status.st_size for status, _ in programs)
        for status, file in sorted(programs, key=lambda p: p[0].st_atime):
            if size > CACHE_BYTES:
                file.unlink()
                size -= status.st_size


def compile_always() -> None:
    """Do not use cached programs, where compilation is timed or its result is read."""
    jax.config.update("jax_enable_compilation_cache", False)


def bound_arenas() -> None:
    """Let glibc's malloc keep one arena for each core, in place of eight.

    Orbax and grain start many short-lived threads, and each arena keeps what they freed
    in it (docs/reliability.md, 'Long runs'). MALLOC_ARENA_MAX takes precedence.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, os.cpu_count() or 1)


def memory(mesh: Mesh) -> int | None:
    """Bytes of memory of each device of a mesh here; None where it is not known.

    Devices that XLA makes of one processor share the machine's, or its container's.
    """
    if not on_cpu(mesh):
        statistics = mesh.local_devices[0].memory_stats()
        return statistics and statistics.get("bytes_limit")
    total, container = psutil.virtual_memory().total, Path(CONTAINER)
    limit = container.read_text().strip() if container.exists() else ""
    there = min(total, int(limit)) if limit.isdecimal() else total
    return there // len(mesh.local_devices)


def make_product() -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A matrix product; transposed, XLA:CPU uses the faster of its libraries."""
    return jit(lambda x, y: x.T @ y)


def product_flops(mesh: Mesh, dtype: Any) -> float | None:
    """FLOP/s of large matrix products on all devices of a mesh.

    One device is measured, in less than a second; the fastest of a few products counts.
    Devices that XLA makes of one processor share its cores, and count once for each
    process.

    Returns:
        FLOP/s; None where other programs load the processor, since every start would
        measure another figure.
    """
    side = 1536 if on_cpu(mesh) else 8192
    matrix, product = jnp.ones((side, side), dtype), make_product()
    product(matrix, matrix).block_until_ready()  # compiles it
    seconds = []
    cores = os.sched_getaffinity(0)
    psutil.cpu_percent(percpu=True)  # the next call measures from here on
    own = process_time()
    for _ in range(REPEATS):
        start = perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(perf_counter() - start)
    own = (process_time() - own) / sum(seconds)  # of the cores, how many were ours
    busy = psutil.cpu_percent(percpu=True)
    all_programs = sum(busy[core] for core in cores if core < len(busy)) / 100
    if on_cpu(mesh) and all_programs - own > LOADED * len(cores):
        return None
    processes = {device.process_index for device in mesh.devices.flat}
    devices = len(processes) if on_cpu(mesh) else mesh.size
    return devices * 2 * side**3 / min(seconds)
