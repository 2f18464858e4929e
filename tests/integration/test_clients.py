"""What clients of the server ask of the models, without the server: shared queues, shared ledger, nothing starved."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
from fakes import STUCK, FakeBackend
from harness import Run, run
from reloading import CAMERA, run_with, seen, settings_of

from pipeline.contracts.clock import SystemClock
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.frame import Picture, Wishes
from pipeline.contracts.result import Detections
from pipeline.models.picture import from_rgb
from pipeline.runtime.asking import AskError
from pipeline.runtime.queue import LaneLimits
from pipeline.runtime.status import Status

PICTURE = from_rgb(np.zeros((16, 16, 3), np.uint8))


def served(during: Any, *, sources: bool = False, **model: Any) -> Run:
    tree: dict[str, Any] = {
        "models": {"coco": {"aliases": ["coco/9"], **model}},
        "server": {"listen": "127.0.0.1:0", "inference": {"max_waiting": 4, "priority": 7}},
    }
    if sources:
        tree["sources"] = {"cam": {"endless": True, "fps": 200, "live": True, "backend": "coco"}}
        tree["sinks"] = {"keep": {}}

    async def then_stop(this: Run) -> None:
        await this.supervisor.started.wait()
        await this.until(lambda: this.supervisor.topology.backends["coco"].tried or ready(this))
        await during(this)
        if not this.supervisor.stopping:
            this.supervisor.stop("the test is over")

    return run(tree, then_stop)


def ready(this: Run) -> bool:
    return this.supervisor.topology.backends["coco"].ready


async def ask(this: Run, pictures: list[Picture] | None = None, wishes: Wishes | None = None, **more: Any) -> Any:
    asked = [PICTURE] if pictures is None else pictures
    return await this.supervisor.clients.infer(
        more.pop("model", "coco/9"), asked, wishes, timeout_s=more.pop("timeout_s", 5)
    )


def test_a_client_gets_an_answer_for_each_picture_under_any_of_the_models_names() -> None:
    async def during(this: Run) -> None:
        for name in ("coco", "coco/9"):
            answers = await ask(this, [PICTURE] * 3, model=name)
            assert [answer.backend for answer in answers] == ["coco"] * 3
            assert isinstance(answers[0].prediction, Detections)

    done = served(during)
    assert [(page.entered, page.outcomes["inferred"]) for page in done.report.clients] == [(6, 6)]
    assert done.report.exit_code == 0


def test_what_a_client_wishes_reaches_the_model() -> None:
    wishes = Wishes(confidence=0.7, classes=("dog",))

    async def during(this: Run) -> None:
        await ask(this, wishes=wishes)
        backend = this.supervisor.topology.backends["coco"].backend
        assert isinstance(backend, FakeBackend)
        assert backend.wishes == [wishes]

    served(during)


def test_more_pictures_than_may_wait_are_refused_and_counted() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await ask(this, [PICTURE] * 40)
        assert caught.value.fault == "busy"
        assert caught.value.retry_after_s == 1

    done = served(during, infer_s=0.05, concurrency=1)
    assert done.report.clients[0].outcomes["dropped_queue_full"] >= 30


def test_an_answer_that_comes_too_late_is_not_waited_for() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await ask(this, timeout_s=0.05)
        assert caught.value.fault == "late"

    served(during, infer_s=0.3)


@pytest.mark.parametrize(("failure", "fault"), [("transient", "failed"), ("bug", "failed")])
def test_a_model_that_fails_says_so(failure: str, fault: str) -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await ask(this)
        assert caught.value.fault == fault

    served(during, fail_every=1, failure=failure)


def test_unknown_and_unopened_models_say_so() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as unknown:
            await ask(this, model="nobody/1")
        with pytest.raises(AskError) as loading:
            await ask(this)
        assert (unknown.value.fault, loading.value.fault) == ("unknown", "loading")

    served(during, open_failure="transient", open_failures=1000)


def test_clients_and_a_camera_share_the_model_and_neither_starves() -> None:
    async def during(this: Run) -> None:
        before = len(this.sink().results)
        await asyncio.gather(*(ask(this, [PICTURE]) for _ in range(4)))
        for _ in range(20):
            await ask(this)
        assert len(this.sink().results) > before + 5
        lane = this.supervisor.topology.backends["coco"].client_lane(LaneLimits())
        assert lane is not None
        assert lane.limits.priority == 7

    done = served(during, sources=True, infer_s=0.01, concurrency=1)
    assert done.report.clients[0].outcomes["inferred"] == 24


def test_a_model_is_unloaded_and_loaded_again() -> None:
    async def during(this: Run) -> None:
        clients = this.supervisor.clients
        assert (await clients.unload("coco/9")).state == "unloaded"
        with pytest.raises(AskError) as caught:
            await ask(this)
        assert caught.value.fault == "unloaded"
        await this.until(lambda: this.supervisor.topology.backends["coco"].ended)
        assert (await clients.load("coco")).state == "ready"
        assert len(await ask(this)) == 1

    done = served(during)
    assert done.report.exit_code == 0


def test_a_model_that_cameras_use_is_not_unloaded() -> None:
    async def during(this: Run) -> None:
        with pytest.raises(AskError) as caught:
            await this.supervisor.clients.unload("coco")
        assert caught.value.fault == "unsupported"

    served(during, sources=True)


def test_texts_are_embedded_where_the_model_takes_them() -> None:
    async def during(this: Run) -> None:
        found = await this.supervisor.clients.embed_texts("coco", ["a", "abc"], timeout_s=5)
        assert [embedding.vector.tolist() for embedding in found] == [[1.0], [3.0]]

    served(during)


def test_a_request_under_way_at_the_stop_is_still_answered() -> None:
    async def during(this: Run) -> None:
        asked = asyncio.create_task(ask(this))
        await this.until(lambda: len(this.supervisor.topology.ledger.clients) > 0)
        this.supervisor.stop("in the middle")
        assert len(await asked) == 1
        await this.until(lambda: this.supervisor.topology.backends["coco"].ended)
        with pytest.raises(AskError) as caught:
            await ask(this)
        assert caught.value.fault == "stopping"

    served(during, infer_s=0.2)


def test_a_tap_holds_the_last_results_of_a_source() -> None:
    async def during(this: Run) -> None:
        tap = this.supervisor.tap("cam", size=3, pictures=True)
        assert tap is not None
        assert this.supervisor.tap("nobody", size=3, pictures=True) is None
        before = len(this.sink().results)
        await this.until(lambda: len(this.sink().results) > before + 10)
        taken = [tap.take() for _ in range(3)]
        seqs = [result.frame.seq for result in taken if result is not None]
        assert len(seqs) == 3
        assert seqs == sorted(seqs)
        assert seqs[0] > before
        assert taken[0] is not None
        assert taken[0].frame.picture.rgb().shape == (16, 16, 3)
        tap.close()
        assert tap.take() is None

    served(during, sources=True)


def test_pictures_in_a_model_that_is_stuck_at_the_end_are_written_off() -> None:
    STUCK.clear()

    async def during(this: Run) -> None:
        asked = asyncio.create_task(ask(this, [PICTURE] * 3))
        backend = this.supervisor.topology.backends["coco"].backend
        assert isinstance(backend, FakeBackend)
        await this.until(lambda: backend.most_at_once > 0)
        this.supervisor.stop("once")
        this.supervisor.stop("twice")
        with pytest.raises(AskError) as caught:
            await asked
        assert caught.value.fault == "stopping"

    try:
        done = served(during, stuck_at=0, concurrency=1)
    finally:
        STUCK.set()
    for thread in done.supervisor.topology.backends["coco"].threads:
        thread.join(5)
    assert done.report.clients[0].outcomes["dropped_shutdown"] == 3


def test_texts_in_a_model_that_is_stuck_hold_up_neither_the_end_nor_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(FakeBackend, "embed_texts", lambda *_: over.wait(20))

    async def during(this: Run) -> None:
        embed = this.supervisor.clients.embed_texts
        faults = []
        for _ in range(9):
            with pytest.raises(AskError) as caught:
                await embed("coco", ["a"], timeout_s=0.01)
            faults.append(caught.value.fault)
        assert faults == [*["late"] * 8, "busy"]
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
        this.supervisor.stop("once")
        this.supervisor.stop("twice")

    began_at = time.monotonic()
    try:
        served(during)
        assert time.monotonic() - began_at < 10
    finally:
        over.set()


def test_at_the_end_no_model_is_loaded_any_more() -> None:
    async def during(this: Run) -> None:
        clients = this.supervisor.clients
        await clients.unload("coco")
        this.supervisor.stop("the end")
        for change in (clients.load, clients.unload):
            with pytest.raises(AskError) as caught:
                await change("coco")
            assert caught.value.fault == "stopping"

    done = served(during)
    assert done.report.exit_code == 0


def test_a_load_waits_for_the_reload_that_is_under_way() -> None:
    one = {"coco": {"type": "fake"}}
    serving: dict[str, Any] = {"server": {"listen": "127.0.0.1:0"}, "sources": {}, "sinks": {}, "backends": {}}

    async def during(this: Run) -> None:
        clients = this.supervisor.clients
        slow = settings_of(**serving, models={**one, "slow": {"type": "fake", "open_delay_s": 0.2}})
        reload = asyncio.create_task(this.supervisor.apply(slow))
        await asyncio.sleep(0.05)
        assert (await clients.unload("coco")).state == "unloaded"
        assert reload.done()
        await reload

    run_with(during, **serving, models=one)


def test_a_camera_gets_the_model_that_a_client_took_out() -> None:
    one = {"coco": {"type": "fake"}}
    serving: dict[str, Any] = {"server": {"listen": "127.0.0.1:0"}, "backends": {}, "models": one}

    async def during(this: Run) -> None:
        await this.supervisor.clients.unload("coco")
        with_camera = settings_of(**serving, sources={"cam": {**CAMERA, "backend": "coco"}}, sinks={"keep": {}})
        await this.supervisor.apply(with_camera)
        await seen(this, 5)
        assert len(await ask(this, model="coco")) == 1

    run_with(during, **serving, sources={}, sinks={})


def test_a_model_that_was_taken_out_before_it_was_open_makes_nothing_unready() -> None:
    async def during(this: Run) -> None:
        await this.supervisor.clients.unload("coco")
        await this.until(lambda: this.supervisor.topology.backends["coco"].ended)
        assert all(check.ok for check in Status(this.supervisor, "test", SystemClock()).ready())

    served(during, open_failure="transient", open_failures=1000)


def test_a_model_that_failed_and_cannot_be_begun_anew_is_not_said_to_be_loaded() -> None:
    async def during(this: Run) -> None:
        for _ in range(2):
            with pytest.raises(AskError):
                await ask(this, model="coco")
        with pytest.raises(AskError) as caught:
            await this.supervisor.clients.load("coco")
        assert caught.value.fault == "failed"
        this.supervisor.stop("enough")

    async def once_started(this: Run) -> None:
        await this.supervisor.started.wait()
        await during(this)

    models = {"coco": {"fail_every": 1, "failure": "fatal"}, "other": {"fallback": "coco"}}
    run({"models": models, "server": {"listen": "127.0.0.1:0"}}, once_started)


def test_why_a_model_could_not_be_loaded_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def during(this: Run) -> None:
        clients = this.supervisor.clients
        await clients.unload("coco")
        FakeBackend.open, kept = _refuse, FakeBackend.open  # type: ignore[assignment, method-assign]
        try:
            with pytest.raises(AskError):
                await clients.load("coco")
        finally:
            FakeBackend.open = kept  # type: ignore[method-assign]

    served(during)
    assert "backend coco: no such file any more" in caplog.text


def _refuse(_: FakeBackend) -> None:
    raise ConfigError("no such file any more", key="model")


def test_until_a_model_is_open_clients_are_told_of_its_fallbacks() -> None:
    async def during(this: Run) -> None:
        await this.supervisor.started.wait()
        served = this.supervisor.clients.find("cloud")
        assert served is not None
        assert served.state == "ready"
        assert served.info is not None
        assert served.info.labels == ("local",)
        assert (await ask(this, model="cloud"))[0].backend == "local"
        this.supervisor.stop("enough")

    cloud = {"open_failure": "transient", "open_failures": 1000, "fallback": "local"}
    models = {"cloud": cloud, "local": {"label": "local"}}
    run({"models": models, "server": {"listen": "127.0.0.1:0"}}, during)


def test_a_hundred_loads_leave_no_thread_behind() -> None:
    async def during(this: Run) -> None:
        clients = this.supervisor.clients
        before = threading.active_count()
        for _ in range(100):
            await clients.unload("coco")
            await clients.load("coco")
            assert len(await ask(this)) == 1
        await this.until(lambda: this.supervisor.topology.leaving == [])
        assert threading.active_count() <= before + 2

    done = served(during)
    assert done.report.clients[0].outcomes["inferred"] == 100
