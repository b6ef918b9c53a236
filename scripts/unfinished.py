"""Models of trainings that were stopped before their last epoch, for `cs-run experiment=custom`.

Usage: STATES=RUNS/checkpoints PYTHONPATH=scripts cs-run experiment=custom "models=[unfinished:smoothmix]" ...

Each reads the one state in STATES that a `label_mnist` training by its method left at its last whole epoch, and says
after how many epochs that was.
"""

from __future__ import annotations

import os
from pathlib import Path

from csrun.models.classifiers import LeNet
from csrun.training.state import SUFFIX, unpacked


def smoothmix() -> LeNet:
    return _lenet("smoothmix")


def smoothadv() -> LeNet:
    return _lenet("smoothadv")


def _lenet(method: str) -> LeNet:
    pattern = f"lenet-mnist-{method}-*{SUFFIX}"
    (path,) = Path(os.environ["STATES"]).glob(pattern)
    state = unpacked(path.read_bytes())
    print(f"{path.name}: after epoch {state['epochs']}")
    model = LeNet(1, 28, 10)
    model.load_state_dict(state["model"])
    return model
