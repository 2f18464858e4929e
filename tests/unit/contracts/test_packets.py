import threading
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.packets import Connection, EncodedPacket, PacketRing, PacketRings, StreamInfo, codecs_of

VIDEO = StreamInfo("video", "h264", Fraction(1, 1000))
SOUND = StreamInfo("audio", "aac", Fraction(1, 1000))
MANY = 1 << 30


def connection() -> Connection:
    return Connection((VIDEO, SOUND), b"header")


def packet(number: int, *, gop: int = 5, size: int = 10, stream: int = 0) -> EncodedPacket:
    """Ten a second, a keyframe every `gop`."""
    is_key = stream == 1 or number % gop == 0
    return EncodedPacket(stream, bytes(size), number * 100, number * 100, 100, is_key, number / 10)


def numbers(taken: list[tuple[Connection, EncodedPacket]]) -> list[int]:
    return [one.pts // 100 for _, one in taken]


def test_nothing_is_kept_where_nobody_reads() -> None:
    ring = PacketRing()
    writer = ring.begin(connection())
    writer.put(packet(0))
    wanted = [ring.wanted]
    reader = ring.reader(keep_s=10, max_bytes=MANY, audio=False)
    wanted.append(ring.wanted)
    assert not reader.seek(100)
    writer.put(packet(5))
    assert reader.seek(100)
    reader.close()
    assert [*wanted, ring.wanted] == [False, True, False]
    assert ring.newest_s() is None


def test_a_reader_begins_at_the_keyframe_before_and_then_gets_everything_once() -> None:
    ring = PacketRing()
    reader = ring.reader(keep_s=60, max_bytes=MANY, audio=False)
    writer = ring.begin(connection())
    for number in range(23):
        writer.put(packet(number))
    assert reader.seek(1.7)
    assert numbers(reader.take(2.0).packets) == [15, 16, 17, 18, 19, 20]
    assert numbers(reader.take().packets) == [21, 22]
    writer.put(packet(23))
    assert numbers(reader.take().packets) == [23]
    assert reader.seek(-5)
    assert numbers(reader.take().packets)[0] == 0  # the oldest there is


def test_it_begins_with_a_keyframe_and_keeps_as_long_as_the_longest_reader_wants() -> None:
    ring = PacketRing()
    short = ring.reader(keep_s=1, max_bytes=MANY, audio=False)
    ring.reader(keep_s=3, max_bytes=MANY, audio=True)
    assert ring.wants_audio
    writer = ring.begin(connection())
    for number in range(3, 100):
        writer.put(packet(number))
    assert short.seek(0)
    kept = numbers(short.take().packets)
    assert kept[0] % 5 == 0
    assert 99 - kept[0] >= 30  # three seconds, and up to a group of pictures more
    assert 99 - kept[0] <= 35


def test_what_is_too_much_goes_by_whole_groups_of_pictures() -> None:
    ring = PacketRing()
    reader = ring.reader(keep_s=60, max_bytes=120, audio=False)
    writer = ring.begin(connection())
    for number in range(30):
        writer.put(packet(number))
    reader.seek(0)
    kept = numbers(reader.take().packets)
    assert kept == list(range(20, 30))
    writer.put(packet(30, size=500))  # one that is too large alone
    assert not reader.seek(100)
    writer.put(packet(31))
    assert reader.take().packets == []  # and nothing can be decoded without it
    writer.put(packet(35))
    assert numbers(reader.take().packets) == [35]


def test_a_reader_that_is_too_slow_is_told_how_much_it_lost() -> None:
    ring = PacketRing()
    reader = ring.reader(keep_s=1, max_bytes=MANY, audio=False)
    writer = ring.begin(connection())
    for number in range(10):
        writer.put(packet(number))
    reader.seek(0)
    reader.take()
    for number in range(10, 60):
        writer.put(packet(number))
    taken = reader.take()
    assert taken.lost == 35
    assert numbers(taken.packets) == list(range(45, 60))
    assert reader.take().lost == 0


def test_of_two_writers_the_later_is_heard_and_when_it_ends_the_earlier_again_from_a_keyframe_on() -> None:
    ring = PacketRing()
    reader = ring.reader(keep_s=60, max_bytes=MANY, audio=False)
    old, tried = ring.begin(connection()), ring.begin(connection())
    old.put(packet(0))
    tried.put(packet(0, size=7))
    tried.close()
    old.put(packet(3))
    old.put(packet(5))
    old.put(packet(6))
    reader.seek(0)
    taken = reader.take().packets
    assert [(one.pts // 100, len(one.data)) for _, one in taken] == [(0, 7), (5, 10), (6, 10)]
    assert taken[0][0] is not taken[1][0]


def test_each_source_has_its_ring() -> None:
    rings = PacketRings()
    assert rings.of("a") is rings.of("a")
    assert rings.of("a") is not rings.of("b")
    before = rings.of("a")
    rings.forget("a")
    assert rings.of("a") is not before


def test_codecs_are_told_in_words() -> None:
    assert codecs_of((VIDEO, SOUND)) == "h264 and aac"


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 9), st.integers(1, 60)), max_size=200),
    st.integers(1, 200),
    st.floats(0, 5),
)
def test_bytes_are_bounded_and_the_first_packet_is_always_a_keyframe(
    steps: list[tuple[int, int, int]], max_bytes: int, keep_s: float
) -> None:
    ring = PacketRing()
    reader = ring.reader(keep_s=keep_s, max_bytes=max_bytes, audio=False)
    writer = ring.begin(connection())
    for number, (stream, gop, size) in enumerate(steps):
        writer.put(packet(number, gop=gop, size=size, stream=stream))
        if reader.seek(0):
            taken = [one for _, one in reader.take().packets]
            assert sum(len(one.data) for one in taken) <= max_bytes
            assert taken[0].stream == 0
            assert taken[0].keyframe


@pytest.mark.timeout(20)
def test_a_reader_in_another_thread_gets_every_packet_once_and_in_order() -> None:
    ring = PacketRing()
    reader = ring.reader(keep_s=1e9, max_bytes=MANY, audio=False)
    writer = ring.begin(connection())
    writer.put(packet(0))
    reader.seek(0)
    got: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set() or reader.newest_s != got[-1] / 10:
            got.extend(numbers(reader.take().packets))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 5001):
        writer.put(packet(number))
    done.set()
    thread.join()
    assert got == list(range(5001))
