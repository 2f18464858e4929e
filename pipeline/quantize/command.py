"""The command `penstock quantize`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.quantize.quantizing import Outcome


@click.command(short_help="Make an 8-bit twin of a model; say what it costs and wins.")
@click.argument("model")
@click.option(
    "--calibrate", "-c", "pictures", multiple=True, required=True, metavar="VIDEO|FOLDER", help="May be repeated."
)
@click.option("--output", "-o", "out", type=click.Path(path_type=Path), help="NAME_int8.onnx here if left out.")
@click.option("--method", type=click.Choice(["percentile", "entropy", "minmax"]), default="percentile")
@click.option("--frames", type=click.IntRange(2, 1000), default=64, help="Pictures to calibrate on; 64.")
@click.option("--labels", type=click.Path(path_type=Path, exists=True), help="COCO JSON or folder of YOLO labels.")
@click.option(
    "--max-loss", type=click.FloatRange(0, 1), help="Write nothing that lost more: 0.02 of AP, 0.05 of agreement."
)
@click.option("--accept-loss", is_flag=True, help="Write it, whatever it lost.")
@click.option("--family", default="auto", help="Read the output as this family's instead of finding it out.")
@click.option("--input-size", type=click.IntRange(32, 8192), help="Side that a model with a dynamic input is fed.")
def quantize(model: str, *, max_loss: float | None, **options: Any) -> int:
    """Make an 8-bit twin (INT8) of MODEL for this CPU, and say what accuracy it costs and what speed it wins.

    It is calibrated on your own pictures, prepared as the pipeline does it. Without --labels every third is held out,
    and the cost is how far the twin agrees with the float model on these. With --labels it is average precision on the
    labelled pictures; it is calibrated on the others, or on all where there are fewer than 8 others. The first and last
    layers stay float, more of them where the loss demands it.

    Exit code 0: written; 1: it lost more than --max-loss and was not written; 78: it cannot be done.

    \b
    Examples:
      penstock quantize people.onnx --calibrate gate.mp4
      penstock quantize people.onnx -c photos/ --labels photos/instances.json -o people_int8.onnx
      penstock inspect people_int8.onnx          # shows what it cost
    """
    from pipeline.quantize.order import Order
    from pipeline.quantize.quantizing import MAX_LOSS
    from pipeline.quantize.quantizing import quantize as carry_out

    outcome = carry_out(Order(model=model, max_loss=max_loss, **options), click.echo)
    limit = MAX_LOSS[outcome.accuracy.measure] if max_loss is None else max_loss
    for line in report(outcome, limit):
        click.echo(line)
    return 0 if outcome.written is not None else 1


def report(outcome: "Outcome", limit: float) -> list[str]:
    """What became of it, as lines for a person."""
    from pipeline.benching.machine import machine

    speed = outcome.speed
    verdict = f"{speed.ratio:.2f} times as fast"
    if speed.ratio < 1.05:
        verdict += ": IT DOES NOT PAY on this machine"
    lines = [
        f"accuracy    {outcome.accuracy}",
        f"speed       {speed.before_s * 1e3:.1f} -> {speed.after_s * 1e3:.1f} ms a run on one core: {verdict}",
        f"machine     {machine()}",
        f"file        {outcome.bytes_before / 1e6:.1f} -> {outcome.bytes_after / 1e6:.1f} MB; {outcome.kept}",
    ]
    if outcome.written is not None:
        lost = "" if outcome.accuracy.loss <= limit else f", though it lost more than {limit:g}: --accept-loss"
        return [*lines, f"wrote       {outcome.written}{lost}"]
    if math.isnan(outcome.accuracy.loss):
        return [*lines, "NOT WRITTEN nobody knows what it lost; other pictures, or --labels, or --accept-loss"]
    return [
        *lines,
        f"NOT WRITTEN it lost more than {limit:g}; try another --method, more --frames, or --accept-loss",
    ]
