"""Owns one client's connection to the test camera: requests in, answers and media out (RFC 2326)."""

import asyncio
import base64
import hashlib
import os
import random
import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import rtp
from camera_clip import CameraClip
from rtsp_faults import Counts, Faults

REPORT_INTERVAL_S = 1.0
MAX_UNREAD_BYTES = 4 << 20
Send = Callable[[bytes, bool], None]


@dataclass
class Mount:
    """One path of the server; `clip` may be exchanged while it plays."""

    clip: CameraClip
    user: str | None = None
    password: str = ""
    audio: bool = False
    tcp: bool = True
    udp: bool = True
    basic_only: bool = False
    first_picture: int = 0


@dataclass
class Request:
    """A request: method, URL, headers with small names."""

    method: str
    url: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        """The path without track and query."""
        rest = self.url.split("://", 1)[-1]
        path = "/" + rest.partition("/")[2].split("?")[0]
        return re.sub(r"/trackID=\d+/?$", "", path).rstrip("/") or "/"


class Session:
    """Made by the server for each connection; lives in the server's loop."""

    def __init__(
        self,
        mounts: dict[str, Mount],
        faults: Faults,
        counts: Counts,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        chance: random.Random,
    ) -> None:
        self._mounts, self._faults, self._counts, self._chance = mounts, faults, counts, chance
        self._reader, self._writer = reader, writer
        self._nonce, self._id = os.urandom(8).hex(), os.urandom(4).hex()
        self._tracks: dict[int, Send] = {}
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> None:
        """Answer until the client goes, then stop what was started."""
        try:
            while (request := await self._request()) is not None:
                self._counts.request(request.method)
                await self._answer(request)
                await self._writer.drain()
                if request.method == "TEARDOWN":
                    break
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass  # the client is gone or speaks nonsense: either way this connection is over
        finally:
            for task in self._tasks:
                task.cancel()
            for transport in self._datagrams:  # before the first wait, which the end of the server would cut short
                transport.abort()
            self._writer.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _request(self) -> Request | None:
        while True:
            first = await self._reader.read(1)
            if not first:
                return None
            if first != b"$":
                break
            header = await self._reader.readexactly(3)  # a receiver report between the requests
            await self._reader.readexactly(struct.unpack(">H", header[1:])[0])
        lines = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
        method, url, _ = lines[0].split(" ", 2)
        pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
        headers = {name.lower(): value.strip() for name, value in pairs}
        await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Request(method, url, headers)

    def _reply(self, request: Request, status: str = "200 OK", body: str = "", **headers: str) -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {request.headers.get('cseq', '0')}", "Server: test-camera"]
        lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    async def _answer(self, request: Request) -> None:
        faults = self._faults
        while faults.silent or (faults.stall_describe and request.method == "DESCRIBE"):  # noqa: ASYNC110 - other thread
            await asyncio.sleep(0.02)
        if faults.garbage:
            self._writer.write(os.urandom(4096))
            return
        if faults.status is not None:
            self._reply(request, faults.status, **({"location": faults.location} if faults.location else {}))
            return
        if request.method == "OPTIONS":
            self._reply(request, public="OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
            return
        mount = self._mounts.get(request.path)
        if mount is None:
            self._reply(request, "404 Not Found")
        elif not self._allowed(mount, request):
            self._counts.add("refused")
            offer = "" if mount.basic_only else f'Digest realm="camera", nonce="{self._nonce}"\r\nWWW-Authenticate: '
            self._reply(request, "401 Unauthorized", www_authenticate=offer + 'Basic realm="camera"')
        else:
            await self._serve_mount(mount, request)

    async def _serve_mount(self, mount: Mount, request: Request) -> None:
        if request.method == "DESCRIBE":
            description = mount.clip.describe(mount.audio)
            self._reply(request, body=description, content_base=request.url + "/", content_type="application/sdp")
        elif request.method == "SETUP":
            await self._setup(mount, request)
        elif request.method == "PLAY":
            self._reply(request, session=self._id, range="npt=0.000-")
            if not self._tasks:
                self._counts.add("plays")
                self._tasks.append(asyncio.create_task(self._play_video(mount)))
                if 1 in self._tracks:
                    self._tasks.append(asyncio.create_task(self._play_audio()))
        else:
            self._reply(request, session=self._id)

    def _allowed(self, mount: Mount, request: Request) -> bool:
        """Basic (RFC 7617) and Digest with MD5 and without `qop`, as most cameras ask for it (RFC 2069)."""
        if mount.user is None:
            return True
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            return base64.b64decode(value) == f"{mount.user}:{mount.password}".encode()
        if scheme != "Digest" or mount.basic_only:
            return False
        given = dict(re.findall(r'(\w+)="([^"]*)"', value))
        secret = _md5(f"{mount.user}:camera:{mount.password}")
        wanted = _md5(":".join((secret, self._nonce, _md5(f"{request.method}:{given.get('uri')}"))))
        return given.get("nonce") == self._nonce and given.get("response") == wanted

    async def _setup(self, mount: Mount, request: Request) -> None:
        transport = request.headers.get("transport", "")
        found = re.search(r"trackID=(\d+)", request.url)
        track = int(found.group(1)) if found else 0
        if "TCP" in transport:
            if not mount.tcp:
                self._reply(request, "461 Unsupported Transport")
                return
            channels = re.search(r"interleaved=(\d+)-(\d+)", transport)
            channel = int(channels.group(1)) if channels else 2 * track
            self._tracks[track] = lambda data, report: self._interleave(channel + report, data)
            where = f"RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1}"
        else:
            ports = re.search(r"client_port=(\d+)-(\d+)", transport)
            if not mount.udp or ports is None:
                self._reply(request, "461 Unsupported Transport")
                return
            where = f"RTP/AVP;unicast;client_port={ports.group(1)}-{ports.group(2)}"
            where += ";server_port={}-{}".format(*await self._open_datagrams(track, int(ports.group(1))))
        self._reply(request, transport=where, session=f"{self._id};timeout=60")

    def _interleave(self, channel: int, data: bytes) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(b"$" + struct.pack(">BH", channel, len(data)) + data)
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._counts.add("overrun")
            self._writer.transport.abort()

    async def _open_datagrams(self, track: int, client_port: int) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        here = self._writer.get_extra_info("sockname")[0]
        there = self._writer.get_extra_info("peername")[0]
        pair: list[asyncio.DatagramTransport] = []
        for _ in range(2):
            transport, _protocol = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(here, 0))
            pair.append(transport)
        self._datagrams += pair
        self._tracks[track] = lambda data, report: pair[report].sendto(data, (there, client_port + report))
        return pair[0].get_extra_info("sockname")[1], pair[1].get_extra_info("sockname")[1]

    def _send_video(self, data: bytes, *, report: bool) -> None:
        faults, chance = self._faults, self._chance
        if faults.freeze or faults.silent:
            return
        if report:
            self._counts.add("reports")
        else:
            if faults.video_freeze or chance.random() < faults.drop:
                self._counts.add("dropped")
                return
            if chance.random() < faults.corrupt:
                wrong = bytearray(data)
                for _ in range(8):
                    wrong[chance.randrange(12, len(wrong))] ^= 1 << chance.randrange(8)
                data = bytes(wrong)
                self._counts.add("corrupted")
            self._counts.add("packets")
        self._tracks[0](data, report)

    async def _play_video(self, mount: Mount) -> None:
        ssrc, seq = self._chance.getrandbits(32), self._chance.getrandbits(15)
        base, packets, octets = self._chance.getrandbits(31), 0, 0
        next_report, number, clip = 0.0, mount.first_picture, mount.clip
        start = time.monotonic() - clip.pictures[number][0]
        while True:
            if clip is not mount.clip or number == len(clip.pictures):
                start += clip.pictures[number][0] if number < len(clip.pictures) else clip.duration_s
                clip, number = mount.clip, 0
            at_s, time_s, units = clip.pictures[number]
            await asyncio.sleep(max(0.0, start + at_s - time.monotonic()))
            stamp_s = start + time_s + self._faults.pts_offset_s
            timestamp = base + int(stamp_s * rtp.VIDEO_CLOCK_HZ) & 0xFFFFFFFF
            if time.monotonic() >= next_report and not self._faults.no_sender_reports:
                next_report = time.monotonic() + REPORT_INTERVAL_S
                # The report pairs a time stamp with now; this picture's own time is `time_s - at_s` later or earlier.
                offset_s = self._faults.ntp_offset_s + start + time_s - time.monotonic()
                report = rtp.sender_report(
                    ssrc=ssrc, timestamp=timestamp, packets=packets, octets=octets, offset_s=offset_s
                )
                self._send_video(report, report=True)
            kind = rtp.PAYLOAD_TYPE[clip.codec]
            for payload in rtp.split(clip.codec, units):
                data = rtp.packet(payload, payload_type=kind, seq=seq, timestamp=timestamp, ssrc=ssrc)
                self._send_video(data, report=False)
                seq, packets, octets = seq + 1 & 0xFFFF, packets + 1, octets + len(payload.data)
            number += 1
            if not self._datagrams:
                await self._writer.drain()

    async def _play_audio(self) -> None:
        ssrc, seq, start = self._chance.getrandbits(32), 0, time.monotonic()
        silence = rtp.Payload(b"\xff" * rtp.AUDIO_PACKET_SAMPLES, last=False)
        while True:
            samples = seq * rtp.AUDIO_PACKET_SAMPLES
            await asyncio.sleep(max(0.0, start + samples / rtp.AUDIO_CLOCK_HZ - time.monotonic()))
            if not (self._faults.freeze or self._faults.silent):
                data = rtp.packet(silence, payload_type=0, seq=seq & 0xFFFF, timestamp=samples & 0xFFFFFFFF, ssrc=ssrc)
                self._tracks[1](data, False)
            seq += 1


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
