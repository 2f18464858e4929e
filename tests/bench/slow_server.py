"""The server of job F: takes a picture, waits, answers as Roboflow's do. A process of its own, asyncio and no more."""

import argparse
import asyncio
import contextlib
import json
import sys

from tests.bench.jobs import JPEG_SIDE, REMOTE_LATENCY_S

ANSWER = json.dumps(
    {
        "time": REMOTE_LATENCY_S,
        "image": {"width": JPEG_SIDE, "height": JPEG_SIDE * 9 // 16},
        "predictions": [
            {"x": 150.5, "y": 101.0, "width": 80.0, "height": 160.0, **more}
            for more in (
                {"confidence": 0.9, "class": "person", "class_id": 0},
                {"confidence": 0.5, "class": "car", "class_id": 2, "x": 400.0},
            )
        ],
    }
).encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float) -> None:
    """One connection: request after request."""
    # Cancelled: the server ends; a handler that ends cancelled would be reported as an error of the loop.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or b"0")
            await reader.readexactly(length)
            await asyncio.sleep(latency_s)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
                + ANSWER
            )
            await writer.drain()
    writer.close()


async def main(latency_s: float) -> None:
    """Print the port, serve until standard input ends."""
    server = await asyncio.start_server(lambda r, w: serve(r, w, latency_s), "127.0.0.1", 0, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=REMOTE_LATENCY_S, metavar="SECONDS")
    asyncio.run(main(parser.parse_args().latency))
