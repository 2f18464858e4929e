"""The class names that a server's answers are made of, kept from answer to answer."""

import threading
from collections.abc import Sequence

MAX_CLASSES = 20_000
"""A server that knows more classes than this is making them up."""

MAX_CLASS_NAME = 1000


class Labels:
    """Which class has which number. Made by a backend, one for its model; usable from any thread.

    What a server says is kept: a class keeps its number. A server that gives one number to two names (a workflow of
    two models) gets a new number for the second: the name is what counts.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names: list[str | None] = list(names)
        self._numbers = {name: number for number, name in reversed(list(enumerate(names)))}
        self._lock = threading.Lock()
        self._tuple: tuple[str, ...] | None = tuple(names)

    @property
    def names(self) -> tuple[str, ...]:
        """All names by number; `class_N` for a number that was not seen yet."""
        with self._lock:
            if self._tuple is None:
                self._tuple = tuple(
                    f"class_{number}" if name is None else name for number, name in enumerate(self._names)
                )
            return self._tuple

    def number(self, class_id: int | None, name: str | None) -> int:
        """The number of a class that an answer names.

        Args:
            class_id: its number in the answer, 0 or more; None: not said.
            name: its name there; None: not said.

        Raises:
            ValueError: there are too many classes.
        """
        with self._lock:
            if name is None or not name:
                return self._of_number(class_id)
            if class_id is None or class_id >= MAX_CLASSES:
                return self._numbers[name] if name in self._numbers else self._add(name)
            if class_id < len(self._names) and self._names[class_id] == name:
                return class_id
            if class_id < len(self._names) and self._names[class_id] is not None:
                return self._numbers[name] if name in self._numbers else self._add(name)
            self._grow(class_id)
            self._names[class_id] = name
            self._numbers.setdefault(name, class_id)
            self._tuple = None
            return class_id

    def _of_number(self, class_id: int | None) -> int:
        if class_id is None:
            raise ValueError("an object has neither class nor class_id")
        self._grow(class_id)
        return class_id

    def _add(self, name: str) -> int:
        number = len(self._names)
        self._grow(number)
        self._names[number] = name
        self._numbers[name] = number
        return number

    def _grow(self, class_id: int) -> None:
        if class_id >= MAX_CLASSES:
            raise ValueError(f"class {class_id} is beyond the {MAX_CLASSES} classes that are kept")
        if class_id >= len(self._names):
            self._names.extend([None] * (class_id + 1 - len(self._names)))
            self._tuple = None


class PointLabels:
    """The names of a model's keypoints, as `Labels`; the skeleton only grows."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._labels = Labels(names)

    @property
    def count(self) -> int:
        """Keypoints of the skeleton, as far as it is known."""
        return len(self._labels.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names; () where the server only numbers them."""
        names = self._labels.names
        numbered = all(name in (str(index), f"class_{index}") for index, name in enumerate(names))
        return () if numbered else names

    def number(self, class_id: int | None, name: str | None) -> int:
        """The keypoint's place in the skeleton. Raises ValueError."""
        return self._labels.number(class_id, name)
