"""Rows 1 to 13: what sources do when cameras, networks and files go wrong. Each row drives the real program.

The cameras are asked again after 0.5 s to 4 s (`reconnect`), where a row wants frames 5 s after the fault ended.
"""

import contextlib
import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import av
from daemon import JSONL, ONNX, Daemon, Usage
from media import camera_clip, moving, numbered_video, video
from netns import FarCamera, why_not
from observed import Tail, until
from rtsp_server import RtspServer

from tests.scorecard.table import Figures, NotRunError

SUPPORT = Path(__file__).parents[1] / "support"
TESTS = Path(__file__).parents[1]
SEEN_LIMIT_S = 5.0
BACK_LIMIT_S = 5.0
STALE_LIMIT_S = 2.0


def camera(name: str, url: str, more: str = "") -> str:
    """A camera's table."""
    return f"""
    [sources.{name}]
    type = "rtsp"
    url = "{url}"
    reconnect = {{ min_s = 0.5, max_s = 4 }}
    {more}
    """


def events(daemon: Daemon, source: str = "cam") -> list[str]:
    """The states that the sink was told of, in their order."""
    lines = daemon.lines(f"out/{source}.jsonl")
    return [line["value"] for line in lines if line.get("event") == "state"]


class Process:
    """The test camera as a process, which can be killed and stopped."""

    def __init__(self, clip: Path, port: int = 0) -> None:
        command = [sys.executable, str(SUPPORT / "rtsp_server.py"), str(port), f"/cam={clip}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[1])
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def hold(daemon: Daemon, seconds: float) -> None:
    """Let time pass, with the ledger checked at scrapes; the process must live on."""
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        daemon.scrape()
        time.sleep(min(left, 0.5))


def settles(daemon: Daemon, before: Usage) -> Usage:
    """Threads and open files are as many as before; a request that is just being answered may still hold one."""

    def same() -> Usage | None:
        now = daemon.usage()
        return now if now.threads == before.threads and now.descriptors <= before.descriptors else None

    try:
        return until("threads and files as before", same, 5.0, every_s=0.1)
    except AssertionError:
        raise AssertionError(f"{before} became {daemon.usage()}") from None


def comes_back(daemon: Daemon, source: str = "cam", limit_s: float = BACK_LIMIT_S) -> Figures:
    """Watch the results until the first comes, and for three seconds more: none may be stale."""
    tail = Tail(daemon.folder / f"out/{source}.jsonl")
    tail.ages()
    start = time.monotonic()
    ages = [age for _, age in until(f"results of {source}", tail.ages, limit_s)]
    back_s, ends_at = time.monotonic() - start, time.monotonic() + 3
    while time.monotonic() < ends_at:
        time.sleep(0.05)
        ages += [age for _, age in tail.ages()]
    assert max(ages) < STALE_LIMIT_S, f"a result was {max(ages):.2f} s old when it came"
    return {"back s": back_s, "oldest result s": max(ages)}


def outage(
    daemon: Daemon, fault: Callable[[], object], heal: Callable[[], object], hold_s: float, seen_limit_s: float
) -> Figures:
    """One fault from its beginning to its end: seen in time, said once, and frames again in time."""
    daemon.ready().wait_frames("cam", 30)
    told = len(events(daemon))
    start = time.monotonic()
    fault()
    daemon.wait_state("cam", "reconnecting", seen_limit_s + 2)
    seen_s = time.monotonic() - start
    assert seen_s <= seen_limit_s, f"seen after {seen_s:.2f} s"
    hold(daemon, hold_s - seen_s)
    assert daemon.state("cam") == "reconnecting"
    heal()
    figures = comes_back(daemon)
    said = events(daemon)[told:]
    assert said.count("reconnecting") == 1, f"the sink was told {said}"
    assert said[-1] == "running", f"the sink was told {said}"
    assert daemon.scrape().of("penstock_source_reconnects_total", source="cam") >= 1
    return {"seen s": seen_s, **figures}


def row_1(folder: Path) -> Figures:
    """The server is killed and is back after 10 s."""
    clip = camera_clip(folder / "cam.mkv")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Process(clip))
        daemon = stack.enter_context(Daemon(folder, camera("cam", server.url) + ONNX + JSONL))

        def again() -> None:
            stack.enter_context(Process(clip, server.port))

        figures = outage(daemon, server.process.kill, again, 10, seen_limit_s=1.0)
        daemon.stop()
        return figures


def row_2(folder: Path) -> Figures:
    """The server is stopped (SIGSTOP) for 60 s."""
    with Process(camera_clip(folder / "cam.mkv")) as server:
        process = server.process
        with Daemon(folder, camera("cam", server.url) + ONNX + JSONL) as daemon:
            figures = outage(
                daemon,
                lambda: process.send_signal(signal.SIGSTOP),
                lambda: process.send_signal(signal.SIGCONT),
                60,
                SEEN_LIMIT_S,
            )
            daemon.stop()
            return figures


def _switched(folder: Path, switch: str, on: object, off: object, *, audio: bool = False) -> Figures:
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"), audio=audio)
        with Daemon(folder, camera("cam", url) + ONNX + JSONL) as daemon:
            figures = outage(
                daemon,
                lambda: setattr(server.fault, switch, on),
                lambda: setattr(server.fault, switch, off),
                15,
                SEEN_LIMIT_S,
            )
            daemon.stop()
            return figures


def row_3(folder: Path) -> Figures:
    """RTP stops, sender reports go on."""
    return _switched(folder, "drop", 1.0, 0.0)


def row_4(folder: Path) -> Figures:
    """Video stops, audio goes on."""
    return _switched(folder, "video_freeze", True, False, audio=True)


def row_5(folder: Path) -> Figures:
    """A black hole, then a pulled cable, 60 s each; descriptors and threads are as before."""
    if reason := why_not():
        raise NotRunError(reason)
    with contextlib.ExitStack() as stack:
        far = stack.enter_context(FarCamera(camera_clip(folder / "cam.mkv")))
        with Daemon(folder, camera("cam", far.url) + ONNX + JSONL) as daemon:
            daemon.ready().wait_frames("cam", 50)
            before = daemon.usage()
            hole = outage(daemon, far.black_hole, far.heal, 60, SEEN_LIMIT_S)
            cable = outage(daemon, lambda: far.link(False), lambda: far.link(True), 60, SEEN_LIMIT_S)
            settles(daemon, before)
            daemon.stop()
            return {name: max(hole[name], cable[name]) for name in hole}


ANSWERS = {
    "auth": ("status", "401 Unauthorized", None),
    "missing": ("status", "404 Not Found", None),
    "transport": ("status", "461 Unsupported Transport", None),
    "garbage": ("garbage", True, False),
    "stall": ("stall_describe", True, False),
}


def row_6(folder: Path) -> Figures:
    """Five cameras that answer 401, 404, 461, garbage and nothing for 60 s."""
    clip = camera_clip(folder / "cam.mkv")
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(RtspServer()) for name in ANSWERS}
        tables = [camera(name, server.add("/cam", clip)) for name, server in servers.items()]
        daemon = stack.enter_context(Daemon(folder, "".join(tables) + ONNX + JSONL))
        daemon.ready()
        for name, server in servers.items():
            daemon.wait_state(name, "running")
            switch, on, _ = ANSWERS[name]
            setattr(server.fault, switch, on)
            server.close_all()
        start, said = time.monotonic(), len(daemon.log())
        hold(daemon, 60)
        spread = [_check_attempts(name, server, start) for name, server in servers.items()]
        log = daemon.log()[said:].splitlines()
        lines = {name: sum(f"source {name}:" in line for line in log) for name in ANSWERS}
        assert max(lines.values()) <= 6, f"log lines in 60 s: {lines}"
        for name, server in servers.items():
            switch, _, off = ANSWERS[name]
            setattr(server.fault, switch, off)
        back = [daemon.wait_state(name, "running", 4 + 10) for name in servers]
        daemon.stop()
        return {"back s": max(back), "log lines in 60 s": max(lines.values()), "attempts in 60 s": max(spread)}


def _check_attempts(name: str, server: RtspServer, start: float) -> float:
    """The pauses between the attempts are within the back-off's limits, and differ."""
    at = [when for when in server.counts.connected_at if when > start]
    pauses = [after - before for before, after in itertools.pairwise(at)]
    # FFmpeg may connect twice for one attempt, at once; opening takes up to its own limit on top of the pause.
    waits = [pause for pause in pauses if pause > 0.1]
    assert len(waits) >= 4, f"{name}: only {len(waits)} attempts"
    assert min(waits) >= 0.45, f"{name}: pauses {waits}"
    assert max(waits) <= 4 + 10.5, f"{name}: pauses {waits}"
    assert max(waits) - min(waits) > 0.05, f"{name}: no jitter: {waits}"
    return len(waits) + 1.0


def row_7(folder: Path) -> Figures:
    """5 % and 20 % of the UDP packets are lost; one camera flags damaged frames, one skips them."""
    clip = camera_clip(folder / "cam.mkv", width=640, height=368)
    with contextlib.ExitStack() as stack:
        text = ONNX + JSONL
        servers = {}
        for share in (5, 20):
            server = servers[share] = stack.enter_context(RtspServer(seed=share))
            url = server.add("/cam", clip)
            for policy in ("flag", "skip"):
                text += camera(f"{policy}{share}", url, f'transport = "udp"\non_corrupt = "{policy}"')
        daemon = stack.enter_context(Daemon(folder, text))
        daemon.ready()
        names = [f"{policy}{share}" for share in (5, 20) for policy in ("flag", "skip")]
        for name in names:
            daemon.wait_state(name, "running")
        for share, server in servers.items():
            server.fault.drop = share / 100
        hold(daemon, 15)
        for name in names:
            daemon.scrape()
            assert daemon.state(name) in ("running", "reconnecting")
        samples = daemon.scrape()
        daemon.stop()
        return _check_corrupt(daemon, samples.of, names)


def _check_corrupt(daemon: Daemon, of: Callable[..., float], names: list[str]) -> Figures:
    figures = {}
    for name in names:
        lines = [line for line in daemon.lines(f"out/{name}.jsonl") if "frame_id" in line]
        flagged = sum(line.get("corrupt", False) for line in lines)
        counted = of("penstock_frames_corrupt_total", source=name)
        failed = of("penstock_frames_total", source=name, outcome="failed_decode")
        assert counted > 0, f"{name}: no damage was counted"
        if name.startswith("flag"):
            lost = of("penstock_frames_total", source=name, outcome="dropped_queue_full")
            assert -lost <= flagged - counted <= 30, f"{name}: {counted:.0f} counted, {flagged} flagged"
        else:
            assert flagged == 0, f"{name}: {flagged} damaged frames were inferred"
            assert failed >= counted, f"{name}: {counted:.0f} damaged, {failed:.0f} failed"
        figures[f"damaged {name}"] = counted
    return figures


def row_8(folder: Path) -> Figures:
    """10,000 corrupt RTP packets of a 6 Mbit/s camera."""
    clip = camera_clip(folder / "cam.mkv", width=640, height=368)
    with RtspServer() as server:
        url = server.add("/cam", clip)
        with Daemon(folder, camera("cam", url) + ONNX + JSONL) as daemon:
            daemon.ready().wait_frames("cam", 150)
            before = daemon.usage()
            server.fault.corrupt = 0.5
            until("10,000 corrupt packets", lambda: server.counts.corrupted >= 10_000, 120, every_s=0.2)
            server.fault.corrupt = 0.0
            healed_at = damaged_at = time.monotonic()
            damaged = -1.0
            while time.monotonic() < healed_at + 6:
                samples = daemon.scrape()
                now = samples.of("penstock_frames_corrupt_total") + samples.of(
                    "penstock_frames_total", outcome="failed_decode"
                )
                damaged_at = time.monotonic() if now != damaged else damaged_at
                damaged = now
                time.sleep(0.05)
            recovered_s = damaged_at - healed_at
            assert recovered_s < 2, f"damaged frames until {recovered_s:.1f} s after"
            daemon.wait_frames("cam", 10)
            grown = daemon.usage().rss_mib - before.rss_mib
            assert grown < 20, f"memory grew by {grown:.1f} MiB"
            daemon.stop()
            return {"damaged frames": damaged, "clean after s": recovered_s, "RSS MiB": grown}


SIZES = ((320, 240), (640, 368), (480, 272))


def row_9(folder: Path) -> Figures:
    """The camera's resolution changes ten times."""
    clips = [camera_clip(folder / f"cam{w}.mkv", frames=25, width=w, height=h) for w, h in SIZES]
    sinks = JSONL + '\n[sinks.video]\ntype = "video"\npath = "out/{source}.mp4"\n'
    with RtspServer() as server:
        url = server.add("/cam", clips[0])
        with Daemon(folder, camera("cam", url) + ONNX + sinks) as daemon:
            daemon.ready()
            for number in range(1, 11):
                daemon.wait_frames("cam", 30)
                server.switch("/cam", clips[number % 3])
            daemon.wait_frames("cam", 40)
            samples = daemon.scrape()
            daemon.stop()
    lines = [line for line in daemon.lines("out/cam.jsonl") if "frame_id" in line]
    sizes = [(line["image"]["width"], line["image"]["height"]) for line in lines]
    changes = sum(one != other for one, other in itertools.pairwise(sizes))
    assert changes == 10, f"{changes} changes of size"
    for line, (width, height) in zip(lines, sizes, strict=True):
        for box in line["predictions"]:
            assert 0 <= box["x"] - box["width"] / 2 <= box["x"] + box["width"] / 2 <= width, line
            assert 0 <= box["y"] - box["height"] / 2 <= box["y"] + box["height"] / 2 <= height, line
    assert samples.of("penstock_frames_total", outcome="failed_decode") == 0
    assert samples.of("penstock_source_reconnects_total") == 0
    files = sorted((folder / "out").glob("cam*.mp4"))
    assert len(files) == 11, f"{len(files)} files of video"
    frames = sum(_frames_in(path) for path in files)
    delivered = re.search(r"sink video: .* ([\d,]+) delivered", daemon.log())
    assert delivered is not None
    assert frames == int(delivered[1].replace(",", "")), f"{frames} frames of video, {delivered[1]} delivered"
    return {"files": len(files), "frames": frames}


def _frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


CHURN_AT_ONCE = 10


def _churn(daemon: Daemon, url: str, prefix: str) -> float:
    """Ten cameras come and go; the memory that is held afterwards, in MiB."""
    names = [f"{prefix}_{number}" for number in range(CHURN_AT_ONCE)]
    table = {"type": "rtsp", "url": url, "reconnect": {"min_s": 0.5, "max_s": 4}}
    for name in names:
        status, body = daemon.request(f"/api/v1/sources/{name}", "PUT", table)
        assert status in (200, 201), f"PUT answers {status}: {body[:300]}"
    for name in names:
        daemon.wait_state(name, "running")
    for name in names:
        status, body = daemon.request(f"/api/v1/sources/{name}", "DELETE")
        assert status in (200, 204), f"DELETE answers {status}: {body[:300]}"
    return daemon.usage().rss_mib


def row_10(folder: Path) -> Figures:
    """100 cameras come and go through the API, ten at a time."""
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        text = camera("cam", url) + ONNX + JSONL
        with Daemon(folder, text, server="sources_by_api = true") as daemon:
            daemon.ready().wait_frames("cam", 20)
            # The allocator keeps a few MiB more or less from one moment to the next: medians of three are compared.
            held = [_churn(daemon, url, f"warm{number}") for number in range(3)]
            hold(daemon, 2)
            before, start = daemon.usage(), time.monotonic()
            grown = [_churn(daemon, url, f"cam{number}") for number in range(10)]
            took_s = time.monotonic() - start
            settles(daemon, before)
            rise = median(grown[-3:]) - median(held)
            assert rise < 10, f"memory after each ten cameras: {held}, then {grown}"
            daemon.stop()
            return {"RSS MiB": rise, "took s": took_s}


def row_11(folder: Path) -> Figures:
    """A model of 5 frames a second behind a camera of 25, for 60 s."""
    backend = '\n[backends.slow]\ntype = "rig"\ndelay_s = 0.2\n'
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        with Daemon(folder, camera("cam", url) + backend + JSONL) as daemon:
            daemon.ready().wait_state("cam", "running")
            tail, ages, ends_at = Tail(folder / "out/cam.jsonl"), [], time.monotonic() + 60
            while time.monotonic() < ends_at:
                ages += [age for _, age in tail.ages()]
                time.sleep(0.02)
            samples = daemon.scrape()
            daemon.stop()
    p95 = quantiles(ages, n=20)[-1]
    assert p95 < 2 * 0.2 + 0.5, f"p95 is {p95:.2f} s"
    assert max(ages) < 2, f"the oldest result was {max(ages):.2f} s old"
    dropped = sum(samples.of("penstock_frames_total", outcome=why) for why in ("dropped_queue_full", "dropped_stale"))
    assert dropped > 1000, f"{dropped:.0f} drops were counted"
    return {"p95 s": p95, "oldest s": max(ages), "dropped": dropped}


def row_12(folder: Path) -> Figures:
    """180 files of zzuf, cut and empty files and a folder of junk, in one run."""
    media = folder / "media"
    media.mkdir(parents=True)
    kinds = {"mp4": "libx264", "mkv": "libx265", "avi": "mpeg4"}
    for number, (extension, codec) in enumerate(kinds.items()):
        options = {"x265-params": "log-level=none"} if codec == "libx265" else None
        whole = numbered_video(folder / f"whole.{extension}", 10, codec=codec, options=options)
        pictures = [moving(n, 96, 64) for n in range(10)]
        video(media / f"good_{number}.{extension}", pictures, codec=codec, options=options)
        for seed in range(60):
            path = media / f"zzuf_{number}_{seed}.{extension}"
            with whole.open("rb") as source, path.open("wb") as output:
                ratio = f"{10 ** -(1.5 + seed % 6 / 2):.6f}"
                subprocess.run(["zzuf", "-s", str(seed), "-r", ratio], stdin=source, stdout=output, check=True)
        (media / f"cut_{number}.{extension}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        (media / f"empty_{number}.{extension}").touch()
    junk = folder / "junk"
    junk.mkdir()
    for number in range(20):
        (junk / f"junk_{number}.jpg").write_bytes(b"no picture" * number)
    text = '\n[sources.files]\ntype = "file"\npath = "media/*"\n[sources.junk]\ntype = "directory"\npath = "junk"\n'
    start = time.monotonic()
    with Daemon(folder, text + ONNX + JSONL) as daemon:
        assert daemon.process is not None
        code = daemon.process.wait(120)
    took_s, log = time.monotonic() - start, daemon.log()
    assert code in (0, 1), f"exit code {code}"
    assert "Traceback" not in log
    assert "every frame and every result is accounted for" in log, log[-500:]
    widths = [line["image"]["width"] for line in daemon.lines("out/files.jsonl") if "frame_id" in line]
    assert widths.count(96) == 10 * len(kinds), f"{widths.count(96)} results of the {len(kinds)} whole files"
    named = sum(f"junk_{number}.jpg" in log for number in range(20))
    assert named == 20, f"{named} of 20 junk files are named in the log"
    return {"files": len(list(media.iterdir())) + 20, "took s": took_s}


def row_13(folder: Path) -> Figures:
    """The camera's clock jumps an hour ahead, and back."""
    with RtspServer() as server:
        url = server.add("/cam", camera_clip(folder / "cam.mkv"))
        with Daemon(folder, camera("cam", url) + ONNX + JSONL) as daemon:
            daemon.ready().wait_frames("cam", 30)
            figures = {}
            for offset_s in (3600.0, 0.0):
                server.fault.ntp_offset_s = offset_s
                start = time.monotonic()

                def shown(offset_s: float = offset_s) -> bool:
                    # The metric says by how much the camera is behind us.
                    return abs(daemon.scrape().of("penstock_source_clock_offset_seconds") + offset_s) < 1

                until(f"a clock offset of {offset_s:g} s", shown, 8)
                figures[f"shows {offset_s:g} s after s"] = time.monotonic() - start
                daemon.wait_frames("cam", 40)
            assert daemon.scrape().of("penstock_source_reconnects_total") == 0
            daemon.stop()
    lines = [line for line in daemon.lines("out/cam.jsonl") if "frame_id" in line]
    assert all(line["latency_s"] >= 0 for line in lines), "a negative latency"
    pts = [line["pts_s"] for line in lines]
    assert pts == sorted(pts), "time stamps run backwards"
    return figures
