"""Hydra's launcher on Ray: each job of a sweep is a task, on the cluster and of the size that ``ray.*`` say.

The launcher, of ``hydra-ray-launcher``, takes the cluster that its process belongs to. A job is a run with
``executor=local`` in a worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from omegaconf import OmegaConf

from centersmooth_experiments.config import RayConfig, validate_ray
from centersmooth_experiments.executors import confine_ray

LAST_LINES = 2.0
"""Seconds given to Ray to bring what workers printed last, before the driver leaves the cluster."""


@contextmanager
def launching(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Be the driver of a sweep with these overrides; the overrides that they need beside them.

    Raises
    ------
    RunError
        There is no such cluster, no node of it has room for a job, or it goes away.
    """
    settings = _settings(overrides)
    confine_ray(settings.address)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # else lines that two jobs have in common are shown once
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")
    from centersmooth_experiments.ray_executor import connected, require_room

    with connected(settings, show_workers=True):
        require_room(settings)
        remote = "++hydra.launcher.ray.remote"
        try:
            yield [f"{remote}.num_cpus={settings.cpus}", f"{remote}.num_gpus={settings.gpus}"]
        finally:
            time.sleep(LAST_LINES)


def _settings(overrides: Sequence[str]) -> RayConfig:
    """``ray.*`` of the command line, on which Hydra's own configuration waits."""
    given = [override.removeprefix("ray.") for override in overrides if override.startswith("ray.")]
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RayConfig), OmegaConf.from_dotlist(given)))
    assert isinstance(settings, RayConfig)
    validate_ray(settings, _device(overrides, settings))
    return settings


def _device(overrides: Sequence[str], settings: RayConfig) -> str:
    """What a job will compute on. Nodes may have GPUs where the driver has none."""
    if "device=cpu" in overrides:
        return "cpu"
    if settings.gpus is not None:
        return "cuda" if settings.gpus > 0 else "cpu"
    return "cuda" if "device=cuda" in overrides or torch.cuda.is_available() else "cpu"
