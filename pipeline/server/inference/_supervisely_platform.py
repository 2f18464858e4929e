"""`Platform`: pictures, videos and lists of them from the one Supervisely platform that the operator named."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

import aiohttp

from pipeline.server.inference.budget import Budget, Lease
from pipeline.server.inference.limits import InferenceLimits
from pipeline.server.inference.refusal import RefusedError, busy
from pipeline.wire import supervisely_platform as wire
from pipeline.wire.document import loads, mapping
from pipeline.wire.supervisely_platform import Dataset, Item

TOKEN_CHARS: Final = 128
"""So long is every token of the platform, and what is not so long is none: a token for this very server stays here."""
AT_ONCE: Final = 8
"""Questions to the platform at once, for all clients."""

_MAX_DOCUMENT_BYTES = 16 << 20
_MAX_DATASETS = 10_000
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.3
_NO_SENSE = "the Supervisely platform's answer makes no sense"
_NO_ANSWER = "the Supervisely platform does not answer"
_REFUSALS: Final[Mapping[int, tuple[int, str]]] = {
    400: (400, "the Supervisely platform does not take this id"),
    401: (403, "the Supervisely platform does not know this token"),
    403: (403, "this token may not see that on the Supervisely platform"),
    404: (404, "there is nothing of this id on the Supervisely platform, or this token may not see it"),
}

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlatformAddress:
    """Where the platform is. Made from `[server.inference]`.

    Attributes:
        url: `https://app.supervisely.com`.
        token: for requests that bring none of their own; None: those are refused.
    """

    url: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class File:
    """A file that was fetched, counted until its lease is released or goes away."""

    data: bytes = field(repr=False)
    lease: Lease


class _AgainError(Exception):
    """It may be better next time; the refusal says what to tell the client if it is not."""

    def __init__(self, refusal: RefusedError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Platform:
    """Made with the dialect; used on the main loop, closed with the server. The connections are made when needed.

    Args:
        address: where it is. Nothing that a request says has a say in that.
        limits: how large a file may be, and how long it may take.
        budget: where fetched files are counted.
    """

    def __init__(self, address: PlatformAddress, limits: InferenceLimits, budget: Budget) -> None:
        self._address = address
        self._limits = limits
        self._budget = budget
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def visit(self, offered: list[str]) -> "Visit":
        """What a request may see there.

        Args:
            offered: the tokens that it brought.

        Raises:
            RefusedError: 403: neither it nor the configuration has a token for the platform.
        """
        own = next(
            (each for each in offered if len(each) == TOKEN_CHARS and each.isascii() and each.isprintable()), None
        )
        token = own or self._address.token
        if token is None:
            raise RefusedError(403, "the Supervisely platform wants your token for it: api_token, or x-api-key")
        return Visit(self, token)

    async def ask(self, method: str, question: Mapping[str, Any], token: str) -> object:
        """The document that the platform answers with.

        Raises:
            RefusedError: it has none for this token, or does not answer.
        """
        file = await self.fetch(method, question, token, most_bytes=_MAX_DOCUMENT_BYTES)
        try:
            return await asyncio.to_thread(loads, file.data)
        except ValueError as error:
            raise RefusedError(502, _NO_SENSE) from error
        finally:
            file.lease.release()

    async def fetch(
        self, method: str, question: Mapping[str, Any], token: str, *, most_bytes: int | None = None
    ) -> File:
        """The file that the platform answers with. What may be better next time is tried three times.

        Raises:
            RefusedError: as `ask`; 413 where it is too large, 503 where too much is held.
        """
        most_bytes = self._limits.max_body_bytes if most_bytes is None else most_bytes
        pause_s = _FIRST_PAUSE_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._attempt(method, question, token, most_bytes)
            except _AgainError as error:
                if attempt == _ATTEMPTS:
                    raise error.refusal from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if attempt == _ATTEMPTS:
                    # Nothing of the error: it has the URL in it.
                    raise RefusedError(502, _NO_ANSWER) from error
            await asyncio.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, method: str, question: Mapping[str, Any], token: str, most_bytes: int) -> File:
        url = self._address.url.rstrip("/") + wire.API + method
        # A redirect could lead anywhere, and would take the token along.
        async with self._client().post(
            url, json=question, headers={"x-api-key": token}, allow_redirects=False
        ) as response:
            _check(response)
            return await self._file(response, most_bytes)

    async def _file(self, response: aiohttp.ClientResponse, most_bytes: int) -> File:
        too_large = RefusedError(413, f"what the Supervisely platform has there is larger than {most_bytes} bytes")
        if (response.content_length or 0) > most_bytes:
            raise too_large
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RefusedError(502, _NO_SENSE)
        lease, file = self._budget.lease(), bytearray()
        async for chunk in response.content.iter_any():
            if len(file) + len(chunk) > most_bytes:
                raise too_large
            lease.grow(len(chunk))
            file += chunk
        return File(bytes(file), lease)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            limits = self._limits
            longest_s = limits.fetch_s + limits.max_body_bytes / limits.body_bytes_per_s
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=AT_ONCE),
                timeout=aiohttp.ClientTimeout(total=longest_s, sock_connect=limits.fetch_s, sock_read=limits.fetch_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "penstock", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class Visit:
    """The platform, seen with one token. Made by `Platform.visit` for a request; used on the main loop."""

    def __init__(self, platform: Platform, token: str) -> None:
        self._platform = platform
        self._token = token
        self._projects: dict[int, int] = {}

    async def picture(self, picture_id: int) -> Item:
        """What is known of a picture. Raises RefusedError, as all of these."""
        document = await self._ask(wire.PICTURE_INFO, wire.encode_info(picture_id))
        return _sense(wire.decode_item, document, picture_id)

    async def video(self, video_id: int) -> Item:
        """What is known of a video."""
        document = await self._ask(wire.VIDEO_INFO, wire.encode_info(video_id))
        return _sense(wire.decode_item, document, video_id)

    async def picture_file(self, picture_id: int) -> File:
        """A picture itself."""
        return await self._platform.fetch(wire.PICTURE_FILE, {"id": picture_id}, self._token)

    async def video_file(self, video_id: int) -> File:
        """A video itself."""
        return await self._platform.fetch(wire.VIDEO_FILE, {"id": video_id}, self._token)

    async def project_of(self, dataset_id: int) -> int:
        """The project in which a dataset lies; asked once."""
        found = self._projects.get(dataset_id)
        if found is None:
            document = await self._ask(wire.DATASET_INFO, {"id": dataset_id})
            found = _sense(wire.decode_dataset, document, dataset_id).project_id
            if len(self._projects) < _MAX_DATASETS:
                self._projects[dataset_id] = found
        return found

    async def datasets(self, project_id: int, wanted: list[int] | None) -> list[Dataset]:
        """The datasets of a project of pictures: all, or those that are wanted.

        Raises:
            RefusedError: 400 where the project holds something else, 404 where one is not in it; and the others'.
        """
        kind = _sense(wire.decode_kind, await self._ask(wire.PROJECT_INFO, {"id": project_id}))
        if kind != wire.PICTURES_KIND:
            raise RefusedError(400, "only projects of pictures are gone through; ask for videos by video_id")
        found: dict[int, Dataset] = {}
        page, pages = 1, 1
        while page <= pages:
            document = await self._ask(wire.DATASETS, wire.encode_datasets(project_id, page))
            entities, pages = _sense(wire.decode_page, document)
            found |= {each.id: each for each in (_sense(wire.decode_dataset, entity) for entity in entities)}
            if len(found) > _MAX_DATASETS or page >= _MAX_DATASETS:
                raise RefusedError(413, f"the project has more than {_MAX_DATASETS} datasets; ask with dataset_ids")
            page += 1
        self._projects |= dict.fromkeys(found, project_id)
        if wanted is None:
            return list(found.values())
        missing = [dataset_id for dataset_id in wanted if dataset_id not in found]
        if missing:
            raise RefusedError(404, f"there is no dataset {missing[0]} in this project")
        return [found[dataset_id] for dataset_id in dict.fromkeys(wanted)]

    async def pictures(self, dataset: Dataset) -> AsyncIterator[Item]:
        """The pictures of a dataset, page by page as they are wanted."""
        page, pages = 1, 1
        while page <= pages:
            document = await self._ask(wire.PICTURES, wire.encode_pictures(dataset.id, page))
            entities, pages = _sense(wire.decode_page, document)
            for entity in entities:
                yield _sense(wire.decode_item, entity, None, dataset.id)
            page += 1

    async def _ask(self, method: str, question: Mapping[str, Any]) -> object:
        document = await self._platform.ask(method, question, self._token)
        return _sense(mapping, document, "the answer")


def _sense(decode: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `decode` makes of the platform's answer. Raises RefusedError: 502 where that is nothing."""
    try:
        return decode(*args, **kwargs)
    except ValueError as error:
        raise RefusedError(502, f"{_NO_SENSE}: {error}") from error


def _check(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    if status in _REFUSALS:
        raise RefusedError(*_REFUSALS[status])
    if status == 429:
        raise _AgainError(busy("the Supervisely platform is asked too much"))
    refusal = RefusedError(502, f"the Supervisely platform answers with status {status}")
    raise _AgainError(refusal) if status >= 500 else refusal
