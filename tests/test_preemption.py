"""Notices of clouds, from a server here that answers as theirs do."""

import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from apps import refusal, start_app
from runs import assert_same_weights, finished_run, logged, tiny_config, tiny_flags

from alexnet_jax import metrics, preemption
from alexnet_jax.preemption import CLOUDS, watched
from alexnet_jax.train import train

TOKEN = "a token"


class Metadata(ThreadingHTTPServer):
    """The metadata server of a Google or AWS machine."""

    def __init__(self):
        super().__init__(("localhost", 0), Answers)
        self.taken_back = False
        self.asked = threading.Event()
        self.address = f"localhost:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        seconds = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        fits = self.path == "/latest/api/token" and 1 <= int(seconds) <= 21600
        self.answer(200 if fits else 400, TOKEN)

    def do_GET(self) -> None:
        taken_back = self.server.taken_back
        if self.path == "/computeMetadata/v1/instance/preempted":
            allowed = self.headers["Metadata-Flavor"] == "Google"
            self.answer(200 if allowed else 403, "TRUE" if taken_back else "FALSE")
        elif self.path == "/latest/meta-data/spot/instance-action":
            allowed = self.headers["X-aws-ec2-metadata-token"] == TOKEN
            status = (200 if taken_back else 404) if allowed else 401
            self.answer(
                status, '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
            )
        self.server.asked.set()

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch) -> Iterator[Metadata]:
    with Metadata() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("GCE_METADATA_HOST", server.address)
        endpoint = f"http://{server.address}/"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
        monkeypatch.setenv("http_proxy", "http://localhost:9")  # not for metadata
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_notice_is_seen(cloud, metadata):
    assert CLOUDS[cloud]() is False
    metadata.taken_back = True
    assert CLOUDS[cloud]() is True


def test_a_training_saves_and_its_restart_is_exact(
    metadata, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(preemption, "SECONDS", 0.001)
    write = metrics.MetricsFile.write

    def give_notice_at_10(self, line) -> None:
        write(self, line)
        if line["step"] == 10:
            metadata.taken_back = True
            (watcher,) = (t for t in threading.enumerate() if t.name == "preemption")
            watcher.join()  # it ends with the signal

    with watched("aws"), monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsFile, "write", give_notice_at_10)
        assert train(tiny_config(), tmp_path) == signal.SIGTERM
    notice = "preemption: aws takes this machine back: saving a checkpoint\n"
    assert capfd.readouterr().err == notice
    assert train(tiny_config(), tmp_path) is None
    assert logged(tmp_path) == logged(finished_run())
    assert_same_weights(tmp_path, finished_run())


def test_the_command_ends_with_the_status_of_sigterm(metadata, tmp_path):
    workdir = tmp_path / "run"
    flags = [*tiny_flags(workdir, {"steps": 10**6}), "--preemption=gce"]
    # Apps are forks of a server that may be older than this test's environment.
    environment = {"GCE_METADATA_HOST": metadata.address}
    app = start_app(tmp_path, "main", *flags, environment=environment)
    while not (workdir / "metrics.jsonl").exists():
        assert app.is_alive()
        time.sleep(0.01)
    metadata.taken_back = True
    app.join(60)
    app.kill()
    assert app.exitcode == 143
    out, err = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert err == "preemption: gce takes this machine back: saving a checkpoint\n"
    assert out.endswith("; the same command continues the run\n")
    wrong = refusal("main", *flags[:-1], "--preemption=azure")
    assert wrong == "error: --preemption=azure: value should be one of <aws|gce>"


def test_a_server_that_does_not_answer_is_one_line(monkeypatch, capfd):
    monkeypatch.setattr(preemption, "SECONDS", 0.001)
    asked, often = [], threading.Event()

    def no_answer() -> bool:
        asked.append(None)
        if len(asked) > 3:
            often.set()
        raise OSError("no route to host")

    monkeypatch.setattr(preemption, "CLOUDS", {"gce": no_answer})
    with watched("gce"):
        assert often.wait(60)
    assert capfd.readouterr().err == (
        "preemption: no answer from the metadata server of gce (no route to host)\n"
    )


def test_nothing_is_watched_unless_asked_for():
    threads = threading.active_count()
    with watched(None):
        assert threading.active_count() == threads
