"""What `penstock bench` prints: for people, and as JSON for programs."""

import json
from typing import Any

from pipeline.benching.capacity import verdict
from pipeline.benching.measuring import QUIET_CORES, Measured, Proof

SCHEMA = "penstock.bench/1"


def lines(found: Measured) -> list[str]:
    """The page: a table, the verdict, the proof, advice, notes, the machine."""
    costs, stages = found.costs, found.stages
    model = ", ".join(each.what.partition("; ")[0] for each in stages.modelled)
    what = {
        "decode": ", ".join(dict.fromkeys(f"{each.size.width}x{each.size.height}" for each in stages.decoded[:4])),
        "shrink": "one pass to the model's size",
        "infer": model,
        "read": "boxes out of the answer",
        "the rest": "Penstock itself, and what the stages cost each other",
    }
    what |= {f"sink {each.name}": each.kind for each in stages.written}
    width = max(len(share.stage) for share in costs.all_shares)
    page = [f"{'stage':{width}}  CPU ms a frame"]
    page += [
        f"{share.stage:{width}}  {share.cpu_s * 1e3:14.2f}  {what.get(share.stage, '')}" for share in costs.all_shares
    ]
    page.append(
        f"{'all':{width}}  {costs.frame_s * 1e3:14.2f}  at full speed: {found.full.fps:.1f} frames/s, "
        f"{found.full.cores:.1f} of {costs.cores} cores"
    )
    page += [
        f"one run of {each.name} takes {each.infer_s * 1e3:.1f} ms on {each.device}"
        for each in stages.modelled
        if each.device != "cpu"
    ]
    page += [f"{each.name}: {how}" for each in stages.modelled if (how := each.what.partition("; ")[2])]
    page += ["", *verdict(costs, found.carried)]
    if found.load is not None:
        fits = "it fits" if found.load <= 0.9 * costs.cores else "IT DOES NOT FIT"
        page.append(f"as configured it needs {found.load:.2f} of {costs.cores} cores: {fits}")
    page += [_proof(each) for each in found.proof]
    page += ["", "to get more:", *(f"  {each}" for each in found.advice)] if found.advice else []
    if found.full.others_cores > QUIET_CORES:
        page.append(
            f"NOT QUIET: others kept {found.full.others_cores:.1f} of {costs.cores} cores busy meanwhile, so these "
            f"figures are uncertain; measure again when nothing else runs"
        )
    page += ["", *found.notes, "nothing was sent, and nothing was written where the configuration says"]
    return [*page, f"measured on {found.machine}; Penstock {found.version}"]


def _proof(proof: Proof) -> str:
    ran = proof.ran
    kept = f"{proof.cameras} camera{'s' * (proof.cameras != 1)} at {proof.rate:g} frames/s, run for {ran.seconds:.0f} s"
    seen = f"{ran.inferred} frames inferred, {ran.dropped} let go, {ran.cores:.2f} cores busy"
    verdict = "checked" if proof.carried else "TOO MANY" if proof.conclusive else "NOT PROVED, others were busy"
    return f"{verdict}: {kept}: {seen}"


def as_json(found: Measured) -> str:
    """The same for programs; seconds, cores and frames as they were measured."""
    costs = found.costs
    tree: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": found.machine,
        "version": found.version,
        "cores": costs.cores,
        "sources": [
            {
                "name": each.name,
                "width": each.size.width,
                "height": each.size.height,
                "fps": each.stage.fps,
                "inferred_fps": each.stage.rate,
                "decode_cpu_s": each.cpu_s,
                "live_decode_cpu_s": each.stage.live_decode_s,
                "stands_in": each.stage.stands_in,
            }
            for each in found.stages.decoded
        ],
        "backends": [
            {
                "name": each.name,
                "device": each.device,
                "shrink_s": each.shrink_s,
                "infer_s": each.infer_s,
                "read_s": each.read_s,
                "cpu_s": each.cpu_s,
            }
            for each in found.stages.modelled
        ],
        "sinks": [each._asdict() for each in found.stages.written],
        "full": {
            "seconds": found.full.seconds,
            "frames_per_s": found.full.fps,
            "cores_busy": found.full.cores,
            "others_cores_busy": found.full.others_cores,
            "cpu_s_per_frame": costs.frame_s,
        },
        "cpu_bound": costs.cpu_bound,
        "bottleneck": costs.bottleneck.stage if costs.cpu_bound else "not the cores",
        "cameras": [{"frames_per_s": rate, "cameras": count} for rate, count in found.carried],
        "needs_cores": found.load,
        "checked": [
            {
                "cameras": each.cameras,
                "frames_per_s": each.rate,
                "seconds": each.ran.seconds,
                "inferred": each.ran.inferred,
                "dropped": each.ran.dropped,
                "cores_busy": each.ran.cores,
                "carried": each.carried,
                "others_cores_busy": each.ran.others_cores,
            }
            for each in found.proof
        ],
        "advice": list(found.advice),
        "notes": list(found.notes),
    }
    return json.dumps(tree, indent=2)
