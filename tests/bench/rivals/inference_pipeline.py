"""Roboflow's InferencePipeline, from its distribution `streamvision`, with a model of one's own.

`init_with_custom_logic` is its way to run any model; what surrounds the model is what tutorials write, and ONNX
Runtime has its defaults. With cameras the frames that nobody wants are dropped before they are converted, which its
own command line sets and a program has to ask for.
"""

from datetime import datetime
from typing import Any

from streamvision.stream.configuration import StreamsConfiguration, configure_process

from tests.bench.rivals.tutorial import Found, Results, asked, finder


def main() -> None:
    """Run it over files to their ends, or over cameras until it is ended."""
    options = asked()
    if options.fps:
        configure_process(StreamsConfiguration(enable_frame_drop_on_video_file_rate_limiting=True))
    from streamvision.camera.entities import VideoFrame
    from streamvision.stream.pipeline import InferencePipeline, SinkMode

    model = finder(options)

    def infer(frames: list[VideoFrame]) -> list[Found]:
        return [model.find(frame.image) for frame in frames]

    with options.out.open("w", buffering=1 if options.fps else -1) as out:
        results = Results(out, options.film)

        def sink(found: Any, frame: VideoFrame) -> None:
            then = frame.frame_timestamp
            age_s = (datetime.now(then.tzinfo) - then).total_seconds()
            results.put(frame.source_id or 0, frame.frame_id - 1, frame.image, found, age_s=age_s)

        pipeline = InferencePipeline.init_with_custom_logic(
            video_reference=options.inputs if len(options.inputs) > 1 else options.inputs[0],
            on_video_frame=infer,
            on_prediction=sink,
            max_fps=options.fps or None,
            sink_mode=SinkMode.SEQUENTIAL,
        )
        pipeline.start()
        pipeline.join()
        results.close()


if __name__ == "__main__":
    main()
