"""On a real Ray cluster, several raylets on this machine: the rows of the local run, whatever happens to nodes."""

from __future__ import annotations

import errno
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from running import FRAGILE, TWO_CELLS, Watched, is_alive, rows_without_seconds, run_in, start_forked
from support import CODE, SMALL, ask, compose, cs_run

from csrun import cli, executors
from csrun.config import RayConfig
from csrun.errors import RunError
from csrun.executors import launcher as ray_launcher
from csrun.executors import supervise, tasks
from csrun.models import Custom
from csrun.models.autoencoder import Autoencoder
from csrun.models.precision import in_precision
from csrun.runner import run

# Ray leaves handles of processes it has killed without waiting for them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    # By which Ray looks for a free port; it is closed when collected, in whichever test that is.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

executors.confine_ray("local")  # the cluster of these tests, too, listens on the loopback alone
pytest.importorskip("ray", reason="Ray is not installed: pip install 'centersmooth[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from csrun.executors import on_ray as ray_executor  # noqa: E402

ON_RAY = "executor=ray"
SETTINGS = {"RAY_health_check_period_ms": "200", "RAY_health_check_failure_threshold": "2", "RAY_worker_niceness": "0"}
"""A lost node is one after half a second instead of 15; workers share the cores with other tests, else they starve."""
LISTENING = "0A"
STORE = 80 * 2**20
ONE_TASK = (ON_RAY, "ray.in_flight=1")
"""One worker is enough: each that starts takes two seconds of a core."""

SWEEP = ["--multirun", "hydra/launcher=ray"]


@pytest.fixture(scope="module", autouse=True)
def around_all_tests() -> Iterator[None]:
    """Handles are collected here, where the warning of Ray's is ignored, and in no test of another file."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield
    gc.collect()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for tasks and two nodes of one core: three raylets."""
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "no_monitor": True}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=STORE)
    yield made
    made.shutdown()


@pytest.fixture(scope="class")
def one_driver(cluster: Cluster) -> Iterator[None]:
    """Let the runs of a class be those of one driver: workers that it has serve them all."""
    with ray_executor.connected(RayConfig(address=cluster.address)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_executor, "connected", lambda settings: nullcontext())
        yield


@pytest.mark.usefixtures("one_driver")
class TestLosses:
    """Losses of nodes and of workers."""

    @pytest.mark.slow
    def test_a_node_is_removed_another_joins_and_the_rows_are_the_local_ones(self, cluster, tmp_path, two_cells):
        """With 3 of 8 points done, twice as many tasks under way as there are cores; both models are trained there."""
        first = set(cluster.worker_nodes)

        def saved() -> int:
            return len(list((tmp_path / "ray").glob("*/evidence/center.tv-v1/*.npz")))

        def exchange() -> None:
            if saved() == 3 and first == cluster.worker_nodes:
                cluster.remove_node(min(first, key=id), allow_graceful=False)
                cluster.add_node(num_cpus=1, object_store_memory=STORE)

        overrides = (*TWO_CELLS, ON_RAY, f"ray.address={cluster.address}")
        result = run_in(tmp_path / "ray", *overrides, display=Watched(exchange))
        assert len(first & cluster.worker_nodes) == 1
        assert saved() == 8
        assert result.failed == 0
        assert rows_without_seconds(result.folder) == rows_without_seconds(two_cells)

    @pytest.mark.slow
    def test_without_any_node_it_says_that_it_waits_and_goes_on_with_the_next(self, cluster, tmp_path, monkeypatch):
        monkeypatch.setattr(ray_executor, "PATIENCE", 0.5)
        screen = Watched()

        nodes = list(cluster.worker_nodes)

        def lose_all() -> None:
            while nodes:
                cluster.remove_node(nodes.pop(), allow_graceful=False)

        def say(line: str) -> None:
            said.append(line)
            if "waiting for one to join" in line:
                cluster.add_node(num_cpus=1, object_store_memory=STORE)

        said: list[str] = []
        screen.look, screen.say = lose_all, say
        result = run_in(tmp_path, "points.count=4", ON_RAY, f"ray.address={cluster.address}", display=screen)
        assert said.count("no node of the Ray cluster is left that could go on: waiting for one to join") == 1
        assert result.failed == 0
        assert {row["point"] for row in rows_without_seconds(result.folder)} == set("0123")

    @pytest.mark.slow
    def test_what_fails_at_one_point_is_a_row_with_its_reason(self, cluster, tmp_path, monkeypatch):
        """A model of the user's own, whose module no worker can import: NaN, a dead worker, an exception at a point."""
        monkeypatch.setattr(ray_executor, "RETRIES", 0)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "fragile.py").write_text(FRAGILE)
        np.save(tmp_path / "inputs.npy", np.array([0, 3, 1, 2, 4], np.float32)[:, None].repeat(64, axis=1))
        own = ["experiment=custom", "model=fragile:model", f"data.path={tmp_path / 'inputs.npy'}", "grid.eps=[0.01]"]
        counts = ["budget=smoke", "n=500", "m=600", "delta=0.17", "points.count=5", f"out={tmp_path / 'runs'}"]
        config = compose(*own, *counts, *ONE_TASK, f"ray.address={cluster.address}")
        result = run(config, Watched(), "cs-run (test)")
        rows = rows_without_seconds(result.folder)
        assert result.failed == 3
        assert {row["outcome"] for row in rows if row["point"] in "01"} == {"certified"}
        reasons = {row["point"]: row["reason"] for row in rows if row["outcome"] == "failed"}
        assert "NaN or infinity" in reasons["2"]
        assert "its worker was lost 1 times" in reasons["3"]
        assert "KeyError 'no such gene'" in reasons["4"]


class Stop(BaseException):
    """What the handler of a signal raises."""


@pytest.mark.slow
def test_a_signal_ends_the_run_as_it_does_without_ray(cluster, tmp_path):
    def stop(number: int, frame: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGTERM, stop)
    later = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    display = Watched(lambda: later.start() if later.ident is None else None)
    try:
        with pytest.raises(Stop):
            run_in(tmp_path, "points.count=100", *ONE_TASK, f"ray.address={cluster.address}", display=display)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_sweep_whose_jobs_are_tasks_gives_the_rows_of_local_runs(cluster, tmp_path):
    """`hydra/launcher=ray`: a job a seed, in a worker, and what it prints is shown."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'centersmooth[ray-launcher]'")
    for seed in "01":  # the jobs find models that are trained
        run_in(tmp_path / seed, f"seed={seed}", figures=False)
        shutil.copytree(tmp_path / seed / "checkpoints", tmp_path / "ray" / seed / "checkpoints")
    asked = [*SMALL, *SWEEP, f"ray.address={cluster.address}", "seed=0,1", "out=ray/${seed}"]
    done = cs_run(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "certify autoencoder on digits, scale 0.4 ..." in done.stdout
    for seed in "01":
        of_job, local = (folder / seed / "tv_digits" for folder in (tmp_path / "ray", tmp_path))
        assert rows_without_seconds(of_job) == rows_without_seconds(local)
    assert not Path("ray").exists()  # where the worker is


@pytest.mark.slow
def test_a_sweep_on_ray_fails_in_one_line(cluster, tmp_path):
    """Of a job, whose error comes back from its worker."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'centersmooth[ray-launcher]'")
    with patch.dict(os.environ):  # a sweep sets variables of Ray's
        done = ask(*SMALL, *SWEEP, f"ray.address={cluster.address}", "rule=paper,nope", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("1 cells, ") == 1
    expected = "cs-run: rule is 'nope': expected one of paper, exact, measured, enumerated for the certifier center"
    assert done.stderr.splitlines()[-1] == f"{expected}, or null"


@pytest.mark.slow
def test_jobs_no_node_has_room_for_are_refused(cluster, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'centersmooth[ray-launcher]'")
    with patch.dict(os.environ):  # a sweep sets variables of Ray's
        done = ask(*SWEEP, f"ray.address={cluster.address}", "ray.cpus=3", "dry_run=true", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "no node of the Ray cluster has ray.cpus=3: ask for less" in done.stderr


@pytest.mark.slow
def test_tasks_no_node_has_room_for_are_refused(cluster, tmp_path):
    with pytest.raises(RunError, match=r"no node of the Ray cluster has ray.cpus=3: ask for less"):
        run_in(tmp_path, ON_RAY, "ray.cpus=3", f"ray.address={cluster.address}")


@contextmanager
def begun(out: Path, checkpoints: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """A run on Ray of 40 points, as a user starts it, with the first of them done; what it says is in ``out/said``."""
    shutil.copytree(checkpoints, out / "checkpoints")
    command = [sys.executable, "-c", CODE, *SMALL, "points.count=40", f"out={out}", *ONE_TASK, *overrides]
    with open(out / "said", "w") as said:
        user = subprocess.Popen(command, cwd=out.parent, stderr=said, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    try:
        while not done_in(out):
            assert user.poll() is None, (out / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield user
    finally:
        user.wait(timeout=120)


def done_in(out: Path) -> list[Path]:
    return list(out.glob("*/evidence/center.tv-v1/*.npz"))


@pytest.mark.slow
def test_a_driver_that_dies_leaves_what_is_written(cluster, tmp_path, checkpoints):
    with begun(tmp_path / "runs", checkpoints, f"ray.address={cluster.address}") as driver:
        run_itself, done = descendants(driver.pid)[0], done_in(tmp_path / "runs")
        driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_alive(run_itself):  # it dies with the process outside, and with it go its locks
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = {path: path.stat().st_mtime_ns for path in done}
    result = run_in(tmp_path / "runs", "points.count=4", "wait=true")  # its threads may hold locks a while
    local = run_in(tmp_path / "local", "points.count=4")
    assert rows_without_seconds(result.folder) == rows_without_seconds(local.folder)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_that_loses_its_process_says_how_to_go_on(tmp_path, monkeypatch):
    """As where Ray ends it, because it notices first that the cluster is lost; a child of it may live on."""
    lost = "import os, signal, subprocess; subprocess.Popen(['sleep', '9'], close_fds=False); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(supervise, "_PROGRAM", lost)
    started = time.monotonic()
    user = start_forked(*SMALL, *ONE_TASK, cwd=tmp_path, said=tmp_path / "said")
    user.join(timeout=120)
    assert time.monotonic() - started < 9
    assert user.exitcode == 2
    assert re.search(r"what is finished is kept.*continue", last_line(tmp_path / "said"))


DEAF = "import signal; signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])"
"""A program that ends by the signal and says nothing."""


@pytest.mark.parametrize(
    ("number", "code", "program"),
    [(signal.SIGINT, 130, supervise._PROGRAM), (signal.SIGTERM, 143, supervise._PROGRAM), (signal.SIGTERM, 143, DEAF)],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM, without a word"],
)
def test_an_interruption_is_never_taken_for_a_lost_cluster(tmp_path, monkeypatch, number, code, program):
    """The process of the run says so as soon as it has started, or the one outside in its place."""
    starting = f"import pathlib, time; pathlib.Path({str(tmp_path / 'there')!r}).touch(); time.sleep(0.2)\n"
    monkeypatch.setattr(supervise, "_PROGRAM", starting + program)
    user = start_forked(*SMALL, *ONE_TASK, cwd=tmp_path, said=tmp_path / "said")
    deadline = time.monotonic() + 60
    while not (tmp_path / "there").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(user.pid, number)
    user.join(timeout=120)
    assert user.exitcode == code, (tmp_path / "said").read_text()
    assert re.fullmatch(r"stopped; what is finished is kept. To continue: cs-run .*\n", (tmp_path / "said").read_text())


@pytest.mark.slow
def test_a_run_that_loses_a_cluster_of_its_own_says_how_to_go_on_and_no_port_was_open_to_others(
    tmp_path, checkpoints, monkeypatch
):
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    with begun(tmp_path / "runs", checkpoints) as user:
        addresses = listening_on(user.pid)
        (raylet,) = [one for one in descendants(user.pid) if "raylet/raylet" in command_of(one).partition(" ")[0]]
        os.kill(raylet, signal.SIGKILL)
    assert user.returncode == 2
    assert re.search(r"what is finished is kept.*continue", last_line(tmp_path / "runs" / "said"))
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)), OSError("Broken pipe")], ids=["python's", "ray's"]
)
def test_a_broken_connection_to_the_cluster_is_the_loss_of_it(cluster, error):
    """What a driver meets first where a raylet is killed: of the exceptions of Python, not of Ray."""
    expected = r"the Ray cluster went away \(.*Broken pipe\); what is finished is kept: the same command continues"
    with pytest.raises(RunError, match=expected), ray_executor.connected(RayConfig(address=cluster.address)):
        raise error


@pytest.mark.slow
def test_a_full_disk_is_no_loss_of_the_cluster(cluster):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"), ray_executor.connected(RayConfig(address=cluster.address)):
        raise full


def last_line(file: Path) -> str:
    return file.read_text().splitlines()[-1]


def command_of(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def descendants(process: int) -> list[int]:
    """Children, their children and so on, nearest first."""
    found = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return found + [below for child in found for below in descendants(child)]


def listening_on(process: int) -> set[str]:
    """Addresses at which the processes of a session listen, as the kernel writes them."""
    own = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == process:
                own |= {os.readlink(file) for file in (folder / "fd").iterdir()}
        except OSError:
            continue
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return {line[1].partition(":")[0] for line in lines if line[3] == LISTENING and f"socket:[{line[9]}]" in own}


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "expected"),
    [
        ({"CPU": 16.0}, 1, 0, 16),
        ({"CPU": 16.0}, 3, 0, 5),
        ({"CPU": 16.0, "GPU": 2.0}, 1, 0.25, 8),
        ({"CPU": 2.0, "GPU": 8.0}, 1, 1, 2),
        ({"CPU": 16.0}, 1, 1, 0),
        ({}, 1, 0, 0),
    ],
)
def test_how_many_tasks_a_node_runs_at_once(resources, cpus, gpus, expected):
    assert ray_executor._fitting(resources, cpus, gpus) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["executor=cluster"], "executor is 'cluster': expected local or ray"),
        (["ray.cpus=0"], "ray.cpus is 0: expected an integer of at least 1"),
        (["ray.in_flight=0"], "ray.in_flight is 0"),
        (["ray.gpus=0.5"], "ray.gpus is 0.5: expected 0 with device=cpu"),
        (["ray.address=ray://head:10001"], "expected local, auto or HOST:PORT"),
    ],
)
def test_a_mistake_is_one_line(overrides, message):
    with pytest.raises(RunError) as error:
        compose(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "gpus"),
    [({}, 0), ({"device": "cuda"}, 1), ({"ray.gpus": "0.5"}, 0.5), ({"ray.gpus": "0"}, 0), ({"device": "cpu"}, 0)],
)
def test_what_a_job_of_a_sweep_takes(given, gpus, monkeypatch):
    """GPUs of the nodes can be asked for from a driver that has none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = ray_launcher._settings({"ray.cpus": "3", "rule": "paper,exact"} | given)
    assert (settings.address, settings.cpus, settings.gpus) == ("local", 3, gpus)


def test_without_the_launcher_of_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'centersmooth\[ray-launcher\]'"):
        cli._require_usable_launcher({"hydra/launcher": "ray"}, sweep=True)


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "csrun.executors.on_ray", None)
    with pytest.raises(RunError, match=r"pip install 'centersmooth\[ray\]', or executor=local"):
        run_in(tmp_path, "executor=ray")


def test_a_cell_is_the_same_on_a_worker():
    """What makes a model compute in another precision lies on the instance: it travels too."""
    model = in_precision(Autoencoder(1, 8, width=4).to(memory_format=torch.channels_last).eval(), "bfloat16")
    inputs = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        expected = model(inputs)
        assert torch.equal(tasks.unpack(tasks.pack(model), "cpu")(inputs), expected)
        assert not torch.equal(Autoencoder.forward(model, inputs), expected)


def test_a_model_that_cannot_travel_is_one_line():
    with pytest.raises(RunError, match=r"cannot be sent to a worker \(.*\): use executor=local"):
        tasks.pack(Custom(threading.Lock().__enter__))
