"""Center smoothing (Kumar and Goldstein 2021): search, evidence, far radius and rules."""

from centersmooth.certifiers.center.certifier import Center
from centersmooth.certifiers.center.enumerated import Enumerated, EnumeratedEvidence
from centersmooth.certifiers.center.evidence import CenterEvidence
from centersmooth.certifiers.center.nearest import Nearest, NearestEvidence

__all__ = ["Center", "CenterEvidence", "Enumerated", "EnumeratedEvidence", "Nearest", "NearestEvidence"]
