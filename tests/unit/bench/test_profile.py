"""What `perf` and py-spy print is read right, and the page says whose time it was."""

from collections import Counter

import pytest

from tests.bench.profile_page import Spent, page
from tests.bench.sampling import Call, Function, calls, libraries, stacks

FACTS = {"processor": "a processor", "cores": 2, "python": "3.11"}

SCRIPT = """
python
\t  16d82a __memmove_avx512_unaligned_erms (/usr/lib/libc.so.6)
\t  16d000 __memcpy_chk (/usr/lib/libc.so.6)
\t  5f70e8 [unknown] (/venv/onnxruntime/capi/onnxruntime_pybind11_state.so)
\t  ff802 _PyEval_EvalFrameDefault (/lib/libpython3.11.so.1.0)

python
\t   97f06 _int_malloc (/usr/lib/libc.so.6)
\t  1af848 pymalloc_alloc (inlined)
\t  1af848 _PyObject_Malloc (/lib/libpython3.11.so.1.0)

source clip 0
\t   98f06 sem_post@@GLIBC_2.34 (/usr/lib/libc.so.6)

python
\tffffffff81a00000 exc_page_fault ([kernel.kallsyms])
\t   97f06 _int_malloc (/usr/lib/libc.so.6)

python
\t   ff802 _PyEval_EvalFrameDefault (/lib/libpython3.11.so.1.0)
\t   891f4 start_thread (/usr/lib/libc.so.6)
"""

RUN = Function("BackendRunner._work", "pipeline/runtime/backend_runner.py")
APPEND = Function("LaneQueue._append", "pipeline/runtime/queue.py")
NOTIFY = Function("Condition.notify", "threading.py")
READ = Function("read", "pipeline/models/reader.py")


def test_samples_are_counted_by_library() -> None:
    report = "    62.40%   1200  libavcodec-5.so\n     3.00%     58  libc.so.6\n\n# a remark\n"
    assert libraries(report) == {"libavcodec-5.so": 1200, "libc.so.6": 58}


def test_time_in_libc_belongs_to_the_first_library_that_is_not_libc() -> None:
    assert calls(SCRIPT.splitlines()) == {
        Call("copying and clearing", "onnxruntime_pybind11_state.so"): 1,
        Call("asking for memory", "libpython3.11.so.1.0"): 1,
        Call("locks and clocks", "?"): 1,
    }


def test_a_python_stack_is_read_without_its_line_numbers_and_its_process() -> None:
    raw = [
        'process 7:"python -m pipeline";_work (pipeline/runtime/backend_runner.py:12);<lambda> (<string>:1) 3',
        "_work (pipeline/runtime/backend_runner.py:99);<lambda> (<string>:1) 2",
        "not a stack",
    ]
    work = Function("_work", "pipeline/runtime/backend_runner.py")
    assert stacks(raw) == {(work, Function("<lambda>", "<string>")): 5}


def spent() -> Spent:
    this = Spent(frames=100)
    this.libraries["penstock"].update({"onnxruntime.so": 900, "libpython3.11.so.1.0": 80, "libc.so.6": 20})
    this.libraries["limit"].update({"onnxruntime.so": 900, "libpython3.11.so.1.0": 40})
    this.calls["penstock"][Call("copying and clearing", "onnxruntime.so")] = 8
    this.calls["penstock"][Call("other", "libfoo.so")] = 1
    return this


def row(text: str, beginning: str) -> list[str]:
    [found] = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


def test_what_a_function_calls_elsewhere_is_on_its_account() -> None:
    this = spent()
    this.functions = Counter({(RUN, APPEND, NOTIFY): 30, (RUN, READ): 10, (Function("main", "pipeline/app.py"),): 50})
    text = page(this, FACTS)
    # Three quarters of 8 % of the run; what starts the program is none of a frame's.
    assert row(text, "`LaneQueue._append`")[:3] == ["75.0 %", "0.602", "6.00 %"]
    assert row(text, "pipeline/runtime")[0] == "75.0 %"
    assert row(text, "pipeline/models")[0] == "25.0 %"
    assert "notify" not in text


def test_a_large_function_of_which_nobody_says_why_is_shown_as_such() -> None:
    this = spent()
    this.functions = Counter({(RUN, Function("surprise", "sinks/new.py")): 30, (RUN, APPEND): 10})
    text = page(this, FACTS)
    assert row(text, "`surprise`")[3] == "**not explained**"
    assert row(text, "`LaneQueue._append`")[3].startswith("hands a frame")


def test_a_large_package_is_explained_as_a_whole_or_shown_as_not_explained() -> None:
    this = spent()
    small = [Function(f"small{number}", "pipeline/new/all.py") for number in range(20)]
    this.functions = Counter({(RUN, each): 2 for each in small} | {(RUN, READ): 60, (RUN, APPEND): 5})
    text = page(this, FACTS)
    assert row(text, "pipeline/new")[3] == "**not explained**"
    assert row(text, "`small0`")[3] == ""
    assert row(text, "pipeline/models")[3].startswith("what every model needs")


def test_only_calls_over_the_limit_have_a_row_and_the_rest_is_summed_up() -> None:
    text = page(spent(), FACTS)
    assert row(text, "copying and clearing | ONNX Runtime")[1:3] == ["0.16", "1.6 %"]
    assert "libfoo" not in text
    libc = text[text.index("## libc") :]
    assert row(libc[: libc.index("## Python")], "all others")[1:3] == ["0.02", "0.2 %"]


def test_a_run_without_samples_is_no_page() -> None:
    with pytest.raises(SystemExit, match="took no samples"):
        page(Spent(frames=1), FACTS)
