"""`kill -9` at random moments, of Penstock and of the Mosquitto that it sends to with QoS 1, which also freezes."""

import hashlib
import json
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from daemon import IDLE, WAITING_FILE, Daemon
from makers import clip
from mosquitto import Mosquitto
from mqtt_listener import Heard, Listener
from observed import until
from spool_file import SpoolFile, read_spool

Figures = dict[str, float]

SOURCES = ("gate", "yard")
FPS = 25
LIFE_S = (0.2, 3.6)
"""A life is that long, at random; the program's start takes the first second of it."""

RESULTS = 2_000
IN_FLIGHT = 50
"""So many messages of a source are handed over at once: what one kill of either side can make arrive twice."""

SINK = """
    [sinks.broker]
    type = "mqtt"
    sources = ["gate", "yard"]
    url = "mqtt://127.0.0.1:{port}"
    timeout_s = 1
    retry = {{ min_s = 0.02, max_s = 0.2 }}
    buffer = {{ when_full = "block" }}
"""


def config(port: int, path: str, more: str = "") -> str:
    """pipeline.toml: two sources that wait rather than lose a frame, and one broker."""
    return (
        IDLE
        + SINK.format(port=port)
        + "".join(WAITING_FILE.format(name=name, path=path, more=more) for name in SOURCES)
    )


def spool_of(folder: Path) -> Path:
    """The spool's file."""
    return folder / "data" / "spool" / "broker.mqtt.db"


@dataclass
class Trial:
    """The rig, and what was seen: what was committed, as the file said after each kill, how much was accepted, and how
    often who was killed."""

    folder: Path
    broker: Mosquitto
    listener: Listener
    rng: random.Random
    committed: dict[str, str] = field(default_factory=dict)
    accepted: int = 0
    kills: int = 0
    broker_kills: int = 0
    freezes: int = 0

    def add(self, spool: SpoolFile) -> None:
        for name, digest in spool.waiting.items():
            assert self.committed.setdefault(name, digest) == digest, f"{name} has another body now"


def run(folder: Path, kills: int, *, results: int, seed: int = 1) -> Figures:
    """Kill the program so often, the broker during every third life, and let it come to its end.

    Args:
        folder: to work in.
        kills: how many of the program.
        results: in all lives together, at least.
        seed: of the moments.

    Raises:
        AssertionError: something was lost, changed, out of order, or came too often.
    """
    clip(folder / "clip.mp4", [40 + number for number in range(100)], width=64, height=64, fps=FPS)
    began = time.monotonic()
    with Mosquitto(folder / "mosquitto") as broker, Listener(broker.port) as listener:
        seen = Trial(folder, broker, listener, random.Random(seed))
        broker.save()  # that there is a listener, whose messages it keeps while that one is away
        lives = config(broker.port, "clip.mp4", 'pace = "realtime"\n    loop = true')
        for number in range(kills):
            _one_life(seen, lives, number)
        so_far = len({heard.user["id"] for heard in _ours(listener) if heard.topic.endswith("/results")})
        last = max(1, (results - so_far) // len(SOURCES) + 1)
        clip(folder / "last.mp4", [40 + number % 100 for number in range(last)], width=64, height=64, fps=FPS)
        back_at, before = time.monotonic(), len(_ours(listener))
        with Daemon(folder, config(broker.port, "last.mp4")) as daemon:
            listener.wait(lambda: len(_ours(listener)) > before, 30)
            back_s = time.monotonic() - back_at
            until("everything is sent", lambda: _all_sent(daemon, 2 * last), 120)
            daemon.stop()
        _settle(seen, "end")
        figures = judge(seen)
    return figures | {"first after the last start s": back_s, "seconds": time.monotonic() - began}


def in_full(folder: Path, kills: int, seed: int) -> Figures:
    """2,000 results and so many kills; see `run`."""
    return run(folder, kills, results=RESULTS, seed=seed)


def _one_life(seen: Trial, text: str, number: int) -> None:
    end_at = time.monotonic() + seen.rng.uniform(*LIFE_S)
    with Daemon(seen.folder, text) as daemon:
        if number % 3 == 0:
            _kill_broker(seen)
        elif number % 3 == 1:
            _freeze(seen)
        while time.monotonic() < end_at - 0.1:
            time.sleep(0.05)
            daemon.alive()
        status, _ = daemon.request("/livez")
        if status == 200:
            seen.accepted += int(daemon.scrape().of("penstock_sink_results_total", sink="broker", outcome="accepted"))
        time.sleep(max(0.0, end_at - time.monotonic()))
    # Left by kill -9. A traceback would be a bug of its own.
    assert "Traceback" not in daemon.log(), daemon.log()
    if not seen.broker.running:
        _start_broker(seen)
    seen.kills += 1
    seen.add(read_spool(spool_of(seen.folder)))


def _kill_broker(seen: Trial) -> None:
    """What it has confirmed and not passed on yet is lost with it, and that is not Penstock's: it has nothing such,
    as the listener is there and has heard everything from before it was away."""
    _settle(seen, f"kill{seen.broker_kills}")
    time.sleep(seen.rng.uniform(0.0, 2.0))
    seen.broker.kill()
    seen.broker_kills += 1
    if seen.rng.random() < 0.5:  # else it stays away for the rest of this life
        time.sleep(seen.rng.uniform(0.0, 0.5))
        _start_broker(seen)


def _start_broker(seen: Trial) -> None:
    before = seen.listener.sessions
    seen.broker.start()
    seen.listener.wait(lambda: seen.listener.sessions > before, 20)


def _freeze(seen: Trial) -> None:
    time.sleep(seen.rng.uniform(0.0, 1.5))
    seen.broker.signal(signal.SIGSTOP)
    seen.freezes += 1
    time.sleep(seen.rng.uniform(0.2, 1.5))
    seen.broker.signal(signal.SIGCONT)


def _settle(seen: Trial, name: str) -> None:
    """Wait until the listener has heard all that the broker has taken until now."""
    seen.broker.publish(f"marker/{name}", b"-")
    seen.listener.wait_for(f"marker/{name}", limit_s=20)


def _all_sent(daemon: Daemon, accepted: int) -> bool:
    if daemon.request("/livez")[0] != 200:
        daemon.alive()
        return False
    samples = daemon.scrape()
    all_here = samples.of("penstock_sink_results_total", sink="broker", outcome="accepted") == accepted
    return all_here and samples.of("penstock_sink_pending", sink="broker") == 0


def _ours(listener: Listener) -> list[Heard]:
    """What came of the spool: all but retained states and markers."""
    return [heard for heard in list(listener.heard) if "id" in heard.user]


def judge(seen: Trial) -> Figures:
    """Nothing lost, by its definition.

    Raises:
        AssertionError: what is not so.
    """
    heard = _ours(seen.listener)
    left = read_spool(spool_of(seen.folder))
    assert not left.waiting, f"{len(left.waiting)} were never sent"
    assert not left.letters, f"{len(left.letters)} dead letters: {list(left.letters.values())[:3]}"
    firsts: dict[str, Heard] = {}
    for one in heard:
        first = firsts.setdefault(one.user["id"], one)
        assert (first.topic, first.body) == (one.topic, one.body), f"{one.user['id']} changed on the way"
    missing = seen.committed.keys() - firsts.keys()
    assert not missing, f"{len(missing)} of {len(seen.committed)} that were committed have not arrived"
    for name, digest in seen.committed.items():
        assert hashlib.sha256(firsts[name].body).hexdigest() == digest, f"{name} is not what was committed"
    results = [json.loads(one.body) for one in firsts.values() if one.topic.endswith("/results")]
    assert len(results) >= seen.accepted, f"{seen.accepted} accepted before the kills, {len(results)} came"
    for source in SOURCES:
        _in_order(source, [one["frame_id"] for one in results if one["source"] == source])
    duplicates = len(heard) - len(firsts)
    may = IN_FLIGHT * len(SOURCES) * (seen.kills + seen.broker_kills + seen.freezes)
    assert duplicates <= may, f"{duplicates} duplicates are more than were under way"
    return {
        "kills": seen.kills,
        "kills of the broker": seen.broker_kills,
        "freezes of the broker": seen.freezes,
        "results": len(results),
        "seen committed at a kill": len(seen.committed),
        "lost": len(missing),
        "duplicates": duplicates,
    }


def _in_order(source: str, numbers: list[int]) -> None:
    """Each life counts its frames from 0: none is missing, none overtook another."""
    before = -1
    for number in numbers:
        assert number in (before + 1, 0), f"{source}: frame {number} came first after frame {before}"
        before = number
