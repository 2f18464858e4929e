"""Pictures of the Supervisely platform for a session: fetched in groups, one group ahead of the model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from pipeline.server.inference._supervisely_platform import File, Visit
from pipeline.server.inference._supervisely_sessions import Session
from pipeline.server.inference._supervisely_work import PATIENCE_S
from pipeline.server.inference.refusal import RefusedError
from pipeline.wire.supervisely import Origin
from pipeline.wire.supervisely_platform import Item

_PAUSE_S = 1.0


class Fetched(NamedTuple):
    """A picture of the platform that is here now. Whoever lets it go gives back its bytes."""

    file: File
    origin: Origin


Wanted = Item | int
"""A picture that is known already, or its id."""


async def fetch_all(visit: Visit, wanted: Sequence[Wanted]) -> list[Fetched]:
    """Some pictures, in their order; the platform says how many at once.

    Raises:
        RefusedError: one of them cannot be had.
    """
    return _good(await _gathered(visit, wanted), patient=False)


async def groups_ahead(
    session: Session, visit: Visit, wanted: AsyncIterator[Wanted], size: int
) -> AsyncGenerator[list[Fetched], None]:
    """The pictures in groups of `size`, or of fewer where not so many may be held; the next one is under way.

    Whoever gets a group empties it as soon as it can: what lies in it is counted.

    Raises:
        RefusedError: one of them cannot be had; those before it were given.
        StoppedError: the session was stopped.
    """
    coming: asyncio.Task[list[Fetched]] | None = None
    async with aclosing(_groups(session, visit, wanted, size)) as groups:
        try:
            coming = _next(groups)
            while group := await coming:
                coming = _next(groups)
                yield group
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait([coming])
                if not coming.cancelled():
                    coming.exception()  # nobody asks for it any more


async def _groups(
    session: Session, visit: Visit, wanted: AsyncIterator[Wanted], size: int
) -> AsyncGenerator[list[Fetched], None]:
    waiting: list[Wanted] = []
    patience_s = PATIENCE_S
    while True:
        while len(waiting) < size and (item := await anext(wanted, None)) is not None:
            waiting.append(item)
        if not waiting:
            return
        session.check()
        found = await _gathered(visit, waiting)
        good = _good(found, patient=patience_s > 0)
        # What there was no room for comes later. What is here goes on: nobody waits for room that it holds itself.
        del waiting[: len(good)]
        found.clear()
        if good:
            patience_s = PATIENCE_S
            yield good
        else:
            patience_s -= _PAUSE_S
            await session.pause(_PAUSE_S)


async def _gathered(visit: Visit, wanted: Sequence[Wanted]) -> list[Fetched | BaseException]:
    return await asyncio.gather(*(_fetch(visit, item) for item in wanted), return_exceptions=True)


def _good(found: Sequence[Fetched | BaseException], *, patient: bool) -> list[Fetched]:
    """What is there before the first failure.

    Args:
        found: pictures and failures.
        patient: that there was no room for one is no failure.

    Raises:
        RefusedError: the first failure.
    """
    good: list[Fetched] = []
    for each in found:
        if isinstance(each, BaseException):
            if patient and isinstance(each, RefusedError) and each.status == 503:
                break
            raise each
        good.append(each)
    return good


async def _fetch(visit: Visit, wanted: Wanted) -> Fetched:
    item = wanted if isinstance(wanted, Item) else await visit.picture(wanted)
    project_id = await visit.project_of(item.dataset_id)
    file = await visit.picture_file(item.id)
    return Fetched(file, Origin(item.name, project_id, item.dataset_id, item.id))


def _next(groups: AsyncIterator[list[Fetched]]) -> "asyncio.Task[list[Fetched]]":
    async def take() -> list[Fetched]:
        return await anext(groups, [])

    return asyncio.get_running_loop().create_task(take())
