"""From the pictures as they were handed out to a folder of prepared ones.

Shards are the units of work: each is written by one process, from consecutive pictures
in the order of the source (class and name, or number), so that neither the number of
processes nor an interruption changes a byte. What is finished is noted after every
shard; sums for the statistics are whole numbers, so that their order does not matter.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from alexnet_jax.data import files, index, prepared
from alexnet_jax.data.images import View
from alexnet_jax.data.statistics import Sums
from alexnet_jax.errors import InputError, PictureError
from alexnet_jax.prepare import crew, records, shards
from alexnet_jax.prepare.catalogue import write_catalogue
from alexnet_jax.prepare.originals import Originals
from alexnet_jax.prepare.shards import DiskError, Job, Shard
from alexnet_jax.prepare.unfinished import Unfinished

KEY = "--destination"
SAMPLE = 100  # pictures whose JPEGs are measured before all are made
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Wish:
    """What a person wants to be made.

    Attributes:
        source: the folder of the originals.
        destination: the folder to make, or to go on with.
        encoding: one of records.ENCODINGS.
        image_size: side of the squares in pixels.
        shards: files of each split; 0: as suits the number of pictures.
        workers: processes.
    """

    source: Path
    destination: Path
    encoding: str
    image_size: int
    shards: int
    workers: int


def gigabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


class Preparation:
    """One folder in the making.

    Attributes:
        originals: the pictures.
        wish: what is to be made of them.
        finished: whether the folder was prepared to its end before.
        damaged_beside: a file beside the shards that is not what it was, if any.
        damaged: shards that were finished and are not what they were.
    """

    def __init__(self, originals: Originals, wish: Wish):
        """Finds out what is there already; see lock.py.

        Raises:
            InputError: the folder holds something else, or was made otherwise.
        """
        self.originals, self.wish = originals, wish
        self.finished, self.damaged_beside = False, ""
        self.damaged: list[Shard] = []
        self._folder = wish.destination
        self._shards = [
            shard
            for split, pictures in originals.splits.items()
            for shard in shards.plan(
                originals.dataset, split, len(pictures), wish.shards
            )
        ]
        self._settings = {
            "--encoding": wish.encoding,
            "--image_size": wish.image_size,
            "--split": ",".join(originals.splits),
            "--shards": len(self._shards),
            "pictures": sum(map(len, originals.splits.values())),
            "listing": originals.digest(),
            "Pillow": PIL.__version__,  # another one may encode otherwise
        }
        # Where the originals were is of no interest once all is finished.
        self._began = {**self._settings, "--source": os.path.realpath(wish.source)}
        self._state = Unfinished(self._began, Sums.none(wish.image_size))
        manifest = prepared.load_manifest(self._folder / prepared.MANIFEST)
        state = Unfinished.load(self._folder / prepared.UNFINISHED)
        if manifest is not None:
            self._require_same(manifest["settings"])
            self.damaged_beside = self._beside(manifest)
            self.finished = not self.damaged_beside
        if manifest is not None and self.finished:
            self._state.written = manifest["shards"]
        elif state is not None:
            self._require_same(state.settings)
            self._state = state
        elif manifest is None:
            self._require_nothing_else()

    def _require_nothing_else(self) -> None:
        for name in sorted(os.listdir(self._folder)):
            if name == prepared.UNFINISHED:
                raise InputError(
                    f"{KEY}={str(self._folder)!r}: {name} in it is damaged; empty the "
                    "folder to begin anew"
                )
            if not name.startswith(".") and not name.endswith(files.UNFINISHED):
                raise InputError(
                    f"{KEY}={str(self._folder)!r}: holds {name!r}, and is no folder "
                    "that `prepare` began; give an empty or a new one"
                )

    def _require_same(self, before: dict[str, Any]) -> None:
        for name, now in self._began.items():
            if name in before and before[name] != now:
                told = {
                    "listing": "other pictures than --source has now",
                    "--shards": f"{before[name]} files in all (--shards), not {now}",
                }
                given = told.get(name, f"{name}={before[name]}, not {now}")
                raise InputError(
                    f"{KEY}={str(self._folder)!r}: was begun with {given}; give the "
                    "same, or another folder"
                )

    def _beside(self, manifest: dict[str, Any]) -> str:
        """The first file beside the shards that is not what it was."""
        for name, checksum in manifest["files"].items():
            path = self._folder / name
            if not path.is_file() or files.sha256(path) != checksum:
                return name
        return ""

    def finished_shards(self) -> list[Shard]:
        """The shards that were written before."""
        return [shard for shard in self._shards if shard.file in self._state.written]

    def missing(self) -> list[Shard]:
        """The shards that are still to be written."""
        done = self._state.written.keys() - {shard.file for shard in self.damaged}
        return [shard for shard in self._shards if shard.file not in done]

    def verify(self, progress: Progress) -> None:
        """Looks for damaged shards among the finished ones."""
        checks = [
            shards.Check(shard, self._folder, self._state.written[shard.file])
            for shard in self.finished_shards()
        ]
        workers = min(self.wish.workers, len(checks))
        for shard, whole in crew.do(
            shards.Check.__call__, checks, workers=workers, progress=progress
        ):
            if not whole:
                self.damaged.append(shard)

    def sizes(self) -> dict[str, int]:
        """About how many bytes the missing shards will have, for each encoding."""
        missing = self.missing()
        pictures = sum(shard.stop - shard.start for shard in missing)
        size = self.wish.image_size
        each = {"jpeg": self._jpeg_bytes(missing), "raw": 3 * size * size}
        overhead = records.OVERHEAD + index.ENTRY.itemsize
        fixed = len(missing) * 2 * index.BLOCK
        return {
            encoding: pictures * (each[encoding] + overhead) + fixed
            for encoding in records.ENCODINGS
        }

    def _jpeg_bytes(self, missing: list[Shard]) -> int:
        """Of one picture, from a few of them."""
        sizes: list[int] = []
        step = max(1, len(missing) // SAMPLE)
        for i in range(SAMPLE if missing else 0):
            shard = missing[i * step % len(missing)]
            source = self.originals.splits[shard.split]
            where = shard.start + i % (shard.stop - shard.start)
            try:
                data, _ = records.encode(source[where], self.wish.image_size, "jpeg")
            except PictureError:
                continue
            sizes.append(len(data))
        return sum(sizes) // max(1, len(sizes))

    def free(self) -> int:
        """Bytes that the disk of the destination has left."""
        return shutil.disk_usage(self._folder).free

    def write(self, progress: Progress) -> None:
        """Writes what is missing.

        Raises:
            InputError: it cannot be written, or a damaged shard does not come out as
                it was. What is finished is kept.
        """
        missing = self.missing()
        jobs = map(self._job, missing)
        workers = min(self.wish.workers, len(missing))
        with self._told_of_the_disk():
            for rest in self._folder.glob(f"*{files.UNFINISHED}"):
                rest.unlink()  # of one that was killed
            if not self.finished:
                self._state.save(self._folder / prepared.UNFINISHED)
            for written in crew.do(
                shards.write, jobs, workers=workers, progress=progress
            ):
                self._note(written)

    @contextmanager
    def _told_of_the_disk(self) -> Iterator[None]:
        """Says how much is missing where something cannot be written."""
        try:
            yield
        except (DiskError, OSError) as error:
            why = str(error)
            if isinstance(error, OSError):
                why = f"{self._folder}: cannot be written: {error.strerror or error}"
            left, free = self.sizes()[self.wish.encoding], self.free()
            raise DiskError(
                f"{why}; about {gigabytes(left)} are still to be written, and "
                f"{gigabytes(free)} are free: mend that, then {prepared.AGAIN}"
            ) from None

    def _job(self, shard: Shard) -> Job:
        return Job(
            shard,
            View(self.originals.splits[shard.split], range(shard.start, shard.stop)),
            self._folder,
            f"{self.wish.source}/",
            self.wish.image_size,
            self.wish.encoding,
            self._state.written.get(shard.file, {}).get("sha256"),
        )

    def _note(self, written: shards.Written) -> None:
        before = self._state.written.get(written.shard.file)
        if before is None:
            self._state.add(written)
            self._state.save(self._folder / prepared.UNFINISHED)
        elif before["sha256"] != written.sha256:
            raise InputError(
                f"--source={str(self.wish.source)!r}: its pictures are not those of "
                f"which {written.shard.file} was made before; give another "
                f"{KEY}, to make all shards of the same ones"
            )

    def finish(self) -> dict[str, Any]:
        """Writes all that stands beside the shards; the manifest comes last.

        Returns:
            The manifest.

        Raises:
            InputError: a split has no picture that can be decoded.
        """
        if not self.finished:
            with self._told_of_the_disk():
                write_catalogue(
                    self._folder,
                    self.originals,
                    self._shards,
                    self._state,
                    self._settings,
                )
        (self._folder / prepared.UNFINISHED).unlink(missing_ok=True)
        manifest = prepared.load_manifest(self._folder / prepared.MANIFEST)
        assert manifest is not None
        return manifest
