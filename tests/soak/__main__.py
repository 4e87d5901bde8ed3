"""A soak: runs come to harm in every way, and nothing may be lost.

    python tests/soak --minutes=3 --seed=0
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[0] = str(TESTS)
sys.path.insert(0, str(TESTS.parent))

import os
os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
import conftest  # noqa: E402, F401

if __name__ == "__main__":
    from soak import training
    from soak.bench import Bench, table
    from absl import logging
    logging.set_verbosity(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    bench = Bench(folder, 0)
    t=time.time()
    out=[]
    import importlib
    for name in sys.argv[1:]:
        m, f = name.split(".")
        out += getattr(importlib.import_module("soak."+m), f)(bench)
        print(name, time.time()-t)
    print(table(out, []))
    for o in out:
        if o.wrong: print(o.trouble, o.wrong)
