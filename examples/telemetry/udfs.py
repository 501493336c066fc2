"""Functions of the telemetry example. Each takes whole columns and returns one."""

import numpy as np

MIN_ROWS = 30


def anomaly_score(value: np.ndarray, mean: np.ndarray, stddev: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The z-score of each value against its key's history, with the deviation of the population.

    There is none (NaN, which becomes null) before 30 rows, and where all values so far were the same.
    """
    known = (count >= MIN_ROWS) & (stddev > 0)
    return np.where(known, (value - mean) / np.where(known, stddev, 1.0), np.nan)


register("anomaly_score", anomaly_score)  # noqa: F821 - `register` is there when a job loads this module
