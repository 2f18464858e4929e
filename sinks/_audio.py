"""Copying the sound of a file beside its annotated picture: packets as they are, never decoded."""

from typing import TYPE_CHECKING

from pipeline.contracts.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet


class AudioError(PenstockError):
    """There is sound, but it cannot be copied; the message says why."""


class AudioCopy:
    """The first sound track of a file, read along with the video that is being written; used by one thread.

    Args:
        path: the file; local files only, nothing is fetched.
        start_s: from where on; None for all of it, also what comes before the first picture. This and all other
            positions in seconds since the start of the file's video stream, as `Frame.file_pts_s`.
    """

    def __init__(self, path: str, start_s: float | None) -> None:
        import av

        try:
            # metadata_errors: hostile tags are no reason to fail. protocol_whitelist: a playlist fetches nothing.
            self._input: InputContainer = av.open(
                path, metadata_errors="ignore", options={"protocol_whitelist": "file"}
            )
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            raise AudioError(f"the sound of {path} cannot be read") from error
        self._stream: AudioStream | None = next(iter(self._input.streams.audio), None)
        self._start_s = start_s
        self._zero_s = _start_of_video(self._input)
        self._output: AudioStream | None = None
        self._next: Packet[AudioStream] | None = None
        self._packets: Iterator[Packet[AudioStream]] = iter(())

    @property
    def exists(self) -> bool:
        """Whether the file has sound at all."""
        return self._stream is not None

    def attach(self, output: "OutputContainer") -> None:
        """Add a track for it to `output`, before its header is written.

        Raises:
            AudioError: the format does not allow this codec.
        """
        import av
        from av.stream import Discard

        if self._stream is None:
            raise AudioError("there is no sound")
        codec = self._stream.codec_context
        name = "unknown" if codec is None else codec.name
        # PyAV's list for MPEG-TS names hardly anything: there the header tells.
        if name not in output.supported_codecs and output.format.name != "mpegts":
            raise AudioError(f"sound in the codec {name} cannot stand in this format")
        try:
            for other in self._input.streams:
                if other is not self._stream:
                    other.discard = Discard.all  # the pictures are not even read from the disk
            self._output = output.add_stream_from_template(self._stream)
            if self._start_s is not None and self._stream.time_base:
                position = round((self._start_s + self._zero_s) / self._stream.time_base)
                self._input.seek(position, stream=self._stream)
            self._packets = iter(self._input.demux(self._stream))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"sound in the codec {name} cannot be copied") from error

    def copy(self, output: "OutputContainer", until_s: float, shift_s: float) -> None:
        """Write the packets that begin before `until_s`, at their position in the file plus `shift_s`.

        Raises:
            av.FFmpegError, OSError, ValueError: the sound cannot be read on, or the file cannot be written.
        """
        if self._output is None:
            return
        while (packet := self._next or next(self._packets, None)) is not None:
            self._next = None
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                continue
            begin_s = float(packet.pts * packet.time_base) - self._zero_s
            if begin_s >= until_s:
                self._next = packet
                return
            if self._start_s is not None and begin_s < self._start_s:
                continue
            shift = round((shift_s - self._zero_s) / packet.time_base)
            packet.pts += shift
            packet.dts += shift
            packet.stream = self._output
            output.mux(packet)

    def close(self) -> None:
        """Let the file go."""
        self._next = None
        self._packets = iter(())
        self._input.close()


def _start_of_video(file: "InputContainer") -> float:
    """The container's time stamp of the start of the first video stream that is no cover picture, in seconds."""
    from av.stream import Disposition

    video = next((stream for stream in file.streams.video if not stream.disposition & Disposition.attached_pic), None)
    if video is None or video.start_time is None or video.time_base is None:
        return 0.0
    return float(video.start_time * video.time_base)
