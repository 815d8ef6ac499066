"""The toy models of tests/golden, and small heads of the real classes."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))  # for toy.py

torch.set_num_threads(1)  # matrices this small are faster on one core
