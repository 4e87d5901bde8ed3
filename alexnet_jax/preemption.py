"""Notices of cloud machines that will be taken back, as a SIGTERM to this process.

Slurm sends a signal itself (`launch/slurm.sh`). Spot machines of Google Cloud and AWS
answer a request to their metadata server, which has a minute or two of warning at AWS
and half of one at Google.
"""

import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

SECONDS = 5.0  # between two requests, as AWS advises
TIMEOUT = 5.0  # seconds to wait for an answer

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def _answer(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with _open(request, timeout=TIMEOUT) as response:
        return response.read().decode()


def google_notice() -> bool:
    """Whether Google Cloud takes this machine back.

    GCE_METADATA_HOST names another server, as for Google's own libraries.
    """
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/preempted"
    return _answer(url, {"Metadata-Flavor": "Google"}).strip().upper() == "TRUE"


def aws_notice() -> bool:
    """Whether AWS takes this machine back.

    AWS_EC2_METADATA_SERVICE_ENDPOINT names another server, as for AWS's own libraries.
    """
    address = "http://169.254.169.254"
    server = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", address).rstrip("/")
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _answer(f"{server}/latest/api/token", lifetime, "PUT")
    try:
        notice = f"{server}/latest/meta-data/spot/instance-action"
        return bool(_answer(notice, {"X-aws-ec2-metadata-token": token}))
    except urllib.error.HTTPError as error:
        if error.code == 404:  # no notice
            return False
        raise


CLOUDS: Mapping[str, Callable[[], bool]] = {"aws": aws_notice, "gce": google_notice}


@contextmanager
def watched(cloud: str | None) -> Iterator[None]:
    """Send this process a SIGTERM when its cloud gives notice; None: watch nothing."""
    if cloud is None:
        yield
        return
    over = threading.Event()
    threading.Thread(
        target=_watch, args=(cloud, over), name="preemption", daemon=True
    ).start()
    try:
        yield
    finally:
        over.set()


def _watch(cloud: str, over: threading.Event) -> None:
    answered = True
    while not over.is_set():
        try:
            if CLOUDS[cloud]():
                _warn(f"{cloud} takes this machine back: saving a checkpoint")
                signal.raise_signal(signal.SIGTERM)
                return
            answered = True
        except OSError as error:
            if answered:
                _warn(f"no answer from the metadata server of {cloud} ({error})")
            answered = False
        over.wait(SECONDS)


def _warn(text: str) -> None:
    print(f"preemption: {text}", file=sys.stderr, flush=True)
