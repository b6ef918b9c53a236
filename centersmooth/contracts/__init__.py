"""For your own metrics, noises and certifiers: the contracts they have to keep, and models with a known answer.

`check_metric`, `check_noise` and `check_certifier` are meant to run in your test suite; the library's own run them as
tables, one row for each plug-in.
"""

from centersmooth.contracts.certifiers import check_certifier
from centersmooth.contracts.metrics import check_metric, check_own_metric, check_seminorm
from centersmooth.contracts.noises import check_noise
from centersmooth.contracts.worlds import LinearModel, TwoOutputs

__all__ = [
    "LinearModel",
    "TwoOutputs",
    "check_certifier",
    "check_metric",
    "check_noise",
    "check_own_metric",
    "check_seminorm",
]
