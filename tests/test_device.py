import ctypes
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from apps import ROOT
from jax.experimental.compilation_cache import compilation_cache
from runs import CACHE, tiny_config, tiny_flags

from alexnet_jax import device
from alexnet_jax.experiment import make_mesh

DIRECTORY = "jax_compilation_cache_dir"


@pytest.fixture
def no_directory():
    """As JAX is where nobody has told it where to keep programs."""
    compilation_cache.reset_cache()
    jax.config.update(DIRECTORY, None)
    yield
    compilation_cache.reset_cache()
    jax.config.update(DIRECTORY, CACHE[DIRECTORY])
    jax.config.update("jax_enable_compilation_cache", True)


def compile_something(number: float) -> None:
    jax.jit(lambda x: x * number + 1)(jnp.zeros(3)).block_until_ready()


@pytest.mark.usefixtures("no_directory")
def test_programs_are_kept_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device.cache_programs()
    compile_something(20.12)
    kept = list(tmp_path.glob("alexnet_jax/jit__lambda*"))
    assert len(kept) == 1

    compilation_cache.reset_cache()  # a new start
    device.compile_always()
    compile_something(20.13)
    assert list(tmp_path.glob("alexnet_jax/jit__lambda*")) == kept


@pytest.mark.usefixtures("no_directory")
def test_without_xdg_they_are_kept_below_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    device.cache_programs()
    assert jax.config.jax_compilation_cache_dir == f"{tmp_path}/.cache/alexnet_jax"


@pytest.mark.usefixtures("no_directory")
@pytest.mark.parametrize("caches", ["{}/file", "/proc", "relative"])
def test_where_nothing_can_be_kept_nothing_is(caches, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", caches.format(tmp_path))
    device.cache_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("no_directory")
def test_programs_used_longest_ago_are_deleted_above_the_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(device, "CACHE_BYTES", 250)
    folder = tmp_path / "alexnet_jax"
    folder.mkdir()
    for age, name in enumerate(("new", "older", "oldest")):
        file = folder / f"{name}-cache"
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 + age))  # the last use decides
    (folder / "not ours").write_bytes(bytes(1000))
    device.cache_programs()
    assert {path.name for path in folder.iterdir()} == {
        *("new-cache", "older-cache", "not ours"),
    }


def test_the_memory_of_a_container_is_what_there_is(tmp_path, monkeypatch):
    mesh, limit = make_mesh(tiny_config()), tmp_path / "memory.max"
    monkeypatch.setattr(device, "CONTAINER", str(limit))
    whole = device.memory(mesh)
    assert whole == device.psutil.virtual_memory().total
    for text, expected in (("max\n", whole), ("123456\n", 123456), (f"{2**62}", whole)):
        limit.write_text(text)
        assert device.memory(mesh) == expected
    two = make_mesh(tiny_config({"mesh.data": 2}))
    limit.write_text("1000")
    assert device.memory(two) == 500


ARENAS = """
import ctypes, os, threading
from alexnet_jax import device

BEFORE
there, libc = threading.Barrier(1 + 3 * os.cpu_count()), ctypes.CDLL(None)

def allocate():
    _kept = bytes(10_000)
    there.wait()
    there.wait()

for _ in range(3 * os.cpu_count()):
    threading.Thread(target=allocate).start()
there.wait()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
there.wait()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's malloc")
@pytest.mark.parametrize(
    ("before", "variable", "more"),
    [
        ("device.bound_arenas()", {}, False),
        ("device.bound_arenas()", {"MALLOC_ARENA_MAX": "1000"}, True),
        ("", {}, True),
    ],
)
def test_malloc_has_an_arena_for_each_core_at_most(before, variable, more):
    environment = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", ARENAS.replace("BEFORE", before)],
        cwd=ROOT,
        env=environment | variable,
        capture_output=True,
        check=True,
        text=True,
    )
    assert (done.stdout.count("<heap nr=") > os.cpu_count()) == more


def test_jaxs_own_setting_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device.cache_programs()
    assert jax.config.jax_compilation_cache_dir == CACHE[DIRECTORY]
    assert not list(tmp_path.iterdir())


def test_a_training_keeps_its_update_for_the_next_start(tmp_path):
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = {**os.environ, **quickly, "XDG_CACHE_HOME": str(tmp_path)}
    del environment[DIRECTORY.upper()]
    flags = tiny_flags(tmp_path / "run", {"steps": 1, "validate_every_epochs": 0})
    command = [sys.executable, "-m", "alexnet_jax.main", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(list(Path(tmp_path).glob("alexnet_jax/jit_train_step-*"))) == 1


def measured_flops(mesh, monkeypatch, own: float, all_programs: float) -> float | None:
    """As measured where products take 0.75 s, one half a second.

    `own` and `all_programs` are shares of the processor's time.
    """
    cores = os.sched_getaffinity(0)
    seconds = [0.75] * (device.REPEATS - 1) + [0.5]
    clock = iter([x for i, s in enumerate(seconds) for x in (i, i + s)])
    monkeypatch.setattr(device, "perf_counter", lambda: next(clock))
    used = iter([10.0, 10.0 + own * len(cores) * sum(seconds)])
    monkeypatch.setattr(device, "process_time", lambda: next(used))
    busy = [100 * all_programs if i in cores else 0.0 for i in range(max(cores) + 1)]
    monkeypatch.setattr(device.psutil, "cpu_percent", lambda percpu: busy)
    monkeypatch.setattr(device, "make_product", lambda: lambda x, y: x)
    return device.product_flops(mesh, jnp.float32)


@pytest.mark.parametrize(
    ("own", "all_programs", "known"),
    [(1.0, 1.0, True), (0.8, 0.85, True), (0.8, 0.95, False), (0.5, 1.0, False)],
)
def test_a_processor_that_others_use_is_no_yardstick(
    own, all_programs, known, monkeypatch
):
    mesh = make_mesh(tiny_config())
    found = measured_flops(mesh, monkeypatch, own, all_programs)
    assert found == (2 * 1536**3 / 0.5 if known else None)


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_the_yardstick_of_an_accelerator_is_not_the_processors(backend, monkeypatch):
    mesh = make_mesh(tiny_config())
    monkeypatch.setattr(device, "on_cpu", lambda mesh: backend == "cpu")
    assert measured_flops(mesh, monkeypatch, own=0.1, all_programs=1.0)


@pytest.mark.parametrize(("shape", "devices"), [((1, 1), 1), ((2, 2), 4), ((4, 2), 8)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_devices_made_of_one_processor_count_once(backend, shape, devices, monkeypatch):
    mesh = make_mesh(tiny_config({"mesh.data": shape[0], "mesh.tower": shape[1]}))
    monkeypatch.setattr(device, "on_cpu", lambda mesh: backend == "cpu")
    found = measured_flops(mesh, monkeypatch, own=1.0, all_programs=1.0)
    if backend == "gpu":
        assert found == 2 * 8192**3 / 0.5 * devices
    else:
        assert found == 2 * 1536**3 / 0.5
