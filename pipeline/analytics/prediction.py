"""`Course`: where tracked boxes will be, from where they were: a Kalman filter for all of them at once."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MEASURED_TO = 0.05
"""Standard deviation of a detector's box, as a share of its height. As in SORT and ByteTrack (Zhang et al., 2022)."""

_FIRST_SPEED = 2.0
"""Standard deviation of the speed of what was seen once, in heights a second: 10/160 of a height a frame at 30 fps."""

_UNREST = 0.5
"""How fast a speed wanders, in heights a second, for each square root of a second: half of ByteTrack's 1/160 of a
height a frame at 30 fps; people in PETS09-S2L1 and cars change their numbers less often with it."""

_SMALLEST_PX = 1.0


class Course:
    """Centre, width and height of N boxes with their speeds, each of the four by itself with a constant speed.

    The noise is that of ByteTrack's filter, but by seconds instead of frames: frames may be missing or unevenly spaced.
    """

    def __init__(self) -> None:
        self._place = np.zeros((0, 4))
        self._speed = np.zeros((0, 4))
        self._place_variance = np.zeros((0, 4))
        self._covariance = np.zeros((0, 4))
        self._speed_variance = np.zeros((0, 4))

    def __len__(self) -> int:
        return len(self._place)

    @property
    def xyxy(self) -> Floats:
        """float64 (N, 4) xyxy: where the boxes are thought to be."""
        centre, half = self._place[:, :2], np.maximum(self._place[:, 2:], _SMALLEST_PX) / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    @property
    def doubt(self) -> Floats:
        """float64 (N,): by how many pixels each may be elsewhere, one standard deviation."""
        deviation: Floats = np.sqrt(self._place_variance[:, 0])
        return deviation

    def advance(self, passed_s: float, unseen: npt.NDArray[np.bool_]) -> None:
        """Let time pass. `unseen`, bool (N,): not found the last time: their size stays, it would grow for ever."""
        self._speed[unseen, 2:] = 0.0
        unrest = (_UNREST * self._heights()) ** 2
        self._place += self._speed * passed_s
        self._place_variance += passed_s * (2 * self._covariance + passed_s * self._speed_variance)
        self._place_variance += unrest * passed_s**3 / 3
        self._covariance += passed_s * self._speed_variance + unrest * passed_s**2 / 2
        self._speed_variance += unrest * passed_s

    def correct(self, rows: npt.NDArray[np.intp], xyxy: Floats) -> None:
        """These were found here: float64 (P, 4) xyxy for the P rows."""
        measured = _centre_and_size(xyxy)
        noise = (MEASURED_TO * measured[:, 3:4]) ** 2
        variance, covariance = self._place_variance[rows], self._covariance[rows]
        gain, speed_gain = variance / (variance + noise), covariance / (variance + noise)
        surprise = measured - self._place[rows]
        self._place[rows] += gain * surprise
        self._speed[rows] += speed_gain * surprise
        self._speed_variance[rows] -= speed_gain * covariance
        self._place_variance[rows] = (1 - gain) * variance
        self._covariance[rows] = (1 - gain) * covariance

    def add(self, xyxy: Floats) -> None:
        """New ones, float64 (P, 4) xyxy, behind those that are there; nothing is known of their speed."""
        place = _centre_and_size(xyxy)
        height = np.repeat(place[:, 3:4], 4, axis=1)
        self._place = np.concatenate([self._place, place])
        self._speed = np.concatenate([self._speed, np.zeros_like(place)])
        self._place_variance = np.concatenate([self._place_variance, (2 * MEASURED_TO * height) ** 2])
        self._covariance = np.concatenate([self._covariance, np.zeros_like(place)])
        self._speed_variance = np.concatenate([self._speed_variance, (_FIRST_SPEED * height) ** 2])

    def keep(self, rows: npt.NDArray[np.bool_]) -> None:
        """Forget all but these, bool (N,)."""
        self._place = self._place[rows]
        self._speed = self._speed[rows]
        self._place_variance = self._place_variance[rows]
        self._covariance = self._covariance[rows]
        self._speed_variance = self._speed_variance[rows]

    def _heights(self) -> Floats:
        return np.maximum(self._place[:, 3:4], _SMALLEST_PX)


def _centre_and_size(xyxy: Floats) -> Floats:
    return np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], axis=1)
