"""Readings of many sensors as Avro, made by whole arrays: a record has a fixed length, since its members do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

DIGITS = 6
SENSORS = 10**DIGITS
"""A sensor's name has six digits."""

_NAME = b"sensor-"
_MILLIS, _MICROS = 6, 8
"""Bytes of a time of these decades as a variable-length number."""

_TEXT = 1 + len(_NAME) + DIGITS
_WIDTH = _TEXT + _MILLIS + 3 * 8 + _MICROS

USUAL = ((20.0, 5.0), (50.0, 20.0), (30.0, 10.0))
"""Temperature, humidity, air quality: their middle, and how far they are from it, by half at least."""

SPIKE = 95.0
"""What the temperature of an anomaly is."""


class Readings:
    """Readings in which each sensor comes once before any comes again, the same ones for the same seed."""

    def __init__(self, sensors: int, seed: int = 7) -> None:
        if not 1 <= sensors <= SENSORS:
            raise ValueError(f"from 1 to {SENSORS} sensors, not {sensors}")
        self._rng = np.random.default_rng(seed)
        self._order = self._rng.permutation(sensors)
        self._next = 0
        self._spiked = np.zeros(sensors, np.bool_)
        digits = (np.arange(sensors)[:, None] // 10 ** np.arange(DIGITS - 1, -1, -1)) % 10
        self._digits = (digits + ord("0")).astype(np.uint8)

        self.spikes = 0
        """Anomalies so far."""

    record_bytes = _WIDTH

    def encode(self, times_ms: npt.NDArray[np.int64], sent_us: int, spikes: int = 0) -> tuple[Bytes, Bytes]:
        """The next readings, one for each time: their records, shape (n, bytes of one), and their sensors' names, shape
        (n, bytes of one). Up to `spikes` are anomalies, of sensors that had none: see `spikes`."""
        count = len(times_ms)
        rounds, places = np.divmod(self._next + np.arange(count), len(self._order))
        self._next += count
        signs = 1.0 - 2.0 * (rounds % 2)
        sensors = self._order[places]
        digits = self._digits[sensors]
        # After one anomaly the next would be usual for its sensor.
        anomalous = np.flatnonzero(~self._spiked[sensors])[:spikes]
        self._spiked[sensors[anomalous]] = True
        self.spikes += len(anomalous)
        values = np.empty((count, 3), "<f8")
        # Above and below in turn: no sensor is quiet enough for its usual values to be anomalies.
        for column, (middle, amplitude) in enumerate(USUAL):
            values[:, column] = middle + signs * amplitude * self._rng.uniform(0.5, 1.0, count)
        values[anomalous, 0] = SPIKE
        records = np.empty((count, _WIDTH), np.uint8)
        records[:, 0] = 2 * (len(_NAME) + DIGITS)
        records[:, 1 : 1 + len(_NAME)] = np.frombuffer(_NAME, np.uint8)
        records[:, 1 + len(_NAME) : _TEXT] = digits
        records[:, _TEXT : _TEXT + _MILLIS] = _varint(times_ms, _MILLIS)
        records[:, _TEXT + _MILLIS : _WIDTH - _MICROS] = values.view(np.uint8).reshape(count, 24)
        records[:, _WIDTH - _MICROS :] = _varint(np.full(count, sent_us, np.int64), _MICROS)
        return records, records[:, 1:_TEXT]


def rows(records: Bytes) -> Iterator[bytes]:
    """Each row's bytes."""
    whole, width = records.tobytes(), records.shape[1]
    return (whole[at : at + width] for at in range(0, len(whole), width))


def _varint(values: npt.NDArray[np.int64], width: int) -> Bytes:
    """Avro's longs, zigzag and seven bits a byte, where all have the same length; shape (n, width)."""
    coded = values.astype(np.uint64) << np.uint64(1)
    if len(values) and not (np.all(coded >> np.uint64(7 * (width - 1))) and not np.any(coded >> np.uint64(7 * width))):
        raise ValueError("a time is not of these decades")
    parts = (coded[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)).astype(np.uint8) & 0x7F
    parts[:, :-1] |= 0x80
    return parts
