"""The user's pictures: those that a model is calibrated on, and those that are held out, or labelled, to judge it."""

import threading
from collections.abc import Collection, Iterator, Sequence, Set
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
"""Of so many pictures one is held out, where nothing is labelled."""

MAX_STEP = 30
"""Of a long video one frame of so many is taken, so that the pictures are spread but not an hour of it is decoded."""

USUAL_STEP = 10
"""Where nobody knows how long a video is."""


def pictures_of(
    named: Sequence[str], wanted: int, data_dir: Path, *, besides: Collection[Path] = ()
) -> Iterator[Frame]:
    """At most `wanted` frames of videos, pictures, folders or patterns, spread over them; one at a time.

    Args:
        named: what the user named.
        wanted: how many.
        data_dir: for what a source keeps.
        besides: pictures that are left out.

    Raises:
        ConfigError: there is nothing of that name, or nothing in it can be read.
    """
    settings = from_tree(tree(named, model="-"), base_dir=Path.cwd(), registry=Registry.load())
    stop = threading.Event()
    left, left_out = wanted, {path.resolve() for path in besides}
    for index, (name, config) in enumerate(settings.sources.items()):
        share = -(-left // (len(settings.sources) - index))
        for frame in _spread(name, config, share, data_dir, stop=stop, left_out=left_out):
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
    yield from _spread("labelled", config, len(paths), data_dir, stop=threading.Event())


def _spread(
    name: str,
    config: SourceConfig,
    wanted: int,
    data_dir: Path,
    *,
    stop: threading.Event,
    left_out: Set[Path] = frozenset(),
) -> Iterator[Frame]:
    index, given, step, is_video = 0, 0, 0, config.type == "file"
    places = {path.resolve() for path in config.reads()}
    try:
        config.check()
        source = config.build(DryContext(name, data_dir))
        with closing(source.frames(stop)) as items:  # type: ignore[type-var]  # a generator, by the contract
            for frame in items:
                if not isinstance(frame, Frame) or (frame.path is not None and Path(frame.path).resolve() in left_out):
                    continue
                if not step:
                    total = source.expected_frames if isinstance(source, Counted) else None
                    usual = USUAL_STEP if is_video else 1
                    fewer = sum(1 for path in left_out if path in places or path.parent in places)
                    step = usual if total is None else max(1, min(MAX_STEP, (total - fewer) // wanted))
                if index % step == 0:
                    yield frame
                    given += 1
                    if given == wanted:
                        return
                index += 1
    except PenstockError as error:
        raise ConfigError(f"the pictures cannot be read: {error}") from error
