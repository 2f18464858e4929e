"""The user's pictures: some that a model is calibrated on, and every third that is held out to judge it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pipeline.benching.dry import DryContext
from pipeline.config.loader import from_tree
from pipeline.contracts.errors import ConfigError, PenstockError
from pipeline.contracts.frame import Frame
from pipeline.contracts.source import Counted, SourceConfig
from pipeline.predict import tree
from pipeline.registry import Registry

EVERY = 3
"""Of so many pictures one is held out."""

MAX_STEP = 30
"""Of a long video one frame of so many is taken, so that the pictures are spread but not an hour of it is decoded."""

USUAL_STEP = 10
"""Where nobody knows how long a video is."""


def pictures_of(named: Sequence[str], wanted: int, data_dir: Path) -> Iterator[Frame]:
    """At most `wanted` frames of videos, pictures, folders or patterns, spread over them; one at a time.

    Raises:
        ConfigError: there is nothing of that name, or nothing in it can be read.
    """
    settings = from_tree(tree(named, model="-"), base_dir=Path.cwd(), registry=Registry.load())
    stop = threading.Event()
    left = wanted
    for index, (name, config) in enumerate(settings.sources.items()):
        share = -(-left // (len(settings.sources) - index))
        for frame in _spread(name, config, share, data_dir, stop):
            left -= 1
            yield frame


def files_in(paths: Sequence[Path], data_dir: Path) -> Iterator[Frame]:
    """A frame for each of these pictures that can be read, in this order; `Frame.path` says which it is.

    Raises:
        ConfigError: none can be read.
    """
    table = {"sources": {"labelled": {"type": "directory", "path": [str(path.absolute()) for path in paths]}}}
    whole = {**tree(["-"], model="-"), **table}
    config = from_tree(whole, base_dir=Path.cwd(), registry=Registry.load()).sources["labelled"]
    yield from _spread("labelled", config, len(paths), data_dir, threading.Event())


def _spread(name: str, config: SourceConfig, wanted: int, data_dir: Path, stop: threading.Event) -> Iterator[Frame]:
    given, step, is_video = 0, 0, config.type == "file"
    try:
        config.check()
        source = config.build(DryContext(name, data_dir))
        with closing(source.frames(stop)) as items:  # type: ignore[type-var]  # a generator, by the contract
            for index, frame in enumerate(item for item in items if isinstance(item, Frame)):
                if not step:
                    total = source.expected_frames if isinstance(source, Counted) else None
                    usual = USUAL_STEP if is_video else 1
                    step = usual if total is None else max(1, min(MAX_STEP, total // wanted))
                if index % step:
                    continue
                yield frame
                given += 1
                if given == wanted:
                    return
    except PenstockError as error:
        raise ConfigError(f"the pictures cannot be read: {error}") from error
