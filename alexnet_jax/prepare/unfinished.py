"""What is finished of a folder of prepared pictures while the rest is not."""

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data.files import UNFINISHED, flush
from alexnet_jax.data.statistics import Sums
from alexnet_jax.prepare.shards import Written


@dataclass
class Unfinished:
    """What is finished of a folder, whatever happens next.

    Attributes:
        settings: what the folder is made with.
        written: by file, what there is to know of a finished shard.
        sums: over the training pictures of all finished shards.
    """

    settings: dict[str, Any]
    sums: Sums
    written: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, shard: Written) -> None:
        """Count a shard that was not finished before."""
        self.written[shard.shard.file] = {
            "sha256": shard.sha256,
            "index": shard.index_sha256,
            "bytes": shard.size,
            "records": shard.records,
            "classes": sorted(shard.classes),
            "unreadable": list(shard.unreadable),
        }
        if shard.sums is not None:
            self.sums += shard.sums

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        text = json.dumps({"settings": self.settings, "written": self.written})
        temporary = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    text=np.frombuffer(text.encode(), np.uint8),
                    count=self.sums.count,
                    image=self.sums.image,
                    products=self.sums.products,
                )
            flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        flush(path.parent)

    @classmethod
    def load(cls, path: Path) -> "Unfinished | None":
        """What `save` wrote; None if it was not there or is damaged."""
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                tree = json.loads(arrays["text"].tobytes())
                image, products = arrays["image"], arrays["products"]
                sums = Sums(int(arrays["count"]), image, products)
            return cls(tree["settings"], sums, tree["written"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
