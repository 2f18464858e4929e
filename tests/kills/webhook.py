"""`kill -9` at random moments of a run into a webhook receiver that fails, refuses, vanishes and loses its answers."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from daemon import IDLE, WAITING_FILE, Daemon
from makers import clip
from observed import until
from spool_file import SpoolFile, read_spool
from webhook_receiver import Faults, Item, WebhookReceiver

Figures = dict[str, float]

SOURCES = ("gate", "yard")
FPS = 25
STARTING_S = (0.05, 1.5)
"""Each fourth kill comes so soon after the start of the program, at random."""

RUNNING_S = (0.02, 1.8)
"""The others come so soon after the start of its sources."""

RESULTS = 2_000
AWAY_LIVES = (0.3, 0.5)
"""The receiver is away during this part of the lives."""

SECRET = "whsec_" + "a2lsbC05LWF0LWFueS1tb21lbnQtaXMtZmluZS1oZXJl"

SINK = """
    [sinks.hook]
    type = "webhook"
    sources = ["gate", "yard"]
    url = "{url}/hook"
    secret = "{secret}"
    timeout_s = 1
    retry = {{ min_s = 0.02, max_s = 0.2 }}
    buffer = {{ when_full = "block" }}
"""


def config(url: str, path: str, more: str = "") -> str:
    """pipeline.toml: two sources that wait rather than lose a frame, and one webhook."""
    text = IDLE + SINK.format(url=url, secret=SECRET)
    return text + "".join(WAITING_FILE.format(name=name, path=path, more=more) for name in SOURCES)


def spool_of(folder: Path) -> Path:
    """The spool's file."""
    return folder / "data" / "spool" / "hook.webhook.db"


@dataclass
class Seen:
    """What was committed, as the file said after each kill, and how many the program said it had accepted."""

    committed: dict[str, str] = field(default_factory=dict)
    accepted: int = 0

    def add(self, spool: SpoolFile) -> None:
        for name, digest in spool.waiting.items():
            assert self.committed.setdefault(name, digest) == digest, f"{name} has another body now"


def run(folder: Path, kills: int, *, results: int, faults: Faults, seed: int = 1, away: bool = True) -> Figures:
    """Kill it so often, then let it come to its end.

    Args:
        folder: to work in.
        kills: how many.
        results: in all lives together, at least.
        faults: of the receiver.
        seed: of the moments.
        away: the receiver is not there during some of the lives.

    Raises:
        AssertionError: something was lost, changed, out of order, or came too often.
    """
    rng = random.Random(seed)
    clip(folder / "clip.mp4", [40 + number for number in range(100)], width=64, height=64, fps=FPS)
    seen = Seen()
    began = time.monotonic()
    with WebhookReceiver(faults, secret=SECRET) as receiver:
        lives = config(receiver.url, "clip.mp4", 'pace = "realtime"\n    loop = true')
        for number in range(kills):
            is_away = away and AWAY_LIVES[0] * kills <= number < AWAY_LIVES[1] * kills
            (receiver.down if is_away else receiver.up)()
            is_early = number % 4 == 3
            _one_life(
                folder, lives, seen, is_early=is_early, life_s=rng.uniform(*(STARTING_S if is_early else RUNNING_S))
            )
        receiver.up()
        came = {item.id for items in receiver.firsts().values() for item in items}
        so_far = len(came | read_spool(spool_of(folder)).waiting.keys())
        back_at = time.monotonic()
        last = max(1, (results - so_far) // len(SOURCES) + 1)
        clip(folder / "last.mp4", [40 + number % 100 for number in range(last)], width=64, height=64, fps=FPS)
        with Daemon(folder, config(receiver.url, "last.mp4")) as daemon:
            until("everything is sent", lambda: _all_sent(daemon, 2 * last), 120)
            daemon.stop()
        back_s = min(one.at for one in receiver.arrivals if one.at >= back_at) - back_at
        figures = judge(folder, receiver, faults, seen, kills)
    return figures | {"first after the last start s": back_s, "seconds": time.monotonic() - began}


def in_full(folder: Path, kills: int, seed: int) -> Figures:
    """2,000 results and so many kills; see `run`."""
    return run(folder, kills, results=RESULTS, faults=failing(seed), seed=seed)


def _one_life(folder: Path, text: str, seen: Seen, *, is_early: bool, life_s: float) -> None:
    with Daemon(folder, text) as daemon:
        if not is_early:
            until("the sources run", lambda: _runs(daemon), 40)
        end_at = time.monotonic() + life_s
        time.sleep(max(0.0, life_s - 0.1))
        if not is_early and daemon.request("/livez")[0] == 200:
            seen.accepted += int(daemon.scrape().of("penstock_sink_results_total", sink="hook", outcome="accepted"))
        time.sleep(max(0.0, end_at - time.monotonic()))
        daemon.alive()
    # Left by kill -9. A traceback would be a bug of its own.
    assert "Traceback" not in daemon.log(), daemon.log()
    seen.add(read_spool(spool_of(folder)))


def _runs(daemon: Daemon) -> bool:
    daemon.alive()
    log = daemon.log()
    return all(f"source {name}: running" in log for name in SOURCES)


def _all_sent(daemon: Daemon, accepted: int) -> bool:
    if daemon.request("/livez")[0] != 200:
        daemon.alive()
        return False
    samples = daemon.scrape()
    all_here = samples.of("penstock_sink_results_total", sink="hook", outcome="accepted") == accepted
    return all_here and samples.of("penstock_sink_pending", sink="hook") == 0


def failing(seed: int = 1) -> Faults:
    """A receiver that fails three times in ten, loses one answer in twenty and refuses one result in 37 for good.

    It takes its time, so that a kill finds requests under way.
    """
    return Faults(seed, later=0.3, lost_acks=0.05, refuse=37, delay_s=0.01)


def judge(folder: Path, receiver: WebhookReceiver, faults: Faults, seen: Seen, kills: int) -> Figures:
    """Nothing lost, by its definition.

    Raises:
        AssertionError: what is not so.
    """
    assert receiver.wrong == [], receiver.wrong[:3]
    taken, firsts = receiver.taken(), receiver.firsts()
    every = {item.id: item for items in firsts.values() for item in items}
    refused = {name for name, item in every.items() if faults.refuses(item)}
    left = read_spool(spool_of(folder))
    assert not left.waiting, f"{len(left.waiting)} were never sent"
    assert set(left.letters) == refused, "dead letters are not those that were refused"
    assert all(answer.startswith("422") for answer in left.letters.values())
    settled = taken.keys() | left.letters.keys()
    missing = seen.committed.keys() - settled
    assert not missing, f"{len(missing)} of {len(seen.committed)} that were committed have not arrived"
    assert not refused & taken.keys()
    assert len(every) >= seen.accepted, f"{seen.accepted} accepted before the kills, {len(every)} came"
    for source, items in firsts.items():
        _in_order(source, items)
    _unchanged(receiver, seen)
    lost_acks = receiver.count("lost ack")
    requests = sum(len(arrivals) for arrivals in taken.values())
    duplicates = requests - len(taken)
    may = lost_acks + len(SOURCES) * kills
    assert duplicates <= may, f"{duplicates} duplicates, {lost_acks} lost answers and {kills} kills"
    return {
        "kills": kills,
        "results": len(every),
        "seen committed at a kill": len(seen.committed),
        "lost": len(missing),
        "answers lost": lost_acks,
        "answered later": receiver.count("later"),
        "duplicates": duplicates,
        "refused, dead letters": len(refused),
    }


def _in_order(source: str, items: list[Item]) -> None:
    """Each life counts its frames from 0: none is missing, none overtook another."""
    before = -1
    for item in items:
        number = item.document["frame_id"]
        assert number in (before + 1, 0), f"{source}: frame {number} came first after frame {before}"
        before = number


def _unchanged(receiver: WebhookReceiver, seen: Seen) -> None:
    """Every arrival of an item has the same body, the one that was committed."""
    digests: dict[str, str] = {}
    for arrival in receiver.arrivals:
        for item in arrival.items:
            assert digests.setdefault(item.id, item.digest) == item.digest, f"{item.id} changed on the way"
            assert arrival.id == item.id
    for name, digest in seen.committed.items():
        assert digests.get(name, digest) == digest, f"{name} is not what was committed"
