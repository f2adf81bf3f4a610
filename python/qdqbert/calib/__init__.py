# SPDX-License-Identifier: Apache-2.0
"""Calibrators: what they have seen, and the ranges that follow; names of ``pytorch_quantization.calib``."""

from qdqbert.calib.calibrator import Calibrator
from qdqbert.calib.histogram import HistogramCalibrator
from qdqbert.calib.max import MaxCalibrator
from qdqbert.calib.weights import calibrate_weights

__all__ = ["Calibrator", "HistogramCalibrator", "MaxCalibrator", "calibrate_weights"]
