"""Webhooks of the real program: their secrets, stops and restarts, a receiver that moves, batches, events."""

import base64
import gzip
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from daemon import JSONL, Daemon
from makers import clip
from misbehaving_server import Asked, Reply, status
from observed import until
from spool_file import read_spool
from webhook_receiver import Item, Outcome, WebhookReceiver

RIG = '\nlog = { level = "debug" }\ndata_dir = "data"\n\n[backends.rig]\ntype = "rig"\n'
CAMERA = '\n[sources.cam]\ntype = "synthetic"\nwidth = 64\nheight = 48\nfps = 20\nqueue = { max_frames = 60 }\n'
SOON = "retry = { min_s = 0.02, max_s = 0.2 }"

CANARY = "c4nary"
CHAT_KEY = f"{CANARY}7Zs01kYd8aYd93hd"
SECRET = f"whsec_{CANARY}AA" + base64.b64encode(b"k" * 24).decode()


def hook(url: str, more: str = SOON) -> str:
    return f'\n[sinks.hook]\ntype = "webhook"\nurl = "{url}"\n{more}\n'


def pending(daemon: Daemon) -> int:
    return int(daemon.scrape().of("penstock_sink_pending", sink="hook"))


def in_order(receiver: WebhookReceiver, source: str = "cam") -> list[int]:
    """The numbers of the frames that came, which must be without a gap."""
    numbers = [int(item.document["frame_id"]) for item in receiver.firsts()[source]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return numbers


class Telling:
    """A receiver that says everything that it was told, in its answer's text and headers, and never takes anything."""

    def __init__(self) -> None:
        self._codes = itertools.cycle((503, 302, 422))

    def __call__(self, asked: Asked, _: Sequence[Item]) -> tuple[Outcome, Reply]:
        told = f"{asked.path} {asked.query} {asked.headers}"
        headers = {"Location": f"http://u:{CANARY}-elsewhere@there/?token={CANARY}", "X-Told": told}
        return "refused", Reply(next(self._codes), headers, json.dumps({"message": told}).encode())


def test_no_secret_of_a_webhook_turns_up_anywhere(tmp_path: Path) -> None:
    with WebhookReceiver(Telling()) as receiver:
        place = receiver.url.removeprefix("http://")
        url = f"http://me:{CANARY}-pass@{place}/services/T0/{CHAT_KEY}?key={CANARY}-query"
        more = (
            f'{SOON}\nsecret = "{SECRET}"\nheaders = {{ Authorization = "Bearer {CANARY}-token", X-Key = "{CANARY}" }}'
        )
        text = RIG + CAMERA + hook(url, more) + JSONL.replace('["sources"]', '["sources", "daemon"]')
        with Daemon(tmp_path, text) as daemon:
            daemon.ready()
            until(
                "several were refused", lambda: daemon.scrape().of("penstock_sink_dead_letters", sink="hook") >= 3, 20
            )
            receiver.down()
            until("nobody is there", lambda: pending(daemon) >= 10, 20)
            said = [daemon.request(path)[1] for path in ("/metrics", "/readyz", "/api/v1/status", "/livez", "/")]
            daemon.stop()
        assert receiver.asked[0].headers["x-key"] == CANARY, "the receiver itself is told"
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "pipeline.toml"]
    assert any(path.suffix == ".db" for path in files)
    leaks = [path.name for path in files if re.search(CANARY.encode(), path.read_bytes(), re.IGNORECASE)]
    assert leaks == []
    assert not any(CANARY in text.lower() for text in said)


def test_what_waits_at_a_stop_is_sent_after_the_next_start_in_order(tmp_path: Path) -> None:
    clip(tmp_path / "clip.mp4", [100] * 60, width=64, height=64)
    file = '\n[sources.cam]\ntype = "file"\npath = "clip.mp4"\n'
    with WebhookReceiver() as receiver:
        receiver.down()
        with Daemon(tmp_path, RIG + file + hook(receiver.url)) as daemon:
            assert daemon.process is not None
            assert daemon.process.wait(30) == 0, daemon.log()
            assert "60 kept" in daemon.log()
        waiting = read_spool(tmp_path / "data/spool/hook.webhook.db").waiting
        assert len(waiting) == 60
        receiver.up()
        with Daemon(tmp_path, RIG + CAMERA.replace("fps = 20", "fps = 1") + hook(receiver.url)) as daemon:
            receiver.wait(lambda: len(receiver.taken().keys() & waiting.keys()) == 60)
            until("that is known", lambda: daemon.request("/livez")[0] == 200, 10)
            assert daemon.scrape().of("penstock_sink_results_total", sink="hook", outcome="restored") == 60
            daemon.stop()
        assert [name for name in receiver.taken() if name in waiting] == list(waiting)
        assert all(len(arrivals) == 1 for arrivals in receiver.taken().values())


def test_a_receiver_that_is_gone_for_good_gets_nothing_more_until_a_reload_names_another(tmp_path: Path) -> None:
    with WebhookReceiver() as gone, WebhookReceiver() as new:
        gone.always(status(410))
        with Daemon(tmp_path, RIG + CAMERA + hook(gone.url) + JSONL) as daemon:
            daemon.ready()
            until("it is disabled", lambda: "410" in daemon.log(), 10)
            daemon.wait_frames("cam", 20)
            assert len(gone.asked) == 1
            assert daemon.scrape().of("penstock_sink_state", sink="hook", state="failed") == 1
            assert pending(daemon) >= 20
            daemon.write(RIG + CAMERA + hook(new.url) + JSONL)
            assert daemon.reload()
            until("it is sent elsewhere", lambda: len(new.taken()) >= 20, 20)
            daemon.stop(code=None)
        assert len(gone.asked) == 1
        assert new.arrivals[0].id == gone.asked[0].headers["webhook-id"]
        assert in_order(new)[0] == 0, "what came while nothing could be sent was kept, too"


@pytest.mark.parametrize("packed", ["false", "true"])
def test_batches_are_arrays_of_one_source_in_order(tmp_path: Path, packed: str) -> None:
    clip(tmp_path / "clip.mp4", [100] * 90, width=64, height=64)
    files = "".join(f'\n[sources.{name}]\ntype = "file"\npath = "clip.mp4"\n' for name in ("gate", "yard"))
    more = f"gzip = {packed}\nbatch = {{ max_items = 25, max_wait_s = 0.3 }}"
    with WebhookReceiver() as receiver:
        with Daemon(tmp_path, RIG + files + hook(receiver.url, more)) as daemon:
            assert daemon.process is not None
            assert daemon.process.wait(30) == 0, daemon.log()
        for source in ("gate", "yard"):
            assert in_order(receiver, source) == list(range(90))
        assert all(len({item.source for item in one.items}) == 1 for one in receiver.arrivals)
        assert max(len(one.items) for one in receiver.arrivals) == 25
        assert len({one.id for one in receiver.arrivals}) == len(receiver.arrivals)
        if packed == "true":
            assert all(isinstance(json.loads(gzip.decompress(asked.body)), list) for asked in receiver.asked)


def test_of_a_batch_that_is_refused_only_the_one_that_is_to_blame_becomes_a_dead_letter(tmp_path: Path) -> None:
    clip(tmp_path / "clip.mp4", [100] * 50, width=64, height=64)
    file = '\n[sources.cam]\ntype = "file"\npath = "clip.mp4"\n'

    def picky(_: Asked, items: Sequence[Item]) -> tuple[Outcome, Reply]:
        if any(item.document["frame_id"] == 17 for item in items):
            return "refused", status(422, "not seventeen")
        return "taken", Reply(200)

    with WebhookReceiver(picky) as receiver:
        more = f"{SOON}\nbatch = {{ max_items = 50, max_wait_s = 1 }}"
        with Daemon(tmp_path, RIG + file + hook(receiver.url, more)) as daemon:
            assert daemon.process is not None
            assert daemon.process.wait(30) == 0, daemon.log()
            assert "49 delivered + 1 dead lettered" in daemon.log()
        taken = [arrival.items for arrival in receiver.arrivals if arrival.outcome == "taken"]
        numbers = [item.document["frame_id"] for items in taken for item in items]
        assert numbers == [number for number in range(50) if number != 17]
    letters = read_spool(tmp_path / "data/spool/hook.webhook.db").letters
    assert list(letters.values()) == ["422: not seventeen"]
