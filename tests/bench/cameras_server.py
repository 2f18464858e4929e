"""The cameras of job E: one clip in real time at many paths over RTSP, each from another keyframe on.

`python -m tests.bench.cameras_server CLIP 16` prints the port; the paths are /cam0, /cam1 and so on. It ends when its
standard input does. Its own CPU time is nobody's: only the subject is measured.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from camera_clip import CameraClip
from rtsp_server import RtspServer
from rtsp_session import Mount

from tests.bench.clips import GOP_FRAMES


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("cameras", type=int)
    options = parser.parse_args()
    with RtspServer() as server:
        clip = CameraClip(options.clip)  # read once: nobody changes it
        groups = max(1, len(clip.pictures) // GOP_FRAMES)
        for number in range(options.cameras):
            server.mounts[f"/cam{number}"] = Mount(clip, first_picture=number % groups * GOP_FRAMES)
        print(server.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
