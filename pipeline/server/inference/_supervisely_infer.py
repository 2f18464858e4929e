"""Pictures and videos that a Supervisely client sends, and the sessions in which it fetches what was found."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from pipeline.server.inference._supervisely_about import memory
from pipeline.server.inference._supervisely_request import Requests, checked
from pipeline.server.inference._supervisely_sessions import Session, Sessions
from pipeline.server.inference._supervisely_work import Work
from pipeline.server.inference.budget import Budget, Lease
from pipeline.server.inference.service import RefusedError, Service, json_answer
from pipeline.wire.supervisely import encode_preparing, encode_progress, encode_start, encode_status
from pipeline.wire.supervisely_state import State

HELD_BYTES = 256 << 20
"""Of all files that sessions have not looked at yet; a single one may be larger."""

_NO_UUID = "Error: 'inference_request_uuid' is required."


class Inferring:
    """The handlers of it. Made with the dialect; called on the main loop.

    Args:
        service: the models.
        requests: reads what is asked.
        sessions: all of them.
        work: has it done.
    """

    def __init__(self, service: Service, requests: Requests, sessions: Sessions, work: Work) -> None:
        self._service = service
        self._requests = requests
        self._sessions = sessions
        self._work = work
        self._held = Budget(max(HELD_BYTES, service.limits.max_body_bytes), "uploaded files")

    async def image(self, request: web.Request) -> web.Response:
        """POST /inference_image."""
        served, state, files = await self._requests.upload(request)
        if len(files) != 1:
            raise RefusedError(400, f"Only one file expected but got {len(files)}")
        (result,) = await self._work.images(served.name, files, checked(state.wishes))
        return json_bytes(result)

    async def image_url(self, request: web.Request) -> web.Response:
        """POST /inference_image_url."""
        served, _ = self._requests.known(request)
        state = await self._requests.state(request)
        url, wishes = checked(state.image_url), checked(state.wishes)
        data = await self._service.pictures.fetch(url)
        (result,) = await self._work.images(served.name, [data], wishes)
        return json_bytes(result)

    async def batch(self, request: web.Request) -> web.Response:
        """POST /inference_batch."""
        served, state, files = await self._requests.upload(request)
        self._service.check_count(len(files))
        results = await self._work.images(served.name, files, checked(state.wishes))
        return json_bytes(listed(results))

    # Sessions

    async def batch_async(self, request: web.Request) -> web.Response:
        """POST /inference_batch_async."""
        self._sessions.check_room()
        served, state, files = await self._requests.upload(request)
        wishes, batch = checked(state.wishes), checked(state.batch_size)

        async def work(session: Session) -> None:
            await self._work.session_of_images(session, served.name, files, wishes, batch)

        session = self._sessions.start(len(files), self._holding(files, work))
        return json_answer(encode_start(session.uuid))

    async def video_async(self, request: web.Request) -> web.Response:
        """POST /inference_video_async."""
        self._sessions.check_room()
        check_room_for_a_video(self._work, self._sessions)
        served, state, files = await self._requests.upload(request)
        if len(files) != 1:
            raise RefusedError(400, f"Only one file expected but got {len(files)}")
        check_tracks(state)
        wishes, window, batch = checked(state.wishes), checked(state.window), checked(state.batch_size)

        async def work(session: Session) -> None:
            with self._work.reading_a_video():
                await self._work.session_of_video(session, served.name, files[0], wishes, window=window, batch=batch)

        session = self._sessions.start(1, self._holding(files, work))
        return json_answer(encode_start(session.uuid))

    async def progress(self, request: web.Request) -> web.Response:
        """POST /get_inference_progress."""
        return json_answer(encode_progress((await self._session(request)).progress()))

    async def inference_status(self, request: web.Request) -> web.Response:
        """POST /get_inference_status."""
        return json_answer(encode_status((await self._session(request)).progress(), memory()))

    async def pop(self, request: web.Request) -> web.Response:
        """POST /pop_inference_results."""
        session = await self._session(request)
        results = session.pop()
        about = json_answer(encode_progress(session.progress()) | {"pending_results": []})
        body = about.body if isinstance(about.body, bytes) else b""
        head, tail = body.split(b'"pending_results":[]', 1)
        return json_bytes(head + b'"pending_results":' + listed(results) + tail)

    async def result(self, request: web.Request) -> web.Response:
        """POST /get_inference_result."""
        await self._session(request)
        return json_answer(None)

    async def preparing(self, request: web.Request) -> web.Response:
        """POST /get_preparing_progress."""
        return json_answer(encode_preparing((await self._session(request)).progress()))

    async def stop(self, request: web.Request) -> web.Response:
        """POST /stop_inference."""
        (await self._session(request)).stop()
        return json_answer({"message": "Inference will be stopped.", "success": True})

    async def clear(self, request: web.Request) -> web.Response:
        """POST /clear_inference_request."""
        (await self._session(request)).clear()
        return json_answer({"success": True})

    async def _session(self, request: web.Request) -> Session:
        uuid = checked((await self._requests.state(request)).uuid)
        if uuid is None:
            raise RefusedError(400, _NO_UUID)
        return self._sessions.find(uuid)

    def _holding(
        self, files: list[bytes], work: Callable[[Session], Awaitable[None]]
    ) -> Callable[[Session], Awaitable[None]]:
        """The work, counting the bytes of the files until it is done."""
        lease: Lease = self._held.lease(sum(map(len, files)))

        async def held(session: Session) -> None:
            try:
                await work(session)
            finally:
                files.clear()
                lease.release()

        return held


def check_room_for_a_video(work: Work, sessions: Sessions) -> None:
    """Raises RefusedError: 503 where too many are read already."""
    if not work.has_room_for_a_video:
        sessions.stop_abandoned()
        raise RefusedError(503, "too many videos are read already", retry_after_s=5.0)


def check_tracks(state: State) -> None:
    """Raises RefusedError: 400 where objects are to be followed."""
    if state.tracks():
        raise RefusedError(400, "objects are not followed from frame to frame here")


def listed(results: list[bytes]) -> bytes:
    """Results as a list of them."""
    return b"[" + b",".join(results) + b"]"


def json_bytes(body: bytes) -> web.Response:
    """An answer that is JSON already."""
    return web.Response(body=body, headers={"Content-Type": "application/json"})
