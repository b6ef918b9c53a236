"""On a real Ray cluster, several raylets on this machine: the rows of the local run, whatever happens to nodes."""

from __future__ import annotations

import gc
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from running import FRAGILE, TWO_CELLS, is_alive, rows_without_seconds, run_in
from support import CODE, SMALL, compose, cs_run

from csrun import cli, executors
from csrun.errors import RunError
from csrun.executors import launcher as ray_launcher
from csrun.executors import tasks
from csrun.models import Custom
from csrun.models.autoencoder import Autoencoder
from csrun.models.precision import in_precision
from csrun.runner import run
from csrun.system.progress import Display

# One cluster at a time. Ray leaves handles of processes it has killed without waiting for them.
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    # By which Ray looks for a free port; it is closed when collected, in whichever test that is.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

executors.confine_ray("local")  # the cluster of these tests, too, listens on the loopback alone
pytest.importorskip("ray", reason="Ray is not installed: pip install 'centersmooth[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from csrun.executors import on_ray as ray_executor  # noqa: E402

ON_RAY = "executor=ray"
LISTENING = "0A"
STORE = 80 * 2**20


@pytest.fixture(autouse=True)
def no_handle_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collected here, where the warning of Ray's handles is ignored, and in no test of another file."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for tasks and two nodes of one core: three raylets."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=STORE)
    yield made
    made.shutdown()


class Watched(Display):
    """A display without a screen that calls a function whenever work was done."""

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.look = look

    def advance(self, units: float) -> None:
        super().advance(units)
        self.look()


@pytest.mark.slow
def test_a_node_is_removed_another_joins_and_the_rows_are_the_local_ones(cluster, tmp_path, two_cells):
    """With 3 of 8 points done, twice as many tasks under way as there are cores; both models are trained there too."""
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
def test_without_any_node_it_says_that_it_waits_and_goes_on_with_the_next(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "PATIENCE", 0.5)
    screen = Watched()

    nodes = list(cluster.worker_nodes)

    def lose_all() -> None:
        while nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    def say(line: str) -> None:
        said.append(line)
        if "waiting for one to join" in line:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=STORE)

    said: list[str] = []
    screen.look, screen.say = lose_all, say
    result = run_in(tmp_path, "points.count=4", ON_RAY, f"ray.address={cluster.address}", display=screen)
    assert said.count("no node of the Ray cluster is left that could go on: waiting for one to join") == 1
    assert result.failed == 0
    assert {row["point"] for row in rows_without_seconds(result.folder)} == set("0123")


@pytest.mark.slow
def test_what_fails_at_one_point_is_a_row_with_its_reason(cluster, tmp_path, monkeypatch):
    """A model of the user's own, whose module no worker could import: NaN, a dead worker, an exception at a point."""
    monkeypatch.setattr(ray_executor, "RETRIES", 0)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fragile.py").write_text(FRAGILE)
    np.save(tmp_path / "inputs.npy", np.array([0, 3, 1, 2, 4], np.float32)[:, None].repeat(64, axis=1))
    own = ["experiment=custom", "model=fragile:model", f"data.path={tmp_path / 'inputs.npy'}", "grid.eps=[0.01]"]
    counts = ["budget=smoke", "n=1000", "m=1100", "points.count=5", f"out={tmp_path / 'runs'}"]
    config = compose(*own, *counts, ON_RAY, f"ray.address={cluster.address}")
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
            run_in(tmp_path, "points.count=100", ON_RAY, f"ray.address={cluster.address}", display=display)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_sweep_whose_jobs_are_tasks_gives_the_rows_of_local_runs(cluster, tmp_path):
    """`hydra/launcher=ray`: a job a seed, in workers of two nodes, and what its workers print is shown."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'centersmooth[ray-launcher]'")
    launch = ["--multirun", "hydra/launcher=ray", f"ray.address={cluster.address}", "out=ray/${seed}"]
    done = cs_run(*SMALL, *launch, "seed=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "certify autoencoder on digits, scale 0.4 ..." in done.stdout
    for seed in "01":
        local = run_in(tmp_path / "local" / seed, f"seed={seed}")
        assert rows_without_seconds(tmp_path / "ray" / seed / "tv_digits") == rows_without_seconds(local.folder)
    assert not Path("ray").exists()  # where the workers are


@pytest.mark.slow
def test_a_sweep_on_ray_fails_in_one_line(cluster, tmp_path):
    """Of a job, whose error comes back from its worker, and of the sweep itself."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'centersmooth[ray-launcher]'")
    launch = ["--multirun", "hydra/launcher=ray", f"ray.address={cluster.address}", "dry_run=true"]
    job = cs_run(*SMALL, *launch, "rule=paper,nope", cwd=tmp_path)
    assert job.returncode == 2
    assert job.stdout.count("1 cells, ") == 1
    assert (
        job.stderr.splitlines()[-1]
        == "cs-run: rule is 'nope': expected paper, exact or measured for the certifier center, or null"
    )
    sweep = cs_run(*SMALL, *launch, "ray.cpus=3", cwd=tmp_path)
    assert (sweep.returncode, len(sweep.stderr.splitlines())) == (2, 1)
    assert "no node of the Ray cluster has ray.cpus=3: ask for less" in sweep.stderr


@pytest.mark.slow
def test_tasks_no_node_has_room_for_are_refused(cluster, tmp_path):
    with pytest.raises(RunError, match=r"no node of the Ray cluster has ray.cpus=3: ask for less"):
        run_in(tmp_path, ON_RAY, "ray.cpus=3", f"ray.address={cluster.address}")


@pytest.mark.slow
def test_a_driver_that_dies_leaves_what_is_written_and_no_port_was_open_to_others(tmp_path, checkpoints):
    shutil.copytree(checkpoints, tmp_path / "runs" / "checkpoints")
    overrides = [*SMALL, "points.count=40", f"out={tmp_path / 'runs'}", "executor=ray"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    command = [sys.executable, "-c", CODE, *overrides]
    driver = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (done := list((tmp_path / "runs").glob("*/evidence/center.tv-v1/*.npz"))):
        assert driver.poll() is None, driver.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    addresses, run_itself = listening_on(driver.pid), descendants(driver.pid)[0]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stderr.close()
    while is_alive(run_itself):  # it dies with the process outside, and with it go its locks
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    before = {path: path.stat().st_mtime_ns for path in done}
    result = run_in(tmp_path / "runs", "points.count=4", "wait=true")  # its threads may hold locks a while
    local = run_in(tmp_path / "local", "points.count=4")
    assert rows_without_seconds(result.folder) == rows_without_seconds(local.folder)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["raylet/raylet", "executor=ray"])
def test_a_run_that_loses_its_cluster_or_its_process_says_how_to_go_on(tmp_path, checkpoints, lost):
    """The second pattern is that of the process Ray ends, where it notices the loss first."""
    shutil.copytree(checkpoints, tmp_path / "runs" / "checkpoints")
    overrides = [*SMALL, "points.count=40", f"out={tmp_path / 'runs'}", "executor=ray"]
    with open(tmp_path / "said", "w") as said:
        user = subprocess.Popen([sys.executable, "-c", CODE, *overrides], cwd=tmp_path, stderr=said)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/evidence/center.tv-v1/*.npz")):
        assert user.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victims = [child for child in descendants(user.pid) if lost in command_of(child)]
    os.kill(victims[0], signal.SIGKILL)
    assert user.wait(timeout=120) == 2
    assert re.search(r"what is finished is kept.*continue", (tmp_path / "said").read_text().splitlines()[-1])


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
