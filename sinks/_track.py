"""`Track`: one video stream in a container that is being written: its encoder, its time stamps, its canvas."""

from typing import TYPE_CHECKING, NamedTuple, cast

from pipeline.contracts.frame import ColorMatrix, Frame, Size, YuvPlanes
from sinks._encoder import TIME_BASE, Encoder, Encoding, quiet, set_up
from sinks._planes import Planes, planes_of

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

KEEP_START_S = 1.0
"""A first time stamp up to here is kept as it is; a video that begins later than that begins at 0."""

_COLORSPACE_OF: dict[ColorMatrix, int] = {"bt601": 6, "bt709": 1, "bt2020": 9}  # AVColorSpace, ITU-T H.273 table 4
_UNSPECIFIED = 2
_RANGE_TV, _RANGE_PC = 1, 2  # AVColorRange


class Kind(NamedTuple):
    """What all pictures of one video have in common; another kind begins another one."""

    size: Size
    matrix: ColorMatrix
    full_range: bool
    tagged: bool
    path: str | None

    @classmethod
    def of(cls, frame: Frame, planes: YuvPlanes) -> "Kind":
        """Of this picture. Pictures of a folder, one file each, make one video; files with a timeline one each."""
        path = None if frame.file_pts_s is None else frame.path
        return cls(frame.picture.size, planes.matrix, planes.full_range, planes.tagged, path)


class Stamp(NamedTuple):
    """When a picture is shown, in `TIME_BASE`; `went_back`: the source's own time stamps did."""

    pts: int
    duration: int
    went_back: bool


class Track:
    """Made for each container by the sink that writes it; used by the sink's thread.

    H.264 in 4:2:0 has even sides only: a picture with an odd side gets its last row or column twice, so that no pixel
    is lost and no coordinate moves.

    Args:
        container: whose header is not written yet.
        first: the first picture.
        kind: of all its pictures.
        encoding: how to encode.
        encoder: with what.
        global_header: the codec's own header goes into the container's, whatever that says itself.

    Raises:
        av.FFmpegError, OSError, ValueError: this cannot be encoded.
    """

    def __init__(
        self,
        container: "OutputContainer",
        first: Frame,
        kind: Kind,
        encoding: Encoding,
        encoder: Encoder,
        *,
        global_header: bool = False,
    ) -> None:
        import av
        from av.codec.context import Flags
        from av.video.reformatter import VideoReformatter

        quiet()
        self.kind = kind
        self.frames = 0
        width, height = kind.size
        self.size = Size(width + width % 2, height + height % 2)
        begin_s = first.pts_s or 0.0
        # Added to the source's time stamps; grows when they go back.
        self._shift_s = -begin_s if abs(begin_s) > KEEP_START_S else 0.0
        self._last = Stamp(-(2**62), round(1 / encoding.fps / TIME_BASE), went_back=False)
        self._keyframe_every = round(encoding.keyframe_s / TIME_BASE)
        self._keyframe_pts = self._last.pts
        self._began_s = 0.0
        self._container = container
        rate = 1 / first.duration_s if first.duration_s else encoding.fps
        added = container.add_stream(encoder.name)
        self._stream = cast("VideoStream", added)
        self._stream.width, self._stream.height = self.size
        self._stream.time_base = TIME_BASE
        codec: VideoCodecContext = self._stream.codec_context
        # How many frames of a camera come is not known: sampling and load leave some out.
        is_live = first.file_pts_s is None and encoding.ahead == "little"
        set_up(codec, encoder, encoding._replace(ahead="none") if is_live else encoding, rate)
        codec.color_range = _RANGE_PC if kind.full_range else _RANGE_TV
        # What the source leaves open stays open: a player guesses by the size of the picture, here as there.
        codec.colorspace = _COLORSPACE_OF[kind.matrix] if kind.tagged else _UNSPECIFIED
        if global_header:
            codec.flags |= Flags.global_header
        if encoding.codec == "hevc" and container.format.name in {"mp4", "mov"}:
            codec.codec_tag = "hvc1"  # Apple's players know no other
        self._canvas = av.VideoFrame(*self.size, "yuv420p")
        self._converter = VideoReformatter() if encoder.pix_fmt != "yuv420p" else None
        self._pix_fmt = encoder.pix_fmt

    @property
    def extradata(self) -> bytes:
        """The codec's own header, once encoding has begun."""
        return self._stream.codec_context.extradata or b""

    def canvas(self) -> Planes:
        """Where to put the next picture, all of it."""
        # The encoder may still refer to the last picture: then this gets fresh memory, else it does nothing.
        self._canvas.make_writable()
        return planes_of(self._canvas)

    def write(self, frame: Frame) -> Stamp:
        """Encode what is on the canvas as the picture of this frame, and write what the encoder gives.

        Raises:
            av.FFmpegError, OSError, ValueError: it cannot be encoded or written.
        """
        stamp = self._last = self._stamp(frame)
        self._canvas.pts = stamp.pts
        self._canvas.time_base = TIME_BASE
        self._canvas.duration = stamp.duration
        due = stamp.pts - self._keyframe_pts >= self._keyframe_every
        self._keyframe_pts = stamp.pts if due else self._keyframe_pts
        self._canvas.pict_type = 1 if due else 0  # 0: the encoder decides, whatever the picture was before
        for packet in self._stream.encode(self._converted()):
            self._container.mux(packet)
        self.frames += 1
        return stamp

    def flush(self) -> None:
        """Write what the encoder still holds.

        Raises:
            av.FFmpegError, OSError, ValueError: it cannot be written.
        """
        for packet in self._stream.encode(None):
            self._container.mux(packet)

    def shown_s(self, frame: Frame) -> float:
        """How long after the first picture this one is shown, going by its time stamp alone."""
        if frame.pts_s is None or self.frames == 0:
            return float(self.frames * self._last.duration * TIME_BASE)
        return frame.pts_s + self._shift_s - self._began_s

    def _converted(self) -> "av.VideoFrame":
        if self._converter is None:
            return self._canvas
        picture = self._converter.reformat(self._canvas, format=self._pix_fmt, threads=1)
        picture.pts, picture.time_base, picture.duration = self._canvas.pts, TIME_BASE, self._canvas.duration
        picture.pict_type = self._canvas.pict_type
        return picture

    def _stamp(self, frame: Frame) -> Stamp:
        """When to show the frame. Time stamps never repeat and never go back."""
        last = self._last
        duration = max(1, round(frame.duration_s / TIME_BASE)) if frame.duration_s else last.duration
        if frame.pts_s is None:
            stamp = Stamp(last.pts + duration if self.frames else 0, duration, went_back=False)
        else:
            pts = round((frame.pts_s + self._shift_s) / TIME_BASE)
            if pts <= last.pts:  # a loop, or a camera that began anew: it goes on where the picture before ended
                behind = last.pts + duration
                self._shift_s += (behind - pts) * float(TIME_BASE)
                stamp = Stamp(behind, duration, went_back=True)
            else:
                stamp = Stamp(pts, duration, went_back=False)
        if not self.frames:
            self._began_s = float(stamp.pts * TIME_BASE)
        return stamp
