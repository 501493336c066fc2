"""How far a reading is from what its sensor said before."""

from __future__ import annotations

import numpy as np

HISTORY = 10
"""Readings of a sensor before any of them is called an anomaly."""


def anomaly(
    temperature: np.ndarray,
    humidity: np.ndarray,
    air_quality: np.ndarray,
    count: np.ndarray,
    temperature_mean: np.ndarray,
    temperature_stddev: np.ndarray,
    humidity_mean: np.ndarray,
    humidity_stddev: np.ndarray,
    air_quality_mean: np.ndarray,
    air_quality_stddev: np.ndarray,
) -> np.ndarray:
    """The largest of the three z-scores, float64; NaN while a sensor has too little history or has not varied."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.abs(temperature - temperature_mean) / temperature_stddev
        np.fmax(score, np.abs(humidity - humidity_mean) / humidity_stddev, out=score)
        np.fmax(score, np.abs(air_quality - air_quality_mean) / air_quality_stddev, out=score)
    return np.where((count >= HISTORY) & np.isfinite(score), score, np.nan)
