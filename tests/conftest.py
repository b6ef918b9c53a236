"""One thread (the machine is shared, and thread counts change last digits), reproducible hypothesis examples."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repository", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("repository")
