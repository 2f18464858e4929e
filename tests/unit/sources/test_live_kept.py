from typing import TYPE_CHECKING, cast

import av

from sources._live_kept import Kept

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream


def packet(pts: int | None) -> "Packet[VideoStream]":
    made = cast("Packet[VideoStream]", av.Packet(b"some bytes"))
    made.pts = pts
    return made


def kept(*pts: int) -> Kept:
    """A group in the order in which its packets came; the first is its keyframe."""
    group = Kept()
    group.begin(packet(pts[0]))
    for each in pts[1:]:
        group.add(packet(each))
    return group


def woken(group: Kept, trigger: int | None) -> tuple[list[int | None], list[int], int]:
    """What is decoded, what of it all does not come out, and how many are counted as skipped."""
    packets, skipped = group.wake(packet(trigger))
    return [each.pts for each in packets], [pts for pts in range(100) if group.passes_over(pts)], skipped


def test_what_is_shown_before_the_packet_that_woke_it_does_not_come_out_and_the_rest_does() -> None:
    assert woken(kept(10, 14, 12, 11), 13) == ([10, 14, 12, 11], [10, 11, 12], 2)  # the keyframe's frame was given


def test_what_was_given_does_not_come_out_again_also_where_it_is_shown_later() -> None:
    group = kept(10, 14)
    group.gave(packet(14))
    assert woken(group, 12) == ([10, 14], [10, 14], 0)
    group = kept(10, 14, 12)
    group.gave(packet(14))
    assert group.end() == 1


def test_what_is_shown_before_its_keyframe_is_never_decoded() -> None:
    group = kept(10, 8, 9)
    assert group.is_leading(packet(7))
    assert woken(group, 14) == ([10], [8, 9, 10], 2)
    assert not group.is_leading(packet(14))
    assert not group.is_leading(packet(9))  # behind a later one it is no leading picture, but time that jumped
    assert woken(kept(10, 9), 8) == ([10], [9, 10], 1)
    early = kept(10)
    assert woken(early, 9) == ([10], [10], 0)
    assert early.is_leading(packet(8))


def test_without_a_time_stamp_nothing_that_was_kept_comes_out() -> None:
    assert woken(kept(10, 11, 12), None) == ([10, 11, 12], [10, 11, 12], 2)


def test_of_a_group_that_is_over_its_frames_are_forgotten_once_no_decoder_can_hold_them() -> None:
    group = kept(10, 11)
    woken(group, 12)
    assert group.end() == 0
    assert group.passes_over(11)
    group.end()
    assert not group.passes_over(11)
