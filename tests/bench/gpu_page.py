"""The page of the GPU benchmark; pure."""

from typing import Any

LIMIT_RATIO = 0.9
CORE_PERCENT = 2.0
PICTURE_BYTES = 1920 * 1080 * 3 // 2


def page(report: dict[str, Any]) -> str:
    """Markdown: what is aimed at, yes or no; then all figures."""
    lines = ["# On a GPU", "", ", ".join(f"{key}: {value}" for key, value in report["machine"].items()) + ".", ""]
    lines += ["| aim | job | measured | reached |", "|---|---|---|---|"]
    for name, job in report["jobs"].items():
        if "failed" in job:
            lines.append(f"| all | {name} | failed: {job['failed'].splitlines()[0]} | no |")
            continue
        files, cameras = job["files"], job["cameras"]
        home = max(files["to_host_bytes_each"], cameras["to_host_bytes_each"])
        there = max(files["to_device_bytes_each"], cameras["to_device_bytes_each"])
        each = cameras["core_percent_each"]
        rows = [
            (f"{LIMIT_RATIO} of the limit", f"{job['ratio']:.2f}", job["ratio"] >= LIMIT_RATIO),
            (f"at most {CORE_PERCENT:g} % of a core for a camera", f"{each:.2f} %", each <= CORE_PERCENT),
            (
                "no picture crosses the bus",
                f"{home / 1e3:.1f} kB home, {there / 1e3:.1f} kB there of {PICTURE_BYTES / 1e3:.0f} kB a picture",
                max(home, there) < PICTURE_BYTES / 4,
            ),
            ("nothing fell back", f"{files['fallbacks'] + cameras['fallbacks']:.0f}", not files["fallbacks"]),
            ("all cameras served", f"{100 * cameras['served']:.1f} %", cameras["served"] > 0.98),
        ]
        lines += [f"| {aim} | {name} | {found} | {'yes' if reached else 'no'} |" for aim, found, reached in rows]
    lines += [
        "",
        "| job | model | NVDEC alone | session alone (batch) | files, fps | CPU ms a frame | age p50 / p99 ms | MiB |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, job in report["jobs"].items():
        if "failed" in job:
            continue
        alone, files, cameras = job["alone"], job["files"], job["cameras"]
        lines.append(
            f"| {name} | {job['model']} | {alone['decode_fps']:.0f} ({alone['decoders']} decoders) "
            f"| {alone['session_fps']:.0f} ({alone['batch']}) | {files['fps']:.0f} ({files['sources']} files) "
            f"| {files['cpu_ms']:.3f} | {cameras['age_p50_ms']:.0f} / {cameras['age_p99_ms']:.0f} "
            f"({cameras['sources']} cameras) | {cameras['rss_mib']:.0f} |"
        )
    return "\n".join(lines) + "\n"
