"""How far a temperature is from what its device said before."""

import numpy as np

MIN_ROWS = 30


def anomaly_score(value: np.ndarray, mean: np.ndarray, stddev: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The z-score of each value; NaN, which becomes null, before 30 rows and where all were the same."""
    known = (count >= MIN_ROWS) & (stddev > 0)
    return np.where(known, (value - mean) / np.where(known, stddev, 1.0), np.nan)
