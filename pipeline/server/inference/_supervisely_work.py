"""What the Supervisely dialect has done for its clients: pictures and videos to results, at once or in a session."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pipeline.contracts.frame import Picture, Wishes
from pipeline.contracts.result import Detections, Prediction, SemanticMask
from pipeline.server.inference._supervisely_sessions import Session
from pipeline.server.inference._supervisely_video import VideoReader
from pipeline.server.inference.refusal import RefusedError
from pipeline.server.inference.service import Service
from pipeline.wire.supervisely import SENT, Origin, result_item
from pipeline.wire.supervisely_annotation import TOP_TAGS, encode_annotation
from pipeline.wire.supervisely_state import FrameWindow

MAX_BATCH = 16
"""Pictures that are held at once for one client, whatever it wishes."""
MAX_BATCH_BYTES = 64 << 20
"""The same in bytes, for frames of a video."""
PATIENCE_S = 600.0
"""So long a session waits for its turn before it gives up."""
MAX_VIDEOS = 4
"""That are read at once."""

_LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


class Work:
    """Made with the dialect; used on the main loop, closed with the server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(2, "supervisely-video")
        self._videos = 0

    async def close(self) -> None:
        """Wait for what the threads are at. All sessions have ended before."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    @property
    def has_room_for_a_video(self) -> bool:
        """Whether one more may be read."""
        return self._videos < MAX_VIDEOS

    @contextlib.contextmanager
    def reading_a_video(self) -> Iterator[None]:
        """While one is fetched, held and read."""
        self._videos += 1
        try:
            yield
        finally:
            self._videos -= 1

    async def images(
        self, model: str, files: Sequence[bytes], wishes: Wishes | None, origins: Sequence[Origin] | None = None
    ) -> list[bytes]:
        """The results for some pictures, in their order.

        Raises:
            RefusedError: a picture cannot be read, or the model does not answer.
        """
        results = []
        about = origins or [SENT] * len(files)
        for group, of_group in zip(*(grouped(each, self.batch(None)) for each in (files, about)), strict=True):
            pictures = [await self._service.pictures.decode(data) for data in group]
            results += await self._results(model, pictures, wishes, of_group)
        return results

    async def session_of_images(
        self, session: Session, model: str, files: list[bytes], wishes: Wishes | None, batch: int | None
    ) -> None:
        """The same, for whoever fetches them."""
        session.begin()
        for group in grouped(files, self.batch(batch)):
            session.check()
            pictures = [await self.decode(session, data) for data in group]
            await self.deliver(session, model, pictures, wishes, [SENT] * len(pictures))

    async def session_of_video(
        self,
        session: Session,
        model: str,
        data: bytes,
        wishes: Wishes | None,
        *,
        window: FrameWindow,
        batch: int | None,
        origin: Origin = SENT,
    ) -> None:
        """The frames of a video; a thread reads on while the model looks at what was read before."""
        reader = await self._in_a_thread(VideoReader, data, self._service.limits.max_pixels)
        reading: asyncio.Future[list[tuple[int, Picture]]] | None = None
        try:
            wanted = window.indexes(reader.frames, reader.fps)
            session.total = len(wanted)
            session.begin()
            groups = grouped(wanted, self._frames_at_once(reader, batch))
            reading = self._reading(reader, next(groups, None))
            while reading is not None:
                frames = await asyncio.shield(reading)
                session.check()
                reading = self._reading(reader, next(groups, None))
                if frames:
                    pictures = [picture for _, picture in frames]
                    origins = [replace(origin, frame_index=number) for number, _ in frames]
                    await self.deliver(session, model, pictures, wishes, origins)
        finally:
            reader.cancelled = True
            if reading is not None:
                await asyncio.wait([reading])
            await self._in_a_thread(reader.close)

    def batch(self, wished: int | None) -> int:
        """Pictures in one run: as many as are wished, and as may be."""
        service = self._service
        return max(1, min(wished or MAX_BATCH, MAX_BATCH, service.max_pictures, service.limits.max_waiting))

    def _frames_at_once(self, reader: VideoReader, batch: int | None) -> int:
        return max(1, min(self.batch(batch), MAX_BATCH_BYTES // max(reader.frame_bytes, 1)))

    def _reading(
        self, reader: VideoReader, wanted: Sequence[int] | None
    ) -> "asyncio.Future[list[tuple[int, Picture]]] | None":
        return None if wanted is None else asyncio.ensure_future(self._in_a_thread(reader.read, wanted))

    async def _in_a_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def decode(self, session: Session, data: bytes) -> Picture:
        """A picture of a session, once there is room for it."""
        return await self._patiently(session, partial(self._service.pictures.decode, data))

    async def deliver(
        self,
        session: Session,
        model: str,
        pictures: Sequence[Picture],
        wishes: Wishes | None,
        origins: Sequence[Origin],
    ) -> None:
        """The results for some pictures of a session, not more than `batch`."""
        results = await self._patiently(session, partial(self._results, model, pictures, wishes, origins))
        for result in results:
            await session.deliver(result)

    async def _patiently(self, session: Session, work: Callable[[], Awaitable[T]]) -> T:
        """Work that nobody waits for at the other end of a connection can wait until there is room for it."""
        patience_s = PATIENCE_S
        while True:
            try:
                return await work()
            except RefusedError as error:
                pause_s = min(error.retry_after_s or 0.0, _LONGEST_PAUSE_S)
                if error.status != 503 or pause_s <= 0 or patience_s <= 0:
                    raise
                patience_s -= pause_s
                await session.pause(pause_s)

    async def _results(
        self, model: str, pictures: Sequence[Picture], wishes: Wishes | None, origins: Sequence[Origin]
    ) -> list[bytes]:
        answers = await self._service.infer(model, pictures, wishes)
        return [
            await encoded(answer.prediction, picture, origin)
            for answer, picture, origin in zip(answers, pictures, origins, strict=True)
        ]


async def encoded(prediction: Prediction, picture: Picture, origin: Origin) -> bytes:
    """One result as JSON; masks are packed in a thread."""

    def encode() -> bytes:
        annotation = encode_annotation(prediction, picture.size, most_tags=TOP_TAGS)
        return json.dumps(result_item(annotation, origin), allow_nan=False, separators=(",", ":")).encode()

    is_costly = isinstance(prediction, SemanticMask) or (
        isinstance(prediction, Detections) and prediction.masks is not None
    )
    try:
        return await asyncio.to_thread(encode) if is_costly else encode()
    except ValueError as error:
        raise RefusedError(501, f"this model's answers have no form here: {error}") from error


def grouped(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in groups; slices of a range are ranges."""
    return (items[at : at + size] for at in range(0, len(items), size))
