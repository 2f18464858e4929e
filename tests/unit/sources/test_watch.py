import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.contracts.errors import ConfigError, SourceErrorCode, TransientError
from pipeline.contracts.frame import FailedFrame, Frame
from pipeline.testing import MovableClock, PluginContext
from sources import _watch_state
from sources._watch_state import DoneFiles, Version
from sources.directory import DirectorySource, DirectorySourceConfig

Action = Callable[[], object]


class Play(threading.Event):
    """A stop whose waiting moves the clock, does what is due by then, and that is set when all is done."""

    def __init__(self, clock: MovableClock, actions: dict[float, Action], until_s: float) -> None:
        super().__init__()
        self._clock, self._actions, self._began_at = clock, sorted(actions.items()), clock.monotonic()
        self._until_s = until_s

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.advance(timeout or 0.0)
        now_s = self._clock.monotonic() - self._began_at
        while self._actions and self._actions[0][0] <= now_s:
            self._actions.pop(0)[1]()
        if now_s > self._until_s:
            self.set()
        return self.is_set()


class Watched:
    """A folder that is watched, again and again, by a source with the same memory."""

    def __init__(self, folder: Path) -> None:
        self.clock = MovableClock()
        self.folder = folder / "in"
        self.folder.mkdir()
        self.context = PluginContext("box", folder / "data", self.clock)

    def config(self, **keys: object) -> DirectorySourceConfig:
        path = keys.pop("path", str(self.folder))
        return DirectorySourceConfig.model_validate({"type": "directory", "watch": True, "path": path, **keys})

    def source(self, **keys: object) -> DirectorySource:
        return self.config(**keys).build(self.context)

    def run(self, actions: dict[float, Action] | None = None, until_s: float = 5.0, **keys: object) -> list[str]:
        """What comes in that time: names, those of failures with an exclamation mark."""
        names = []
        for item in self.source(**keys).frames(Play(self.clock, actions or {}, until_s)):
            if isinstance(item, Frame):
                names.append(Path(item.path or "").name)
            else:
                names.append(Path(item.file or "").name + "!")
        return names

    def put(self, name: str, grey: int = 100, at: float | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (grey,) * 3).save(path)
        if at is not None:
            os.utime(path, (at, at))
        return path

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def box(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_what_is_there_and_what_comes_is_read_once_in_the_order_of_arrival(box: Watched) -> None:
    box.put("b.png", at=2000)
    box.put("a10.png", at=3000)
    box.put("a9.png", at=3000)
    box.put("c.jpg", at=1000)
    box.put(".hidden.png")
    (box.folder / "notes.txt").write_text("no picture")
    actions: dict[float, Action] = {2: lambda: box.put("late.png"), 4: lambda: box.put("old.png", at=5)}
    assert box.run(actions, until_s=8) == ["c.jpg", "b.png", "a9.png", "a10.png", "late.png", "old.png"]


def test_a_restart_reads_nothing_again_but_what_is_new(box: Watched) -> None:
    box.put("a.png")
    assert box.run() == ["a.png"]
    assert box.run() == []
    box.put("b.png")
    assert box.run() == ["b.png"]


def test_a_new_content_under_an_old_name_is_new(box: Watched) -> None:
    box.put("snapshot.png", at=1000)
    actions: dict[float, Action] = {3: lambda: box.put("snapshot.png", 50, at=1001)}
    assert box.run(actions, until_s=8) == ["snapshot.png", "snapshot.png"]
    assert box.run(path=str(box.folder / "snapshot.png")) == []


def test_a_file_that_is_being_written_is_left_alone_until_it_is_whole(box: Watched) -> None:
    whole = box.put("a.jpg").read_bytes()
    (box.folder / "a.jpg").unlink()

    def write(count: int) -> Action:
        return lambda: (box.folder / "a.jpg").write_bytes(whole[:count])

    growing: dict[float, Action] = {n / 4: write(len(whole) * n // 40) for n in range(1, 41)}
    seen_at: list[float] = []
    for item in box.source().frames(Play(box.clock, growing, 30)):
        assert isinstance(item, Frame)
        seen_at.append(box.clock.monotonic() - 1000)
    assert len(seen_at) == 1
    assert 10 < seen_at[0] < 12


def test_a_writer_that_pauses_is_waited_for_and_junk_is_told_once(box: Watched) -> None:
    whole = box.put("slow.png").read_bytes()
    box.put("slow.png").write_bytes(whole[:45])
    (box.folder / "junk.png").write_bytes(b"no picture")
    actions: dict[float, Action] = {6: lambda: (box.folder / "slow.png").write_bytes(whole)}
    assert box.run(actions, until_s=60) == ["slow.png", "junk.png!"]
    assert box.run(until_s=60) == []


def test_a_file_that_is_renamed_into_place_is_read_within_a_second(box: Watched) -> None:
    hidden = box.put(".a.png")
    play = Play(box.clock, {10: lambda: hidden.rename(box.folder / "a.png")}, 20)
    (seen_at,) = [box.clock.monotonic() - 1000 for _ in box.source().frames(play)]
    assert seen_at <= 11.0


def test_files_are_moved_with_their_subfolders_and_junk_apart(box: Watched, tmp_path: Path) -> None:
    done = tmp_path / "done"
    box.put("a.png")
    box.put("sub/b.png")
    (box.folder / "junk.png").write_bytes(b"no picture")
    keys: dict[str, Any] = {"after": "move", "done_dir": str(done), "recursive": True}
    box.config(**keys).check()
    assert sorted(box.run(until_s=30, **keys)) == ["a.png", "b.png", "junk.png!"]
    assert box.left() == []
    box.put("a.png", 50)
    assert box.run(**keys) == ["a.png"]
    moved = sorted(str(path.relative_to(done)) for path in done.rglob("*") if path.is_file())
    assert moved == ["a-2.png", "a.png", "failed/junk.png", "sub/b.png"]


def test_files_are_deleted_but_never_what_could_not_be_read(box: Watched, tmp_path: Path) -> None:
    box.put("a.png")
    (box.folder / "junk.png").write_bytes(b"no picture")
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 6)).save(outside)
    (box.folder / "link.png").symlink_to(outside)
    assert sorted(box.run(until_s=30, after="delete")) == ["a.png", "junk.png!", "link.png!"]
    assert box.left() == ["junk.png", "link.png"]
    assert outside.exists()
    assert box.run(until_s=30, after="delete") == []
    assert box.run(until_s=30, after="delete", follow_links=True) == []


def test_a_link_out_of_the_folder_is_read_if_asked_and_what_it_points_to_stays(box: Watched, tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 6)).save(outside)
    (box.folder / "link.png").symlink_to(outside)
    assert box.run(after="delete", follow_links=True) == ["link.png"]
    assert outside.exists()
    assert box.left() == ["link.png"]
    assert box.run(after="delete", follow_links=True) == []


def test_a_file_is_kept_until_nobody_holds_its_picture(box: Watched) -> None:
    box.put("a.png", at=1)
    box.put("b.png", at=2)
    held: list[Frame | FailedFrame] = []
    seen: list[list[str]] = []

    def let_go() -> None:
        seen.append(box.left())
        held.clear()

    frames = box.source(after="delete").frames(Play(box.clock, {5: let_go}, 8))
    held.append(next(frames))
    held.append(next(frames))
    assert list(frames) == []
    assert seen == [["a.png", "b.png"]]
    assert box.left() == []


def test_a_file_that_was_handed_on_is_done_at_a_stop_and_the_one_that_was_not_is_read_again(box: Watched) -> None:
    box.put("a.png", at=1)
    box.put("b.png", at=2)
    frames = box.source().frames(Play(box.clock, {}, 60))
    held = [next(frames), next(frames)]
    frames.close()  # type: ignore[attr-defined]  # nobody asked for the one after b
    assert len(held) == 2
    assert box.run() == ["b.png"]


def test_a_file_that_was_replaced_while_it_was_on_its_way_is_not_deleted(box: Watched) -> None:
    box.put("a.png", at=1)
    frames = box.source(after="delete").frames(Play(box.clock, {}, 6))
    next(frames)
    box.put("a.png", 50, at=2)
    assert [Path(item.path or "").name for item in frames if isinstance(item, Frame)] == ["a.png"]
    assert box.left() == []


def test_a_pattern_is_watched_in_the_same_way(box: Watched) -> None:
    box.put("one.png")
    box.put("sub/two.png")
    pattern = str(box.folder / "*" / "t*.png")
    box.config(path=pattern).check()
    assert box.run({2: lambda: box.put("sub/three.png")}, path=pattern) == ["two.png", "three.png"]
    assert box.config(path=pattern).reads() == [box.folder]


def test_a_folder_that_is_away_is_tried_again_and_its_memory_kept(box: Watched, tmp_path: Path) -> None:
    box.put("a.png")
    assert box.run() == ["a.png"]
    box.folder.rename(tmp_path / "away")
    with pytest.raises(TransientError, match="no such folder") as caught:
        box.run()
    assert caught.value.code is SourceErrorCode.NOT_FOUND
    (tmp_path / "away").rename(box.folder)
    assert box.run() == []


def test_one_folder_of_two_that_is_away_is_told_once_and_found_when_it_comes(box: Watched, tmp_path: Path) -> None:
    box.put("a.png")
    other = tmp_path / "other"

    def come() -> None:
        other.mkdir()
        Image.new("RGB", (8, 6)).save(other / "b.png")

    assert box.run({3: come}, path=[str(box.folder), str(other)]) == ["a.png", "b.png"]
    assert len(box.context.warnings) == 1


def test_what_cannot_be_moved_is_told_once_and_not_read_again(box: Watched, tmp_path: Path) -> None:
    (tmp_path / "done").write_text("a file is in the way")
    for name in ("a.png", "b.png"):
        box.put(name)
    keys: dict[str, Any] = {"after": "move", "done_dir": str(tmp_path / "done" / "sub")}
    assert len(box.run(until_s=20, **keys)) == 2
    (warning,) = box.context.warnings
    assert "could not be moved" in warning
    assert box.run(until_s=20, **keys) == []


def test_a_damaged_memory_is_put_aside_and_told(box: Watched) -> None:
    box.put("a.png")
    box.run()
    database = box.context.data_dir / "watched" / "box.sqlite"
    database.write_bytes(b"\xff" * 4096)
    assert box.run() == ["a.png"]
    assert "was damaged" in box.context.warnings[0]
    assert box.run() == []


def test_a_memory_that_cannot_be_made_is_a_transient_error(box: Watched) -> None:
    box.context.data_dir.write_text("a file is in the way")
    with pytest.raises(TransientError, match="cannot be") as caught:
        box.run()
    assert caught.value.code is SourceErrorCode.INTERNAL


def test_what_it_makes_is_for_owner_and_group_only(box: Watched, tmp_path: Path) -> None:
    box.put("sub/a.png")
    before = os.umask(0)
    try:
        box.run(after="move", done_dir=str(tmp_path / "deep" / "done"), recursive=True)
        DoneFiles(box.context.data_dir / "watched" / "box.sqlite", print).add("b.png", Version(1, 2))
    finally:
        os.umask(before)
    made = [box.context.data_dir, *box.context.data_dir.rglob("*"), *(tmp_path / "deep").rglob("*")]
    assert len(made) > 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_dir()} == {0o750}
    files = [path for path in made if path.is_file() and path.name != "a.png"]  # a file that was moved stays as it was
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}


def test_the_memory_is_bounded_and_an_empty_folder_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch_state, "GONE_LIMIT", 10)
    version = Version(1, 2)
    done = DoneFiles(tmp_path / "a.sqlite", print)
    for number in range(30):
        done.add(f"{number}.png", version)
    done.forget_gone(set())
    assert ("0.png", version) in done
    done.forget_gone({"0.png", "29.png"})
    done.close()
    done = DoneFiles(tmp_path / "a.sqlite", print)
    kept = [number for number in range(30) if (f"{number}.png", version) in done]
    done.close()
    assert kept == [0, *range(19, 30)]


def test_what_the_source_of_before_a_reload_adds_is_known_too(tmp_path: Path) -> None:
    before, after = DoneFiles(tmp_path / "a.sqlite", print), DoneFiles(tmp_path / "a.sqlite", print)
    before.add("a.png", Version(1, 2))
    assert ("a.png", Version(1, 2)) in after
    assert ("a.png", Version(1, 3)) not in after
    before.close()
    after.close()


def test_names_that_are_no_text_are_remembered(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    for expected in (False, True):
        done = DoneFiles(tmp_path / "a.sqlite", print)
        assert ((name, Version(1, 2)) in done) is expected
        done.add(name, Version(1, 2))
        done.close()


def test_a_stop_ends_the_watching_at_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    config = DirectorySourceConfig.model_validate({"type": "directory", "watch": True, "path": str(tmp_path / "in")})
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started_at = time.monotonic()
    assert list(config.build(PluginContext("box", tmp_path / "data")).frames(stop)) == []
    assert time.monotonic() - started_at < 1.0


READER = """
import sys, threading
from collections import deque
from pathlib import Path
from pipeline.testing import PluginContext
from sources.directory import DirectorySourceConfig

folder = Path(sys.argv[1])
keys = {"type": "directory", "watch": True, "path": str(folder / "in"), "after": sys.argv[2]}
waiting = deque()
for frame in DirectorySourceConfig.model_validate(keys).build(PluginContext("box", folder / "data")).frames(
    threading.Event()
):
    waiting.append(frame)
    del frame
    if len(waiting) > 3:  # as many as a queue holds: what is in it dies with the process
        print(Path(waiting.popleft().path).name, flush=True)
"""


@pytest.mark.parametrize("after", ["keep", "delete"])
def test_kill_9_loses_no_file(box: Watched, tmp_path: Path, root: Path, after: str) -> None:
    for number in range(40):
        box.put(f"{number}.png", at=1000 + number)
    finished: list[str] = []
    for kill_after in (4, 8, 12):
        with subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path), after], cwd=root, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            finished += [reader.stdout.readline().strip() for _ in range(kill_after)]
            reader.send_signal(signal.SIGKILL)
            finished += reader.stdout.read().split()
    finished += box.run(after=after)
    assert set(finished) == {f"{number}.png" for number in range(40)}
    assert len(finished) <= 40 + 3 * 5  # only what was on its way comes again


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ({"path": "nowhere"}, "path", "cannot be watched"),
        ({"path": "nowhere/*.png"}, "path", "cannot be watched"),
        ({"fps": 5}, "fps", "says nothing"),
        ({"after": "move"}, "done_dir", "needs done_dir"),
        ({"done_dir": "done"}, "done_dir", "is for after"),
        ({"after": "delete", "done_dir": "done"}, "done_dir", "is for after"),
        ({"after": "move", "done_dir": "in"}, "done_dir", "itself watched"),
        ({"after": "move", "done_dir": "in/done", "recursive": True}, "done_dir", "itself watched"),
        ({"after": "move", "done_dir": "in/sub", "path": "in/*/*.png"}, "done_dir", "itself watched"),
        ({"after": "move", "done_dir": "in/sub", "path": "in/**/*.png"}, "done_dir", "itself watched"),
        ({"after": "move", "done_dir": "in/a.png/done"}, "done_dir", "cannot be written"),
        ({"watch": False, "after": "delete"}, "after", "needs watch"),
        ({"watch": False, "done_dir": "done"}, "done_dir", "needs watch"),
    ],
)
def test_check_blames_the_key(box: Watched, tmp_path: Path, keys: dict[str, object], key: str, words: str) -> None:
    box.put("a.png")
    for name in ("path", "done_dir"):
        if name in keys:
            keys = {**keys, name: str(tmp_path / str(keys[name]))}
    with pytest.raises(ConfigError, match=words) as caught:
        box.config(**keys).check()
    assert caught.value.key == key


@pytest.mark.parametrize(
    "keys",
    [
        {"after": "move", "done_dir": "elsewhere/deep"},
        {"after": "move", "done_dir": "in/done"},  # subfolders are not watched
        {"after": "move", "done_dir": "in/.done", "recursive": True},  # hidden folders neither
        {"after": "move", "done_dir": "in/done", "path": "in/*.png"},
        {"after": "delete"},
        {"path": "in/*.nothing_yet"},
    ],
)
def test_check_passes_what_can_be(box: Watched, tmp_path: Path, keys: dict[str, str]) -> None:
    keys = {name: str(tmp_path / text) if name in {"path", "done_dir"} else text for name, text in keys.items()}
    box.config(**keys).check()
    assert not (tmp_path / "elsewhere").exists()
