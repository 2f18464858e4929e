"""Owns a clip as a camera would send it: its pictures with their times, and its session description."""

import base64
import re
from pathlib import Path

import av
import rtp
from av.bitstream import BitStreamFilterContext

FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}


class CameraClip:
    """A clip read into memory: `pictures` are (seconds to send at, seconds of the time stamp, units), in coded order.

    H.264, H.265 and baseline JPEG with the standard Huffman tables (`media.camera_clip` writes all three).
    """

    def __init__(self, path: Path | str) -> None:
        self.pictures: list[tuple[float, float, list[bytes]]] = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            self.codec = stream.codec_context.name
            rate = float(stream.average_rate or 25)
            bitstream = BitStreamFilterContext(FILTERS[self.codec], stream) if self.codec in FILTERS else None
            for packet in container.demux(stream):
                if packet.pts is None or packet.time_base is None:
                    continue
                time_s = float(packet.pts * packet.time_base)
                for part in bitstream.filter(packet) if bitstream else [packet]:
                    self.pictures.append((len(self.pictures) / rate, time_s, self._units(bytes(part))))
        self.duration_s = len(self.pictures) / rate
        first_s = min(time_s for _, time_s, _ in self.pictures)
        self.pictures = [(at_s, time_s - first_s, units) for at_s, time_s, units in self.pictures]

    def _units(self, data: bytes) -> list[bytes]:
        if self.codec == "mjpeg":
            return [data]
        return [unit for unit in re.split(b"\x00\x00\x00?\x01", data) if unit]

    def _parameter_sets(self) -> list[str]:
        found: dict[int, bytes] = {}
        for _, _, units in self.pictures[:5]:
            for unit in units:
                found[unit[0] & 31 if self.codec == "h264" else unit[0] >> 1 & 63] = unit
        return [base64.b64encode(found[kind]).decode() for kind in PARAMETER_SETS[self.codec]]

    def describe(self, audio: bool) -> str:
        """The session description (RFC 8866); track 0 is video, track 1 PCMU audio."""
        lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0", "a=control:*"]
        lines.append(f"m=video 0 RTP/AVP {rtp.PAYLOAD_TYPE[self.codec]}")
        if self.codec == "h264":
            sps, pps = self._parameter_sets()
            lines.append("a=rtpmap:96 H264/90000")
            lines.append(f"a=fmtp:96 packetization-mode=1; sprop-parameter-sets={sps},{pps}")
        elif self.codec == "hevc":
            vps, sps, pps = self._parameter_sets()
            lines.append("a=rtpmap:96 H265/90000")
            lines.append(f"a=fmtp:96 sprop-vps={vps}; sprop-sps={sps}; sprop-pps={pps}")
        lines.append("a=control:trackID=0")
        if audio:
            lines += ["m=audio 0 RTP/AVP 0", "a=rtpmap:0 PCMU/8000", "a=control:trackID=1"]
        return "\r\n".join(lines) + "\r\n"
