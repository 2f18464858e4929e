"""`Clients`: what clients of the server ask of the models goes into the same queues as the cameras' frames."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Protocol

from pipeline.contracts.backend import ModelInfo, Servable, TextEncoder
from pipeline.contracts.errors import TransientError
from pipeline.contracts.frame import Frame, Picture, Wishes
from pipeline.contracts.result import Embedding, Result
from pipeline.runtime.aside import Aside
from pipeline.runtime.asking import Answer, AskError, AskFault, Served
from pipeline.runtime.backend_runner import BackendRunner
from pipeline.runtime.context import MainLoop, Surroundings
from pipeline.runtime.ledger import FrameOutcome, Page
from pipeline.runtime.queue import Lane, LaneLimits
from pipeline.runtime.route import Waiting
from pipeline.runtime.topology import Topology

CLIENT = "client"
"""The `source` of a client's frame; no name of a source in pipeline.toml is looked up by it."""

MAX_WAITING_BYTES = 256 << 20
MAX_TEXTS = 8
"""So many requests with texts are under way at the most."""
RETRY_S = 1.0

_FAULTS: dict[str, tuple[AskFault, str]] = {
    FrameOutcome.DROPPED_QUEUE_FULL: ("busy", "too many pictures are waiting for the model"),
    FrameOutcome.DROPPED_STALE: ("late", "the model had no time for the picture"),
    FrameOutcome.DROPPED_SHUTDOWN: ("stopping", "the model is on its way out"),
    FrameOutcome.FAILED_BACKEND: ("failed", "the model failed on the picture"),
}


class Life(Protocol):
    """The life of the pipeline, as far as loading and unloading must know it: the supervisor."""

    changing: asyncio.Lock
    started: asyncio.Event

    @property
    def stopping(self) -> bool:
        """True once it goes to its end."""
        ...

    def within(self, done: Callable[[], bool], timeout_s: float) -> Awaitable[bool]:
        """See `reload.Until`."""
        ...


class Clients:
    """The `Asking` of a topology. Made by the supervisor, used on the main loop."""

    def __init__(self, topology: Topology, loop: MainLoop, surroundings: Surroundings, life: Life) -> None:
        self._topology = topology
        self._life = life
        self._loop = loop
        self._surroundings = surroundings
        self._numbers = count()
        self._aside = Aside("texts", MAX_TEXTS)

    def served(self) -> list[Served]:
        """See `Asking`."""
        return [self._served(name, runner) for name, runner in self._offered()]

    def find(self, model_id: str) -> Served | None:
        """See `Asking`."""
        backends = self._topology.settings.backends
        for name, runner in self._offered():
            if model_id == name or model_id in backends[name].aliases:
                return self._served(name, runner)
        return None

    def _offered(self) -> Iterator[tuple[str, BackendRunner]]:
        settings = self._topology.settings
        for name, runner in self._topology.backends.items():
            if name in settings.backends and settings.backends[name].serve and isinstance(runner.backend, Servable):
                yield name, runner

    async def infer(
        self, model_id: str, pictures: Sequence[Picture], wishes: Wishes | None = None, *, timeout_s: float
    ) -> list[Answer]:
        """See `Asking`."""
        served, runner = self._runner(model_id)
        lane = runner.client_lane(self._limits())
        if lane is None:
            self._refuse_at_the_end()
            raise AskError("loading", f"{served.name} is being exchanged", RETRY_S)
        page = self._topology.ledger.client(served.name)
        asks = [self._ask(lane, page, picture, wishes, timeout_s) for picture in pictures]
        try:
            async with asyncio.timeout(timeout_s):
                return list(await asyncio.gather(*asks))
        except TimeoutError as error:
            raise AskError("late", "the model had no time for the picture") from error
        finally:
            for ask in asks:
                ask.cancel()

    async def embed_texts(self, model_id: str, texts: Sequence[str], *, timeout_s: float) -> list[Embedding]:
        """See `Asking`."""
        served, runner = self._runner(model_id)
        if not served.texts:
            raise AskError("unsupported", f"{served.name} takes no texts")
        try:
            async with asyncio.timeout(timeout_s):
                return list(await self._aside.run(partial(runner.embed_texts, list(texts))))
        except BlockingIOError as error:
            raise AskError("busy", "too many texts are waiting for the model", RETRY_S) from error
        except TimeoutError as error:
            raise AskError("late", "the model had no time for the texts") from error
        except TransientError as error:
            raise AskError("failed", "the model failed on the texts") from error

    async def load(self, model_id: str) -> Served:
        """See `Asking`."""
        topology = self._topology
        async with self._life.changing:
            self._refuse_at_the_end()
            served = self._known(model_id)
            runner = topology.backends[served.name]
            if runner.unloaded or (runner.error is not None and served.removable):
                if not self._life.started.is_set():
                    raise AskError("loading", "the pipeline is still starting", RETRY_S)
                runner = self._begin_anew(runner)
            await self._life.within(lambda: runner.covered or runner.ended, topology.settings.reload_timeout_s)
            if not runner.covered or runner.error is not None:
                self._refuse_at_the_end()
                raise AskError("failed", f"{served.name} could not be loaded")
        return self._known(model_id)

    def _begin_anew(self, old: BackendRunner) -> BackendRunner:
        topology = self._topology
        runner = topology.make_backend(topology.settings, old.name)
        old.finish()
        topology.let_go(old)
        topology.backends[old.name] = runner
        runner.tried = True  # not the pipeline's start: whatever is wrong with it is told at once
        runner.start()
        return runner

    async def unload(self, model_id: str) -> Served:
        """See `Asking`."""
        async with self._life.changing:
            self._refuse_at_the_end()
            served = self._known(model_id)
            if not served.removable:
                raise AskError("unsupported", f"cameras use {served.name}: it cannot be unloaded")
            runner = self._topology.backends[served.name]
            if not runner.unloaded:
                runner.unloaded = True
                runner.finish()
        return self._known(model_id)

    def _refuse_at_the_end(self) -> None:
        if self._life.stopping:
            raise AskError("stopping", "the program is on its way out")

    def _known(self, model_id: str) -> Served:
        served = self.find(model_id)
        if served is None:
            raise AskError("unknown", f"there is no model {model_id!r}")
        return served

    def _runner(self, model_id: str) -> tuple[Served, BackendRunner]:
        """The model, and who runs it, if it can be asked."""
        served = self._known(model_id)
        if served.state == "unloaded":
            raise AskError("unloaded", f"{served.name} was unloaded")
        if served.state == "loading":
            raise AskError("loading", f"{served.name} is still loading", RETRY_S)
        if served.state == "failed":
            raise AskError("failed", f"{served.name} failed, and is not running")
        return served, self._topology.backends[served.name]

    def _served(self, name: str, runner: BackendRunner) -> Served:
        settings, backend = self._topology.settings, runner.backend
        config = settings.backends[name]
        state = "ready" if runner.covered else "loading"
        state = "failed" if runner.error is not None else state
        return Served(
            name=name,
            aliases=config.aliases,
            type=config.type,
            state="unloaded" if runner.unloaded else state,  # type: ignore[arg-type]
            model=backend.model,
            info=_info(runner) if runner.ready else self._info_of_fallback(runner),
            max_batch=max(1, backend.max_batch),
            texts=isinstance(backend, TextEncoder),
            removable=name in settings.models and name not in settings.needed_backends,
        )

    def _info_of_fallback(self, runner: BackendRunner) -> ModelInfo | None:
        """Until it is open, what answers is the fallback's model."""
        lender = self._topology.backends.get(runner.fallback or "")
        return _info(lender) if lender is not None and runner.covered else None

    def _limits(self) -> LaneLimits:
        inference = self._topology.settings.server.inference
        return LaneLimits(
            max_items=inference.max_waiting,
            max_bytes=MAX_WAITING_BYTES,
            own_bytes=MAX_WAITING_BYTES,
            when_full="drop_newest",
            max_age_s=inference.timeout_s,
            priority=inference.priority,
        )

    def _ask(
        self, lane: Lane[Waiting], page: Page, picture: Picture, wishes: Wishes | None, timeout_s: float
    ) -> "asyncio.Future[Answer]":
        clock = self._surroundings.clock
        now = clock.monotonic()
        ask = _Ask(self._loop, asyncio.get_running_loop().create_future(), page)
        frame = Frame(
            source=CLIENT,
            seq=next(self._numbers),
            pts_s=None,
            captured_at=clock.wall(),
            time_source="arrival",
            picture=picture,
            decoded_at=now,
            stale_at=now + timeout_s,
            wishes=wishes,
        )
        page.enter()
        if not lane.put(Waiting(frame, ask), picture.nbytes, now, wait=False):
            ask.settle(lane.closed_reason)
        return ask.future


def _info(runner: BackendRunner) -> ModelInfo | None:
    if not runner.ready or not isinstance(runner.backend, Servable):
        return None
    try:
        return runner.backend.info()
    except TransientError:  # a server elsewhere that does not say
        return None


class _Ask:
    """One picture of one request, on its way: a `Way` that ends in a future of the main loop."""

    wants_pictures = False

    def __init__(self, loop: MainLoop, future: "asyncio.Future[Answer]", page: Page) -> None:
        self.future = future
        self._loop = loop
        self._page = page

    def waited(self, _: float) -> None:
        """Nobody asks."""

    def note(self, _: Result) -> None:
        """What clients found is theirs alone."""

    def deliver(self, result: Result) -> None:
        """Tell who asked."""
        answer = Answer(result.prediction, result.backend, result.model, result.inference_s)
        self._loop.soon(self._end, answer)

    def settle(self, outcome: str) -> None:
        """The picture's place in the ledger; and who asked hears of a failure."""
        self._page.settle(outcome)
        if outcome in _FAULTS:
            fault, message = _FAULTS[outcome]
            self._loop.soon(self._end, AskError(fault, message, RETRY_S if fault == "busy" else None))

    def _end(self, ending: Answer | AskError) -> None:
        if self.future.done():  # nobody waits any more
            return
        if isinstance(ending, AskError):
            self.future.set_exception(ending)
        else:
            self.future.set_result(ending)
