"""`Scenes`: the analysers of all sources that have tracking, zones or lines."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipeline.analytics.scene import Wanted
from pipeline.config.settings import Settings
from pipeline.runtime.analysing import Analysing
from pipeline.runtime.checkpoint import FOLDER
from pipeline.runtime.context import Surroundings
from pipeline.runtime.route import Route
from pipeline.telemetry.readings import SceneReading


class Scenes:
    """The analysers of a topology by source. Made by it; the main thread's, but for `save`.

    Args:
        data_dir: where what they know is kept.
    """

    def __init__(self, data_dir: Path, surroundings: Surroundings) -> None:
        self._folder = data_dir / FOLDER
        self._surroundings = surroundings
        self._analysers: dict[str, Analysing] = {}
        self._resting: set[str] = set()  # what they counted in this run is in their files

    def __bool__(self) -> bool:
        return bool(self._analysers)

    def arrange(self, settings: Settings, routes: Mapping[str, Route], goes_on: Callable[[str], bool]) -> None:
        """Let each route have the analyser that its source asks for.

        Args:
            settings: in force from now on.
            routes: by source.
            goes_on: whether a source goes on where the run before it was left, as a camera does; a file is read again.
        """
        for source, config in settings.sources.items():
            wanted, route = Wanted.of(config), routes[source]
            analysing = self._analysers.get(source)
            if analysing is not None and analysing.keeps is (wanted.tracking is None):
                self._rest(source)
                analysing = None
            if not wanted.anything:
                route.analyser = None
                self._rest(source)
            elif analysing is None:
                resumes = source in self._resting or goes_on(source)
                analysing = Analysing(source, wanted, self._folder, self._surroundings, resumes=resumes)
                route.analyser = self._analysers[source] = analysing
            else:
                route.analyser = analysing
                if analysing.wanted != wanted:
                    analysing.change(wanted)

    def forget(self, source: str) -> None:
        """The source is no more; what it counted is kept for when it comes back."""
        self._rest(source)
        self._resting.discard(source)

    def _rest(self, source: str) -> None:
        """It asks for nothing, just now."""
        analysing = self._analysers.pop(source, None)
        if analysing is not None:
            analysing.save(at_once=True)
            self._resting.add(source)

    def save(self, *, at_once: bool = False, complete: Iterable[str] = ()) -> None:
        """Keep the counts where it is time to; `complete`: names of sources that came to their end."""
        whole = frozenset(complete)
        for source, analysing in tuple(self._analysers.items()):
            analysing.save(at_once=at_once, complete=source in whole)

    def read(self, away: frozenset[str]) -> list[SceneReading]:
        """All of them; of those that are `away` nobody knows who is there."""
        return [each.read(shown=source not in away) for source, each in self._analysers.items()]
