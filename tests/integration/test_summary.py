"""What the end of a run says to a person."""

from pathlib import Path

from harness import run

from pipeline.terminal import summary
from sinks.jsonl import JsonlSinkConfig


def test_of_many_files_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    table = {"type": "jsonl", "path": str(tmp_path / "a.jsonl"), "rotate": {"max_bytes": 1024}, "mode": "append"}
    this = run({"sources": {"cam": {"frames": 200}}, "sinks": {"keep": table}}, plugins=[JsonlSinkConfig])
    files = len(list(tmp_path.iterdir()))
    assert files > 10
    wrote = [line for line in summary(this.report, 1.0) if line.startswith("  wrote ")]
    assert len(wrote) == 6
    assert wrote[-1] == f"  wrote {files - 5} more files"
