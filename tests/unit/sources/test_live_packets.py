"""What those who record get of a connection's packets."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.contracts.packets import PacketRing, Taken
from sources._live_packets import Tap

FPS, KEY_EVERY = 25, 10


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"g": str(KEY_EVERY), "bf": "2", "sc_threshold": "0"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8 * KEY_EVERY):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def recorded(film: Path, moved_s: Callable[[int], float], came_s: Callable[[int], float]) -> Taken:
    """What a reader gets where the stamps of each packet, by its number, are moved, and it came then."""
    ring = PacketRing()
    reader = ring.reader(keep_s=600.0, max_bytes=1 << 30, audio=False)
    with av.open(str(film)) as container:
        tap = Tap(ring, container.streams.video[:1], stamped=True)
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            assert packet.pts is not None
            assert packet.dts is not None
            ticks = round(moved_s(number) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            tap.put(packet, 100.0 + came_s(number))
        tap.close()
    reader.seek(0.0)
    return reader.take()


def pieces(taken: Taken) -> Iterator[list[int]]:
    """How many packets there are of each connection, each from a keyframe on and in order."""
    of: dict[int, list[int]] = {}
    for connection, packet in taken.packets:
        stamps = of.setdefault(id(connection), [])
        assert packet.keyframe or stamps
        assert packet.dts is not None
        stamps.append(packet.dts)
    for stamps in of.values():
        assert stamps == sorted(stamps)
        yield stamps


@pytest.mark.parametrize("jump_s", [-3600.0, -2.0, 3600.0])
@pytest.mark.parametrize("at", [3 * KEY_EVERY, 3 * KEY_EVERY + 4])
def test_what_comes_after_the_cameras_clock_was_set_does_not_go_on_in_the_same_file(
    film: Path, jump_s: float, at: int
) -> None:
    taken = recorded(film, lambda number: jump_s if number >= at else 0.0, lambda number: number / FPS)
    after = 8 * KEY_EVERY - -(-at // KEY_EVERY) * KEY_EVERY  # from the next keyframe on
    assert [len(stamps) for stamps in pieces(taken)] == [at, after]


@pytest.mark.parametrize(
    "came_s", [lambda _: 0.0, lambda number: number // KEY_EVERY * 2.0, lambda number: number * 0.5]
)
def test_packets_that_come_at_once_late_or_slowly_are_of_one_piece(film: Path, came_s: Callable[[int], float]) -> None:
    taken = recorded(film, lambda _: 0.0, came_s)
    assert [len(stamps) for stamps in pieces(taken)] == [8 * KEY_EVERY]


def test_a_gap_in_what_the_camera_shows_is_no_jump_where_so_much_time_has_passed(film: Path) -> None:
    taken = recorded(film, lambda n: 60.0 * (n >= 35), lambda n: n / FPS + 60.0 * (n >= 35))
    assert [len(stamps) for stamps in pieces(taken)] == [8 * KEY_EVERY]
