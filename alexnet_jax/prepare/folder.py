"""One folder in the making: its plan, what is finished, and the work that remains.

A shard is the unit of work: one process writes it, from consecutive images in the order
of the source (class and name, or number), so that neither the number of processes nor
an interruption changes a byte. Finished shards are recorded after each one. The sums
for the statistics are integers, so that their order does not matter.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial

from alexnet_jax.data import files, index, prepared
from alexnet_jax.data.images import View
from alexnet_jax.data.prepared import Manifest
from alexnet_jax.data.statistics import Sums
from alexnet_jax.errors import ImageError, InputError
from alexnet_jax.prepare import manifest, pool, shards
from alexnet_jax.prepare.manifest import Originals, Settings, require_same
from alexnet_jax.prepare.shards import ENCODINGS, DiskError, Shard

SAMPLE = 100  # images encoded to estimate the size of all
OVERHEAD = 150  # bytes of a record without its image, at most
Progress = Callable[[int], object]  # called with the number of images done


def gigabytes(size: int) -> str:
    """A number of bytes in GB or MB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


class Folder:
    """One folder in the making, which the caller has locked.

    `damaged_file` is a damaged file next to the shards, or ''; `damaged` are the files
    of shards that `verify` found damaged.
    """

    def __init__(self, originals: Originals, settings: Settings):
        """Plan the shards, and find out which of them are written."""
        self._originals, self._settings = originals, settings
        self._path = settings.destination
        plan = partial(shards.plan, originals.dataset, shards=settings.shards)
        self._shards = {
            shard.file: shard
            for split, images in originals.splits.items()
            for shard in plan(split, len(images))
        }
        self.damaged_file, self.damaged = "", list[str]()
        self._sums = Sums.none(settings.image_size)
        self._manifest = finished = Manifest.read(self._path, unfinished_too=True)
        unfinished = manifest.load_unfinished(self._path)
        begun = finished.settings if finished else unfinished and unfinished[0]
        if begun is None:
            self._require_empty()
        self._settings = settings = settings.continuing(begun)
        self._recorded = settings.recorded(originals, len(self._shards))
        # A finished folder does not depend on where the originals were.
        source = os.path.realpath(settings.source)
        self._begun = {**self._recorded, "--source": source}
        if finished:
            require_same(self._path, finished.settings, self._begun)
            for name, checksum in finished.files.items():
                if not shards.is_unchanged(self._path / name, checksum):
                    self.damaged_file = name
        self._finished = bool(finished) and not self.damaged_file
        facts = finished.shards if finished and self._finished else {}
        if unfinished and not self._finished:
            before, facts, self._sums = unfinished
            require_same(self._path, before, self._begun)
        for file in facts:
            if file not in self._shards:
                raise InputError(
                    f"--destination={str(self._path)!r}: names {file!r}, which is no "
                    "shard of --source; give another folder"
                )
            self._shards[file] = replace(self._shards[file], **facts[file])

    def _require_empty(self) -> None:
        for name in sorted(os.listdir(self._path)):
            if name == prepared.UNFINISHED:
                why = f"{name} in it is damaged; empty the folder to start again"
            elif not name.startswith(".") and not name.endswith(files.UNFINISHED):
                why = f"holds {name!r}, not begun by `prepare`; give an empty folder"
            else:
                continue
            raise InputError(f"--destination={str(self._path)!r}: {why}")

    def written(self) -> list[Shard]:
        """The shards that are written, damaged ones included."""
        return [shard for shard in self._shards.values() if shard.sha256]

    def missing(self) -> list[Shard]:
        """The shards to write."""
        every = self._shards.values()
        return [s for s in every if not s.sha256 or s.file in self.damaged]

    def verify(self, progress: Progress) -> None:
        """Find the damaged shards among the written ones."""
        written, check = self.written(), partial(shards.is_whole, folder=self._path)
        with closing(pool.run(check, self._settings.workers, written)) as results:
            for shard, whole in zip(written, results, strict=True):
                if not whole:
                    self.damaged.append(shard.file)
                progress(len(shard))

    def sizes(self) -> dict[str, int]:
        """About how many bytes the missing shards will have, for each encoding."""
        missing = self.missing()
        images, size = sum(map(len, missing)), self._settings.image_size
        each = {"jpeg": self._jpeg_bytes(missing), "raw": 3 * size * size}
        overhead = OVERHEAD + index.ENTRY.itemsize
        fixed = len(missing) * 2 * index.BLOCK
        return {e: images * (each[e] + overhead) + fixed for e in ENCODINGS}

    def _jpeg_bytes(self, missing: list[Shard]) -> int:
        """The mean size of a JPEG, estimated from a few images."""
        encoder = replace(self._settings.encoder(), encoding="jpeg")
        sizes: list[int] = []
        step = max(1, len(missing) // SAMPLE)
        for i in range(SAMPLE if missing else 0):
            shard = missing[i * step % len(missing)]
            with suppress(ImageError):
                record = self._images(shard)[i % len(shard)]
                sizes.append(len(encoder.encode(record)[0]))
        return sum(sizes) // max(1, len(sizes))

    def write(self, progress: Progress) -> None:
        """Write the missing shards; an error keeps the finished ones."""
        for path in self._path.glob(f"*{files.UNFINISHED}"):
            path.unlink()  # of a process that was killed
        self._save()
        write = partial(
            shards.write,
            folder=self._path,
            source=self._settings.source,
            encoder=self._settings.encoder(),
        )
        missing = self.missing()
        images = list(map(self._images, missing))
        with closing(pool.run(write, self._settings.workers, missing, images)) as done:
            for shard, sums in done:
                self._shards[shard.file] = shard
                if shard.file in self.damaged:
                    self.damaged.remove(shard.file)
                else:
                    self._sums += sums
                    self._save()
                progress(len(shard))

    def _images(self, shard: Shard) -> View:
        source = self._originals.splits[shard.split]
        return View(source, range(shard.start, shard.stop))

    def _save(self) -> None:
        if not self._finished:
            manifest.save_unfinished(
                self._path, self._begun, self.written(), self._sums
            )

    def finish(self) -> Manifest:
        """Write the files next to the shards, the manifest last."""
        if not self._finished or self._manifest is None:
            self._manifest = manifest.write_manifest(
                self._path, self._originals, self._shards, self._sums, self._recorded
            )
        (self._path / prepared.UNFINISHED).unlink(missing_ok=True)
        return self._manifest

    @contextmanager
    def naming_the_space(self) -> Iterator[None]:
        """Add to the error of a full disk how much space is missing."""
        try:
            yield
        except (DiskError, OSError) as error:
            why = str(error)
            if isinstance(error, OSError):
                why = f"{self._path}: cannot be written: {error.strerror or error}"
            left = gigabytes(self.sizes()[self._settings.encoding])
            free = gigabytes(shutil.disk_usage(self._path).free)
            raise DiskError(
                f"{why}; about {left} are still to be written, and {free} are free: "
                f"correct that, then {prepared.AGAIN}"
            ) from None
