import numpy as np


def score(temperature, mean, stddev):
    return (temperature - mean) / np.where(stddev > 0, stddev, np.nan)


register("anomaly_score", score)
