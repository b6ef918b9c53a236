"""Hydra's launcher on Ray: each job of a sweep is a task, on the cluster and of the size that ``ray.*`` say.

The launcher, of ``hydra-ray-launcher``, takes the cluster that its process belongs to. A job is a run with
``executor=local`` in a worker, with as many workers of its own as it has cores.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from csrun.config import RayConfig, validate_ray
from csrun.errors import RunError, first_line
from csrun.executors import confine_ray

LAST_LINES = 5.0
"""Seconds given to Ray to bring what workers printed last, before the driver leaves the cluster."""


@contextmanager
def launching(given: Mapping[str, str]) -> Iterator[list[str]]:
    """Be the driver of a sweep with these settings of the command line; the overrides that it needs beside them.

    Raises
    ------
    RunError
        There is no such cluster, no node of it has room for a job, or it goes away.
    """
    settings = _settings(given)
    confine_ray(settings.address)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # else lines that two jobs have in common are shown once
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    from csrun.executors.on_ray import connected, require_room

    with connected(settings, show_workers=True):
        require_room(settings)
        remote = "++hydra.launcher.ray.remote"
        try:
            workers = [] if settings.gpus else [f"workers={settings.cpus}"]
            # Hydra makes a job's folder where its worker is, not where the sweep was started: one that is there anyway.
            folder = f"hydra.sweep.subdir={os.sep}"
            sizes = [f"{remote}.num_cpus={settings.cpus}", f"{remote}.num_gpus={settings.gpus}"]
            yield [*workers, "wait=true", folder, *sizes]
        finally:
            time.sleep(LAST_LINES)


def _settings(given: Mapping[str, str]) -> RayConfig:
    """``ray.*`` of the command line, on which Hydra's own configuration waits."""
    own = [f"{key.removeprefix('ray.')}={value}" for key, value in given.items() if key.startswith("ray.")]
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RayConfig), OmegaConf.from_dotlist(own)))
    except OmegaConfBaseException as error:
        raise RunError(f"ray.{error.full_key}: {first_line(error)}; one value for all jobs is expected") from error
    assert isinstance(settings, RayConfig)
    validate_ray(settings, _device(given, settings))
    return settings


def _device(given: Mapping[str, str], settings: RayConfig) -> str:
    """Device a job will compute on. Nodes may have GPUs where the driver has none."""
    if given.get("device") == "cpu":
        return "cpu"
    if settings.gpus is not None:
        return "cuda" if settings.gpus > 0 else "cpu"
    return "cuda" if given.get("device") == "cuda" or torch.cuda.is_available() else "cpu"
