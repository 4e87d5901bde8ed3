import pytest
from pictures import drawn, encoded
from preparing import CLASSES


@pytest.fixture
def source(tmp_path):
    """Sixty drawn pictures of three classes to train on, six to validate."""
    for split, count in (("train", 20), ("val", 2)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                data = encoded(drawn(100 * label + i), "JPEG")
                (folder / f"{i:02}.JPEG").write_bytes(data)
    return tmp_path / "source"
