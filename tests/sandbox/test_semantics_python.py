"""What ordinary Python does in a cell as it does anywhere: help, threads, errors, odd pictures."""

from __future__ import annotations

import pytest
from semantics_bench import Bench

from pyvision_rl.types import ExecStatus


@pytest.mark.parametrize("call", ["help(len)", "help('len')", "import pydoc; pydoc.help(len)"])
def test_help_is_printed(bench: Bench, call: str) -> None:
    result = bench.cell(call)
    assert not result.error
    assert "len(obj, /)" in result.output


def test_output_that_was_turned_away_comes_back(bench: Bench) -> None:
    code = """
    import io, sys
    sys.stdout = io.StringIO()
    print("a")
    kept = sys.stdout.getvalue()
    sys.stdout = sys.__stdout__
    print(kept)
    """
    assert bench.cell(code).output == "a\n\n"


def test_a_module_that_a_cell_writes_can_be_imported(bench: Bench) -> None:
    write = "with open('helper.py', 'w') as f: n = f.write('def f(): return 3')"
    assert bench.cells(write, "import helper; helper.f()")[1].output == "3\n"


def test_only_addresses_are_taken_out_of_texts(bench: Bench) -> None:
    said = bench.cell("print(f'marker at 0x{0xd8:x} found')\nraise ValueError('byte at 0xff')")
    assert said.output == "marker at 0xd8 found\n"
    assert "byte at 0xff" in said.error
    assert bench.cell("print(object())").output == "<object object>\n"


def test_opencv_has_one_thread_in_the_first_session_too(bench: Bench) -> None:
    pytest.importorskip("cv2", reason="install the extra: sandbox")
    assert bench.cell("import cv2\ncv2.getNumThreads()").output == "1\n"


def test_help_without_a_subject_says_what_it_takes(bench: Bench) -> None:
    result = bench.cell("help()\nhelp")
    assert (result.status, result.output.splitlines()[-1]) == (
        ExecStatus.OK,
        "Type help(object) for help about object.",
    )


def test_what_threads_and_locks_of_multiprocessing_need_is_there(bench: Bench) -> None:
    code = """
    from multiprocessing import Lock
    from multiprocessing.pool import ThreadPool
    with Lock(), ThreadPool(2) as pool: print(pool.map(abs, [-1, -2]))
    """
    result = bench.cell(code)
    assert (result.output, result.error) == ("[1, 2]\n", "")


@pytest.mark.parametrize("shape", ["(0, 5, 3)", "(5, 0, 3)"])
def test_an_empty_array_becomes_what_pillow_makes_of_it(bench: Bench, shape: str) -> None:
    code = f"array = np.zeros({shape}, np.uint8)\nImage.fromarray(array).size"
    height, width, _ = eval(shape)
    assert bench.cell(code).output == f"({width}, {height})\n"
    assert bench.cell("a = np.array(image_clue_0)\nImage.fromarray(a[5:5]).size").output == (
        "(40, 0)\n"
    )


def test_pixels_of_a_closed_picture_can_be_shown(bench: Bench) -> None:
    code = "a = np.array(image_clue_0)\nimage_clue_0.close()\n"
    shown = bench.cell(code + "display(Image.fromarray(a))\nplt.imshow(a); plt.show()")
    assert (shown.error, len(shown.images)) == ("", 2)


def test_a_semicolon_in_a_comment_silences_nothing_and_one_before_a_comment_does(
    bench: Bench,
) -> None:
    assert bench.cell("1  # one;").output == "1\n"
    assert bench.cell("'a;'").output == "'a;'\n"
    assert bench.cell("'é'  # ;\n# the end;").output == "'é'\n"
    assert bench.cell("(1);  # silent").output == ""
    assert bench.cell("'é';\n# silent").output == ""
    assert bench.cell("1 ;").output == ""


@pytest.mark.parametrize("odd", ["\x0c", "\u2028", "\x1c"])
def test_an_error_shows_its_own_line_whatever_stands_in_those_before(
    bench: Bench, odd: str
) -> None:
    error = bench.cell(f"s = 'a{odd}b'\nt = 1\n1 / 0\nu = 2").error
    assert "line 3, in <module>\n    1 / 0\n" in error
    bad = bench.cell(f"s = 'a{odd}b'\nt = 1\n%matplotlib inline\n").error
    assert "magic commands" in bad


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_lines_may_end_in_any_way(bench: Bench, end: str) -> None:
    error = bench.cell(end.join(["t = 1", "1 / 0", "u = 2"])).error
    assert "line 2, in <module>\n    1 / 0\n" in error


def test_an_error_of_several_shows_what_they_are(bench: Bench) -> None:
    code = """
    import asyncio
    async def fail(k): raise ValueError(f"cause {k}")
    async def main():
        async with asyncio.TaskGroup() as group:
            for k in range(5): group.create_task(fail(k))
    asyncio.run(main())
    """
    error = bench.cell(code).error
    assert "unhandled errors in a TaskGroup (5 sub-exceptions)" in error
    assert "ValueError: cause 0" in error
    assert len(error) < 2000
