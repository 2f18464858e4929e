"""What a Supervisely client names by the platform's ids: pictures, datasets, projects and videos that lie there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from aiohttp import web

from pipeline.server.inference._supervisely_fetching import Wanted, fetch_all, groups_ahead
from pipeline.server.inference._supervisely_infer import (
    HELD_BYTES,
    check_room_for_a_video,
    check_tracks,
    json_bytes,
    listed,
)
from pipeline.server.inference._supervisely_platform import Platform, PlatformAddress, Visit
from pipeline.server.inference._supervisely_request import Requests, checked
from pipeline.server.inference._supervisely_sessions import Session, SessionLimits, Sessions
from pipeline.server.inference._supervisely_work import Work, grouped
from pipeline.server.inference.budget import Budget
from pipeline.server.inference.service import RefusedError, Service, json_answer
from pipeline.wire.supervisely import Origin, encode_start
from pipeline.wire.supervisely_state import State

MAX_RUNS = 4
"""Sessions that fetch pictures at once; and so many requests that wait for some."""

_FETCHES_AT_ONCE = 4
_NO_PLATFORM = (
    "this server is connected to no Supervisely platform: send the pictures themselves, or have its operator set "
    "server.inference.supervisely_platform"
)
_READ_ONLY = (
    "this server writes nothing to the Supervisely platform: ask without it, and upload the predictions yourself"
)


class Asked(NamedTuple):
    """A request that may be carried out: of which model, from which platform with whose eyes, and what."""

    model: str
    visit: Visit
    state: State


class ByIds:
    """The handlers of it. Made with the dialect; called on the main loop, closed with the server.

    Args:
        service: the models.
        requests: reads what is asked.
        sessions: all of them.
        work: has it done.
        address: of the platform; None: there is none, and all of this is refused.
    """

    def __init__(
        self, service: Service, requests: Requests, sessions: Sessions, work: Work, address: PlatformAddress | None
    ) -> None:
        self._service = service
        self._requests = requests
        self._sessions = sessions
        self._work = work
        budget = Budget(max(HELD_BYTES, service.limits.max_body_bytes), "files of the platform")
        self._platform = None if address is None else Platform(address, service.limits, budget)
        self._runs = 0
        self._at_once = asyncio.Semaphore(MAX_RUNS)

    async def close(self) -> None:
        """Close the connections to the platform. All sessions have ended before."""
        if self._platform is not None:
            await self._platform.close()

    # At once

    async def image(self, request: web.Request) -> web.Response:
        """POST /inference_image_id."""
        asked = await self._asked(request)
        ids = checked(asked.state.image_ids)
        if len(ids) != 1:
            raise RefusedError(400, f"one image_id is expected, not {len(ids)}: ask with inference_batch_ids")
        (result,) = await self._results(asked, ids)
        return json_bytes(result)

    async def batch(self, request: web.Request) -> web.Response:
        """POST /inference_batch_ids."""
        asked = await self._asked(request)
        ids = checked(asked.state.image_ids)
        self._service.check_count(len(ids))
        return json_bytes(listed(await self._results(asked, ids)))

    async def video(self, request: web.Request) -> web.Response:
        """POST /inference_video_id."""
        asked = await self._asked(request)
        check_room_for_a_video(self._work, self._sessions)
        work = await self._of_video(asked)
        whole = _Whole(SessionLimits(), asyncio.get_running_loop().time, 1)
        await work(whole)
        return json_bytes(b'{"ann":' + listed(whole.pop()) + b',"video_ann":null}')

    # Sessions

    async def batch_async(self, request: web.Request) -> web.Response:
        """POST /inference_batch_ids_async and /inference_image_id_async."""
        asked = await self._asked(request)
        ids = checked(asked.state.image_ids)

        async def wanted() -> AsyncIterator[Wanted]:
            for picture_id in ids:
                yield picture_id

        return self._start(asked, len(ids), wanted)

    async def project_async(self, request: web.Request) -> web.Response:
        """POST /inference_project_id_async."""
        asked = await self._asked(request)
        self._check_room()
        visit, state = asked.visit, asked.state
        datasets = await visit.datasets(checked(state.project_id), checked(state.dataset_ids))

        async def wanted() -> AsyncIterator[Wanted]:
            for dataset in datasets:
                async for item in visit.pictures(dataset):
                    yield item

        return self._start(asked, sum(dataset.count or 0 for dataset in datasets), wanted)

    async def video_async(self, request: web.Request) -> web.Response:
        """POST /inference_video_id_async."""
        asked = await self._asked(request)
        self._sessions.check_room()
        check_room_for_a_video(self._work, self._sessions)
        session = self._sessions.start(1, await self._of_video(asked))
        return json_answer(encode_start(session.uuid))

    async def _asked(self, request: web.Request) -> Asked:
        """What is asked, where it may be.

        Raises:
            RefusedError: 501 without a platform, and where something is to be written to it; or as `Requests.known`
                and `Platform.visit`.
        """
        if self._platform is None:
            raise RefusedError(501, _NO_PLATFORM)
        served, _ = self._requests.known(request)
        state = await self._requests.state(request)
        uploads = checked(state.uploads)
        if uploads is not None:
            # Said before hours of work, not after: whoever asks for it wants the upload more than the answer.
            raise RefusedError(501, f"{uploads}: {_READ_ONLY}")
        in_body = (await self._service.json(request)).get("api_token")
        offered = [in_body] if isinstance(in_body, str) else []
        visit = self._platform.visit([*offered, *request.headers.getall("x-api-key", [])])
        return Asked(served.name, visit, state)

    async def _results(self, asked: Asked, ids: Sequence[int]) -> list[bytes]:
        wishes = checked(asked.state.wishes)
        results: list[bytes] = []
        async with self._at_once:
            for group in grouped(ids, _FETCHES_AT_ONCE):
                fetched = await fetch_all(asked.visit, group)
                files, origins = [each.file.data for each in fetched], [each.origin for each in fetched]
                results += await self._work.images(asked.model, files, wishes, origins)
        return results

    async def _of_video(self, asked: Asked) -> Callable[[Session], Awaitable[None]]:
        """What is to be done for a video, once it is known that there is such a one."""
        visit, state = asked.visit, asked.state
        check_tracks(state)
        wishes, window, batch = checked(state.wishes), checked(state.window), checked(state.batch_size)
        video = await visit.video(checked(state.video_id))
        project_id = await visit.project_of(video.dataset_id)
        origin = Origin(video_id=video.id, dataset_id=video.dataset_id, project_id=project_id)

        async def work(session: Session) -> None:
            with self._work.reading_a_video():
                file = await visit.video_file(video.id)
                session.check()
                await self._work.session_of_video(
                    session, asked.model, file.data, wishes, window=window, batch=batch, origin=origin
                )

        return work

    def _check_room(self) -> None:
        self._sessions.check_room()
        if self._runs >= MAX_RUNS:
            self._sessions.stop_abandoned()
            raise RefusedError(503, "too many sessions fetch pictures already", retry_after_s=5.0)

    def _start(self, asked: Asked, total: int, wanted: Callable[[], AsyncIterator[Wanted]]) -> web.Response:
        """A session for pictures of the platform."""
        wishes, size = checked(asked.state.wishes), self._work.batch(checked(asked.state.batch_size))
        self._check_room()

        async def work(session: Session) -> None:
            self._runs += 1
            try:
                session.begin()
                async with aclosing(groups_ahead(session, asked.visit, wanted(), size)) as groups:
                    async for group in groups:
                        session.check()
                        pictures = [await self._work.decode(session, each.file.data) for each in group]
                        origins = [each.origin for each in group]
                        group.clear()
                        await self._work.deliver(session, asked.model, pictures, wishes, origins)
            finally:
                self._runs -= 1

        session = self._sessions.start(total, work)
        return json_answer(encode_start(session.uuid))


class _Whole(Session):
    """A session whose client waits for all of it in one answer."""

    async def deliver(self, result: bytes) -> None:
        if self._is_full(len(result)):
            raise RefusedError(413, "too many results for one answer: ask for them in a session (..._async)")
        await super().deliver(result)
