"""Times, and what the machine could do at that time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

PEAK_SIZE = 2048

Step = Callable[[], object]


class Clock:
    """Times a call, waiting for the device before and after."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, step: Step) -> float:
        """Return the milliseconds of one call."""
        self._wait()
        started = time.perf_counter()
        step()
        self._wait()
        return 1000 * (time.perf_counter() - started)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Peak:
    """A large matrix product, to know what the machine can do at this moment."""

    def __init__(self, device: torch.device, dtype: torch.dtype, clock: Clock) -> None:
        size = PEAK_SIZE if device.type == "cpu" else 4 * PEAK_SIZE
        self._a, self._b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        self._clock, self._flops = clock, 2 * size**3
        self.measure()

    def measure(self) -> float:
        """Return GFLOP/s, the best of three."""
        return max(self._flops / self._clock(lambda: self._a @ self._b) / 1e6 for _ in range(3))


def spread(values: Sequence[float]) -> float:
    """Half of the distance between the quartiles, as a share of the median."""
    if len(values) < 3:
        return math.nan
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def device_name(device: torch.device) -> str:
    """What the figures were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
