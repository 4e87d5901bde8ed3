"""Accelerators that need not be here: their compilers and their limits.

XLA's compilers for TPUs and NVIDIA's GPUs run on any processor (the extra `aot`).
"""

import math
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from alexnet_jax.errors import InputError, NotInstalledError
from alexnet_jax.values import nearest


class Chip(NamedTuple):
    """A device as XLA counts: a chip of a TPU, or a GPU.

    TPUs: jax's tpu_info.py; a clock is the peak over the multipliers of a chip. GPUs:
    NVIDIA's data sheets (SXM, without sparsity) and XLA's target_config/specs.
    """

    flops: float  # bfloat16, a second
    bytes: float  # of its memory, a second
    memory: int  # bytes
    gigahertz: float
    # TPUs: hosts' shapes, as get_topology_desc takes them. GPUs: none.
    topologies: tuple[str, ...] = ()
    generation: int = 0  # GPUs: the number before the point of the compute capability
    cores: int = 0  # GPUs: streaming multiprocessors
    cache: int = 0  # GPUs: bytes of the second level

    @property
    def float32(self) -> float:
        """FLOP/s of float32 outside of a GPU's tensor cores: 128 lanes a core."""
        return 2 * 128 * self.cores * self.gigahertz * 1e9


SQUARES = ("2x2", "2x4", "4x4", "4x8", "8x8", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
HOPPER: dict[str, Any] = {
    "gigahertz": 1.98,
    "generation": 9,
    "cores": 132,
    "cache": 52_428_800,
}
BLACKWELL: dict[str, Any] = {
    "gigahertz": 1.965,
    "generation": 10,
    "cores": 148,
    "cache": 132_644_864,
}
CHIPS = {
    "tpu-v4": Chip(275e12, 1.23e12, 34_400_000_000, gigahertz=1.05, topologies=CUBES),
    "tpu-v5e": Chip(197e12, 8.2e11, 17_200_000_000, gigahertz=1.5, topologies=SQUARES),
    "tpu-v5p": Chip(459e12, 2.46e12, 103_000_000_000, gigahertz=1.75, topologies=CUBES),
    "tpu-v6e": Chip(
        918e12, 1.64e12, 34_400_000_000, gigahertz=1.75, topologies=SQUARES
    ),
    "h100": Chip(989e12, 3.35e12, 84_942_979_072, **HOPPER),
    "h200": Chip(989e12, 4.8e12, 151_397_597_184, **HOPPER),
    "b200": Chip(2250e12, 7.67e12, 191_514_411_008, **BLACKWELL),
}
GPUS_OF_A_HOST = 8
MOST_GPUS = 1024
QUIET = {  # libtpu allows one process at a time, and looks for a TPU's other hosts
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}


class Target(NamedTuple):
    """Some devices of a kind."""

    name: str
    chip: Chip
    devices: list[jax.Device]
    options: dict[str, Any]  # of the compiler


def find(name: str) -> Target:
    """The target that --target names, such as 'tpu-v5e-256', 'v5e-8' or 'h200-8'."""
    kind, _, count = name.removeprefix("gpu-").rpartition("-")
    kind = kind if kind in CHIPS else f"tpu-{kind}"
    if kind not in CHIPS:
        kinds = ", ".join(CHIPS)
        raise InputError(
            f"--target={name}: must be one of {kinds}, then '-' and the number of "
            f"devices, such as tpu-v5e-256 or h200-8{nearest(name, CHIPS)}"
        )
    chip = CHIPS[kind]
    shapes = {math.prod(map(int, s.split("x"))): s for s in chip.topologies}
    hosts = {n: f"1x{n // GPUS_OF_A_HOST}x8" for n in range(8, MOST_GPUS + 1, 8)}
    hosts.update({n: f"1x1x{n}" for n in (1, 2, 4)})
    sizes = {1: min(shapes.values(), key=len), **shapes} if shapes else hosts
    if not count.isdigit() or int(count) not in sizes:
        few = ", ".join(map(str, sizes)) if shapes else "1, 2, 4, or a multiple of 8"
        up_to = "" if shapes else f" up to {MOST_GPUS}"
        raise InputError(
            f"--target={name}: {kind} has {few}{up_to} devices; change the number"
        )
    shape = sizes[int(count)]
    devices = _tpus(kind, shape) if shapes else _gpus(kind, shape)
    options = {} if shapes else {"xla_gpu_collect_cost_model_stats": True}
    return Target(name, chip, devices[: int(count)], options)


def _tpus(kind: str, shape: str) -> list[jax.Device]:
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    # One device a chip: the others have that by default.
    cores = {"chip_config_name": "megacore"} if kind == "tpu-v4" else {}
    return _described(
        kind, platform="tpu", topology_name=f"{kind[4:]}:{shape}", **cores
    )


def _gpus(kind: str, shape: str) -> list[jax.Device]:
    config = _gpu_target_config(kind)
    return _described(
        kind,
        **{"platform": "cuda", "topology_name": kind},
        **{"topology": shape, "target_config": config},
    )


def _described(kind: str, **topology: Any) -> list[jax.Device]:
    """The devices of a topology; one line where its compiler is not installed."""
    try:
        return list(topologies.get_topology_desc(**topology).devices)
    except (RuntimeError, NotImplementedError) as error:
        if not re.search("not installed|not implemented", str(error)):
            raise
    otherwise = " in an environment of its own: CUDA's plugin logs errors in others"
    raise NotInstalledError(f"--target={kind}", "aot", otherwise)


def _gpu_target_config(kind: str) -> str:
    """A GpuTargetConfigProto: what XLA's compiler asks about a GPU.

    The rates of its units are left out: XLA compiles the same program without them.
    """
    chip, name = CHIPS[kind], f"NVIDIA {kind.upper()}"
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: {chip.cores} fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {chip.bytes:.0f} l2_cache_size: {chip.cache}
  clock_rate_ghz: {chip.gigahertz} device_memory_size: {chip.memory}
  cuda_compute_capability {{
    major: {chip.generation} feature_extension: ACCELERATED_FEATURES
  }}
  device_vendor: "NVIDIA Corporation" name: "{name}"
  driver_version: "13.0.0" runtime_version: "12.8.0" dnn_version: "9.10.0"
  compile_time_toolkit_version: "12.8.0"
  device_address_bits: 64 pcie_bandwidth: 34359738368
  device_interconnect_info {{ active_links: 18 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""
