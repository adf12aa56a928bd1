"""What the zygote sandbox promises: notebook cells, pictures, limits, and no traces left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.media import image_media, open_image
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.types import ExecStatus, Execution, Media

FIGURE: dict[str, Any] = {
    "figure.figsize": [1.12, 1.12],
    "figure.dpi": 50,
    "figure.subplot.left": 0,
    "figure.subplot.right": 1,
    "figure.subplot.bottom": 0,
    "figure.subplot.top": 1,
    "xtick.bottom": False,
    "xtick.labelbottom": False,
    "ytick.left": False,
    "ytick.labelleft": False,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}
LIMITS = SandboxLimits(wall_s=10.0)
SHORT = SandboxLimits(wall_s=0.5, grace_s=0.2)
SOCKET = """
import os, sys
for name in os.listdir("/proc/self/fd"):
    try:
        if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
            fd = int(name)
    except OSError:
        pass
frame = sys._getframe()
while "request" not in frame.f_locals:
    frame = frame.f_back
request = frame.f_locals["request"]
protocol = sys.modules["sandbox_child.protocol"]
"""
"""Model code that finds the socket and the request id it must answer."""


def picture(width: int = 40, height: int = 30) -> Media:
    pixels = np.random.default_rng(7).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return image_media(Image.fromarray(pixels))


class Bench:
    """One sandbox and one event loop for all tests: a zygote takes a second to load."""

    def __init__(self, runner: asyncio.Runner, sandbox: ZygoteSandbox) -> None:
        self.runner = runner
        self.sandbox = sandbox

    async def session(
        self,
        *codes: str,
        limits: SandboxLimits = LIMITS,
        bindings: Mapping[str, Media] | None = None,
        seed: int = 0,
    ) -> list[Execution]:
        given = {"image_clue_0": picture()} if bindings is None else bindings
        session = await self.sandbox.open(given, limits, seed)
        try:
            return [await session.run(textwrap.dedent(code)) for code in codes]
        finally:
            await session.close()

    def cells(self, *codes: str, **options: Any) -> list[Execution]:
        """Run the codes as the cells of one new session."""
        return self.runner.run(self.session(*codes, **options))

    def cell(self, code: str, **options: Any) -> Execution:
        return self.cells(code, **options)[0]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVRL_CANARY_KEY", "canary-secret")
        sandbox = ZygoteSandbox(SandboxConfig(figure=FIGURE))
        bench = Bench(runner, sandbox)
        bench.cell("pass")  # loads the zygote while the canary is set
        try:
            yield bench
        finally:
            runner.run(sandbox.close())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_gone(pids: list[int], within_s: float = 2.0) -> bool:
    end = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, pids))


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Cells


def test_variables_persist_between_cells(bench: Bench) -> None:
    assert bench.cells("x = 20", "x + 1")[1].output == "21\n"


def test_the_namespace_is_main_and_holds_the_usual_names(bench: Bench) -> None:
    result = bench.cell("print(__name__, np.__name__, plt.__name__, Image.__name__)")
    assert result.output == "__main__ numpy matplotlib.pyplot PIL.Image\n"


def test_classes_of_a_cell_can_be_pickled(bench: Bench) -> None:
    code = "import pickle\nclass A: x = 3\npickle.loads(pickle.dumps(A())).x"
    assert bench.cell(code).output == "3\n"


def test_the_last_expression_is_displayed_and_none_is_silent(bench: Bench) -> None:
    shown, silent = bench.cells("1\n'a'", "None")
    assert (shown.output, silent.output) == ("'a'\n", "")


def test_displayed_values_carry_no_addresses(bench: Bench) -> None:
    assert bench.cell("object()").output == "<object object>\n"


def test_no_text_of_a_cell_carries_an_address(bench: Bench) -> None:
    # Pillow writes its addresses in upper case.
    printed = bench.cell("print(image_clue_0, object())\nimage_clue_0, lambda: 0").output
    picture = "<PIL.Image.Image image mode=RGB size=40x30>"
    assert printed == f"{picture} <object object>\n({picture}, <function <lambda>>)\n"
    failed = bench.cell("raise ValueError(image_clue_0)")
    assert failed.error.endswith(f"ValueError: {picture}")
    assert bench.cell("import sys; sys.exit(object())").output.count("0x") == 0
    # No half of an address is left where a long output is cut, and the count is the same.
    limits = SandboxLimits(max_output_chars=200)
    cut = bench.cell("print([object() for _ in range(999)])", limits=limits).output
    assert "[16824 characters cut]" in cut, cut  # 999 * (15 + 2) + 1 - 160: [, ] and the line
    assert "0x" not in cut


def test_stdout_and_stderr_keep_their_order(bench: Bench) -> None:
    code = "import sys\nprint(1)\nprint(2, file=sys.stderr)\nprint(3)"
    assert bench.cell(code).output == "1\n2\n3\n"


def test_long_output_keeps_head_and_tail_and_states_the_cut(bench: Bench) -> None:
    limits = SandboxLimits(max_output_chars=200)
    output = bench.cell("for i in range(100000): print(i)", limits=limits).output
    assert len(output) <= 200
    assert output.startswith("0\n1\n2\n")
    assert output.endswith("99998\n99999\n")
    total = sum(len(str(i)) + 1 for i in range(100000))
    assert f"[{total - 160} characters cut]" in output


def test_output_within_the_limit_is_whole(bench: Bench) -> None:
    limits = SandboxLimits(max_output_chars=200)
    assert bench.cell("print('a' * 150); print('b' * 47)", limits=limits).output == (
        "a" * 150 + "\n" + "b" * 47 + "\n"
    )


def test_an_error_shows_the_cell_s_own_lines_only(bench: Bench) -> None:
    code = "def f(a):\n    return a.reshape(2, 2)\nprint('before')\nf(np.zeros(3))"
    result = bench.cell(code)
    assert result.status is ExecStatus.RAISED
    assert result.output == "before\n"
    assert result.error.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<cell 1>", line 4, in <module>',
        "    f(np.zeros(3))",
        '  File "<cell 1>", line 2, in f',
        "    return a.reshape(2, 2)",
        "ValueError: cannot reshape array of size 3 into shape (2,2)",
    ]


def test_an_error_keeps_the_variables(bench: Bench) -> None:
    assert bench.cells("x = 1\n1/0", "x")[1].output == "1\n"


def test_a_chained_error_shows_both(bench: Bench) -> None:
    error = bench.cell(
        "try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e"
    ).error
    assert error.index("ZeroDivisionError") < error.index("KeyError: 'k'")


def test_a_syntax_error_points_at_the_place(bench: Bench) -> None:
    error = bench.cell("x = (1,").error
    assert 'File "<cell 1>", line 1' in error
    assert error.endswith("SyntaxError: '(' was never closed")


def test_a_giant_error_is_cut_to_the_output_limit(bench: Bench) -> None:
    limits = SandboxLimits(max_output_chars=300)
    error = bench.cell("raise ValueError('a' * 10**6)", limits=limits).error
    assert len(error) <= 300
    assert "ValueError: aaa" in error


def test_deep_recursion_is_an_error(bench: Bench) -> None:
    result = bench.cell("def f(): f()\nf()")
    assert result.status is ExecStatus.RAISED
    assert "earlier calls" in result.error
    assert "RecursionError" in result.error


def test_input_fails_at_once(bench: Bench) -> None:
    result = bench.cell("input('name? ')", limits=SHORT)
    assert result.status is ExecStatus.RAISED
    assert "EOFError" in result.error


@pytest.mark.parametrize("call", ["import sys; sys.exit(3)", "raise SystemExit(3)", "exit(3)"])
def test_exit_ends_the_cell_normally_and_says_so(bench: Bench, call: str) -> None:
    first, second = bench.cells(f"x = 1\n{call}", "x")
    assert (first.status, first.error) == (ExecStatus.OK, "")
    assert first.output == "[the cell ended with sys.exit(3)]\n"
    assert second.output == "1\n"


def test_equal_seeds_give_equal_random_numbers(bench: Bench) -> None:
    code = "import random\nrandom.random(), float(np.random.rand())"
    big = 2**62 + 5
    first, again, other = (bench.cell(code, seed=s).output for s in (big, big, big + 1))
    assert first == again != other


def test_string_hashes_are_the_same_in_every_zygote(bench: Bench) -> None:
    code = "print(hash('clue'))"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    want = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert bench.cell(code).output == want.stdout


def test_sessions_do_not_see_each_other(bench: Bench) -> None:
    bench.cell("x = 1\nnp.pi = 3\nopen('note.txt', 'w').write('x')")
    code = "import os\n'x' in globals(), np.pi == 3, os.listdir()"
    assert bench.cell(code).output == "(False, False, [])\n"


def test_odd_text_comes_back_printable(bench: Bench) -> None:
    result = bench.cell("print('\\ud800 \\x00 \U0001f600')")
    assert result.output == "? \x00 \U0001f600\n"
    assert bench.cell("x = '\x00'").status is ExecStatus.RAISED


# Pictures

SHOW = "plt.imshow(image_clue_0)\n"


@pytest.mark.parametrize(
    "code",
    [
        SHOW + "plt.show()",
        SHOW + "plt.show(block=False)",
        SHOW + "plt .show ( )",
        "import matplotlib.pyplot as p\np.imshow(image_clue_0); p.show()",
        "from matplotlib.pyplot import imshow, show\nimshow(image_clue_0); show()",
        "fig, ax = plt.subplots()\nax.imshow(image_clue_0)\nfig.show()",
        "fig = plt.figure()\nfig.add_subplot().imshow(image_clue_0)\nfig",
        "fig, ax = plt.subplots()\nax.imshow(image_clue_0)\nplt.show()\nfig",
        "x = " + SHOW,
        "import matplotlib; matplotlib.use('Agg')\n" + SHOW + "plt.show()",
        "plt.switch_backend('agg')\n" + SHOW + "plt.show()",
        "from matplotlib.figure import Figure\nf = Figure(); f.add_subplot()\nf",
    ],
)
def test_a_figure_is_shown_once_however_it_is_shown(bench: Bench, code: str) -> None:
    result = bench.cell(code)
    assert (result.status, result.error) == (ExecStatus.OK, "")
    assert [(m.width, m.height) for m in result.images] == [(56, 56)]


@pytest.mark.parametrize(
    "code",
    [
        "image_clue_0.show()",
        "image_clue_0",
        "display(image_clue_0)",
        "image_clue_0.show(title='a')",
    ],
)
def test_a_pil_image_is_shown_pixel_for_pixel(bench: Bench, code: str) -> None:
    assert bench.cell(code).images == (picture(),)


def test_showing_displays_no_value(bench: Bench) -> None:
    assert bench.cells("image_clue_0.show()", SHOW + "plt.show()")[0].output == ""


def test_pictures_come_in_the_order_shown(bench: Bench) -> None:
    code = "for w in (3, 5, 4): Image.new('RGB', (w, 2)).show()\n" + SHOW
    assert [m.width for m in bench.cell(code).images] == [3, 5, 4, 56]


def test_transparency_is_laid_on_white(bench: Bench) -> None:
    result = bench.cell("Image.new('RGBA', (1, 1), (255, 0, 0, 0))")
    assert open_image(result.images[0]).getpixel((0, 0)) == (255, 255, 255)


def test_shown_images_are_bound_counting_on_from_the_clues(bench: Bench) -> None:
    bindings = {"image_clue_0": picture(), "image_clue_1": picture(9, 9), "other": picture(8, 8)}
    code = "Image.new('RGB', (5, 6)).show()\nimage_clue_2.size"
    first, second = bench.cells(code, SHOW + "plt.show()\nimage_clue_3.size", bindings=bindings)
    assert (first.output, second.output) == ("(5, 6)\n", "(56, 56)\n")


def test_a_shown_image_is_the_one_at_the_time_it_was_shown(bench: Bench) -> None:
    code = "image_clue_0.show()\nimage_clue_0.paste(0, (0, 0, 40, 30))\nimage_clue_1.paste(0)"
    assert bench.cell(code).images == (picture(),)


def test_images_over_the_count_are_reported_not_raised(bench: Bench) -> None:
    code = "for i in range(5): Image.new('RGB', (4, 4)).show()"
    result = bench.cell(code, limits=SandboxLimits(max_images=2))
    assert (result.status, len(result.images)) == (ExecStatus.OK, 2)
    assert result.output == "[3 more images were not shown: the limit is 2]\n"


@pytest.mark.parametrize(
    "code", ["plt.figure(figsize=(100, 100)); plt.show()", "Image.new('RGB', (5000, 5000)).show()"]
)
def test_a_picture_over_the_pixel_limit_is_reported_not_raised(bench: Bench, code: str) -> None:
    result = bench.cell(code, limits=SandboxLimits(max_pixels=1000))
    assert (result.status, result.images) == (ExecStatus.OK, ())
    assert "[an image of 5000x5000 pixels was not shown: the limit is 1000 pixels]" in result.output


def test_a_figure_of_a_failed_cell_does_not_reach_the_next(bench: Bench) -> None:
    failed, after = bench.cells(SHOW + "1/0", "Image.new('RGB', (3, 3))")
    assert failed.images == ()
    assert [m.width for m in after.images] == [3]


def test_pictures_shown_before_an_error_are_returned(bench: Bench) -> None:
    result = bench.cell("image_clue_0.show()\n1/0")
    assert (result.status, len(result.images)) == (ExecStatus.RAISED, 1)


def test_figures_made_in_advance_equal_figures_made_on_demand(bench: Bench) -> None:
    body = "plt.{}\nplt.imshow(image_clue_0, cmap='gray'); plt.title('t'); plt.show()\n"
    codes = [body.format(make) for make in ("figure()", "subplots()", "gca()")]
    # A new object for an rcParam makes every figure be built from scratch, to the same values.
    anew = "plt.rcParams['figure.figsize'] = [1.12, 1.12]\n"
    limits = SandboxLimits(figure={"xtick.bottom": True, "axes.spines.left": True})
    for other in (LIMITS, limits):
        early = bench.cells(*codes, limits=other)
        late = bench.cells(*(anew + code for code in codes), limits=other)
        assert [e.images for e in early] == [e.images for e in late]
        assert all(len(e.images) == 1 for e in early)


def test_changed_rc_params_apply_to_figures_made_in_advance(bench: Bench) -> None:
    code = "plt.rcParams['figure.figsize'] = (2, 1)\n" + SHOW
    assert [(m.width, m.height) for m in bench.cell(code).images] == [(100, 50)]


def test_a_session_s_own_rc_params_are_laid_over_the_configured(bench: Bench) -> None:
    limits = SandboxLimits(figure={"figure.figsize": [2, 1]})
    assert [(m.width, m.height) for m in bench.cell(SHOW, limits=limits).images] == [(100, 50)]


# Limits


def test_a_timeout_keeps_variables_output_and_pictures(bench: Bench) -> None:
    code = "x = 1\nprint('before')\nimage_clue_0.show()\nwhile True: pass"
    result, after = bench.cells(code, "x, image_clue_1.size", limits=SHORT)
    assert result.status is ExecStatus.TIMEOUT
    assert (result.output, len(result.images), result.state_lost) == ("before\n", 1, False)
    assert "line 4" in result.error
    assert "0.5 s" in result.error
    assert after.output == "(1, (40, 30))\n"


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(60)",
        "class E(Exception):\n    def __str__(s):\n        while True: pass\nraise E",
        "class R:\n    def __repr__(s):\n        while True: pass\nR()",
    ],
)
def test_slow_words_of_the_model_count_as_its_time(bench: Bench, code: str) -> None:
    result = bench.cell(code, limits=SHORT)
    assert (result.status, result.state_lost) == (ExecStatus.TIMEOUT, False)


def test_an_interrupt_sent_by_the_code_itself_is_an_error(bench: Bench) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass"
    result = bench.cell(code)
    assert (result.status, "KeyboardInterrupt" in result.error) == (ExecStatus.RAISED, True)


def test_code_that_ignores_the_interrupt_is_killed_and_the_next_run_starts_afresh(
    bench: Bench,
) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    began = time.monotonic()
    _, killed, after = bench.cells(
        "x = 1\nImage.new('RGB', (5, 6)).show()",
        deaf,
        "print('x' in globals(), image_clue_0.size, image_clue_1.size)\nimage_clue_0.show()",
        limits=SHORT,
    )
    assert time.monotonic() - began < 3
    assert (killed.status, killed.state_lost) == (ExecStatus.KILLED, True)
    assert after.output == "False (40, 30) (5, 6)\n"
    assert len(after.images) == 1


def test_numbering_goes_on_after_a_lost_state(bench: Bench) -> None:
    show = "image_clue_0.show()"
    cells = bench.cells(show, "import os; os._exit(1)", show, "image_clue_2.size")
    assert cells[3].output == "(40, 30)\n"


def test_too_much_memory_is_an_error_and_variables_are_kept(bench: Bench) -> None:
    limits = SandboxLimits(memory_mb=100)
    first, second = bench.cells("x = 1\nb = bytearray(300 * 2**20)", "x", limits=limits)
    assert (first.status, "MemoryError" in first.error) == (ExecStatus.RAISED, True)
    assert second.output == "1\n"


def test_shared_memory_counts_as_memory(bench: Bench) -> None:
    code = "import mmap\nmmap.mmap(-1, 300 * 2**20)"
    assert bench.cell(code, limits=SandboxLimits(memory_mb=100)).status is ExecStatus.RAISED


def test_a_file_cannot_grow_without_end(bench: Bench) -> None:
    result = bench.cell("f = open('big', 'wb')\nfor i in range(100): f.write(bytes(2**20))")
    assert (result.status, "File too large" in result.error) == (ExecStatus.RAISED, True)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("import os; os._exit(3)", ExecStatus.DIED, "status 3"),
        ("import ctypes; ctypes.string_at(0)", ExecStatus.DIED, "SIGSEGV"),
        ("import os; os.abort()", ExecStatus.DIED, "SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", ExecStatus.OOM, "memory"),
    ],
)
def test_a_crash_is_a_status_and_loses_the_state(
    bench: Bench, code: str, status: ExecStatus, words: str
) -> None:
    crashed, after = bench.cells(code, "1")
    assert (crashed.status, crashed.state_lost) == (status, True)
    assert words in crashed.error
    assert after.output == "1\n"


def test_at_most_max_running_cells_run_together(bench: Bench) -> None:
    code = "import time\na = time.monotonic(); time.sleep(0.15); print(a, time.monotonic())"

    async def race() -> list[list[Execution]]:
        return await asyncio.gather(*(bench.session(code) for _ in range(4)))

    spans = [tuple(map(float, cells[0].output.split())) for cells in bench.runner.run(race())]
    together = [sum(a <= start < b for a, b in spans) for start, _ in spans]
    assert max(together) == 2


# Hostile peers


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("os.write(fd, b'x' * 100)", "no frame"),
        ("os.write(fd, protocol.pack(request + 1, {}))", "another request"),
        ("os.write(fd, protocol.HEADER.pack(b'pvs1', request, 2**32 - 1, 0))", "4294967295"),
        ("os.write(fd, protocol.HEADER.pack(b'pvs1', request, 2, 2**60))", "of images"),
        ("os.write(fd, protocol.pack(request, {'raised': 1}))", "fields"),
        ("os.write(fd, protocol.HEADER.pack(b'pvs1', request, 2, 0) + b'[[')", "no JSON"),
        ("os.close(fd)\nimport time; time.sleep(60)", "closed its connection"),
    ],
)
def test_a_broken_protocol_is_a_violation_and_ends_the_child(
    bench: Bench, attack: str, words: str
) -> None:
    broken, after = bench.cells("x = 1\n" + SOCKET + attack, "'x' in globals()")
    assert (broken.status, broken.state_lost) == (ExecStatus.VIOLATION, True)
    assert words in broken.error
    assert after.output == "False\n"


def test_a_forged_reply_never_shifts_the_replies_after_it(bench: Bench) -> None:
    reply = "dict(raised=False, interrupted=False, output='forged', error='', images=[])"
    attack = f"os.write(fd, protocol.pack(request, {reply}))"
    forged, after, last = bench.cells(SOCKET + attack, "print(2)", "print(3)")
    assert ExecStatus.VIOLATION in (forged.status, after.status)
    assert after.output in ("2\n", "")
    assert last.output == "3\n"


def test_an_answer_that_never_ends_is_cut_off_by_the_clock(bench: Bench) -> None:
    attack = """
    import threading, time
    os.write(fd, protocol.HEADER.pack(b'pvs1', request, 1000, 0))
    while True:
        try:
            time.sleep(0.01); os.write(fd, b' ')
        except KeyboardInterrupt:
            pass
    """
    code = SOCKET + textwrap.dedent(attack)
    assert bench.cell(code, limits=SHORT).status in (ExecStatus.KILLED, ExecStatus.VIOLATION)


CAPS = protocol.caps(100, 2, 50)


@given(st.binary(min_size=protocol.HEADER.size, max_size=protocol.HEADER.size))
def test_any_header_is_taken_or_refused(data: bytes) -> None:
    try:
        head, blobs = protocol.check_header(data, 5, CAPS)
    except protocol.Violation:
        return
    assert head <= CAPS.head_bytes
    assert blobs <= 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.fixed_dictionaries(
    {
        "raised": st.booleans() | JSON,
        "interrupted": st.booleans(),
        "output": st.text(max_size=120),
        "error": st.text(max_size=120),
        "images": st.lists(st.lists(st.integers(-1, 60) | JSON, max_size=3), max_size=4) | JSON,
    }
)


@settings(deadline=None, max_examples=50)
@given(FIELDS, st.integers(0, 300))
def test_a_reply_is_within_its_caps_or_refused(fields: dict[str, Any], blobs: int) -> None:
    frame = protocol.pack(1, fields)[protocol.HEADER.size :]
    try:
        reply = protocol.check_reply(frame, blobs, CAPS)
    except protocol.Violation:
        return
    assert len(reply.output) <= CAPS.output_chars
    assert len(reply.error) <= CAPS.error_chars
    assert len(reply.sizes) <= CAPS.images
    assert sum(3 * w * h for w, h in reply.sizes) == blobs


@given(st.binary(max_size=200))
def test_any_bytes_as_a_reply_are_refused(data: bytes) -> None:
    with pytest.raises(protocol.Violation):
        protocol.check_reply(data, 0, CAPS)


def test_a_deeply_nested_reply_is_refused() -> None:
    with pytest.raises(protocol.Violation):
        protocol.check_reply(b"[" * 10**6, 0, CAPS)


# What model code can see and what it can leave behind


def test_the_driver_s_environment_is_not_passed_on(bench: Bench) -> None:
    code = """
    import os
    text = str(dict(os.environ)) + open('/proc/self/environ').read()
    text += open(f'/proc/{os.getppid()}/environ').read()
    'CANARY' in text, 'canary' in text
    """
    assert bench.cell(code).output == "(False, False)\n"


def test_the_child_inherits_only_its_own_descriptors(bench: Bench) -> None:
    code = """
    import os
    links = {f: os.path.exists(f'/proc/self/fd/{f}') for f in sorted(os.listdir('/proc/self/fd'))}
    sum(links.values()), os.readlink('/proc/self/fd/0')
    """
    count, stdin = eval(bench.cell(code).output)
    assert stdin == "/dev/null"
    assert count <= 4


def test_this_package_is_not_importable_by_model_code(bench: Bench) -> None:
    assert bench.cell("import pyvision_rl").status is ExecStatus.RAISED


def test_the_zygote_has_one_thread(bench: Bench) -> None:
    assert len(list(Path(f"/proc/{bench.sandbox.pid}/task").iterdir())) == 1


def test_closing_a_session_ends_everything_it_started(bench: Bench) -> None:
    code = """
    import os, subprocess
    plain = subprocess.Popen(["sleep", "60"])
    away = subprocess.Popen(["sleep", "60"], start_new_session=True)
    print(os.getpid(), plain.pid, away.pid)
    """
    pids = list(map(int, bench.cell(code).output.split()))
    assert len(pids) == 3
    assert all_gone(pids)


def test_a_killed_cell_takes_its_processes_with_it(bench: Bench) -> None:
    code = """
    import os, signal, subprocess, sys
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "60"])
    open("/proc/self/comm", "w").write("pvrl-deaf")
    while True: pass
    """
    before = set(children(bench.sandbox.pid or 0))
    assert bench.cell(code, limits=SHORT).status is ExecStatus.KILLED
    end = time.monotonic() + 2
    while set(children(bench.sandbox.pid or 0)) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert set(children(bench.sandbox.pid or 0)) <= before


def test_many_sessions_leave_no_descriptor_process_or_file(bench: Bench) -> None:
    def count() -> tuple[int, int, int]:
        pid = bench.sandbox.pid or 0
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            len(children(pid)) + len(list(Path(f"/proc/{pid}/cwd/").iterdir())),
        )

    async def many() -> None:
        for start in range(0, 200, 4):
            await asyncio.gather(
                *(
                    bench.session("open('f', 'w')" if i % 20 == 0 else "1")
                    for i in range(start, start + 4)
                )
            )

    bench.cell("1")
    before = count()
    bench.runner.run(many())
    assert count() == before


def test_open_starts_no_process() -> None:
    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig())
        session = await sandbox.open({"image_clue_0": picture()}, LIMITS, 0)
        assert sandbox.pid is None
        assert children(os.getpid()) == before
        await session.close()
        await sandbox.close()

    before = children(os.getpid())
    asyncio.run(scenario())


def test_a_session_without_code_forks_no_child(bench: Bench) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open({}, LIMITS, 0)
        assert children(bench.sandbox.pid or 0) == []
        await session.close()

    bench.runner.run(scenario())


def test_a_cancelled_run_ends_its_child_and_the_session_goes_on(bench: Bench) -> None:
    async def scenario() -> Execution:
        session = await bench.sandbox.open({}, LIMITS, 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.run("while True: pass"), 0.3)
        assert children(bench.sandbox.pid or 0) == []
        try:
            return await session.run("2")
        finally:
            await session.close()

    assert bench.runner.run(scenario()).output == "2\n"


def test_closing_twice_and_running_after_close(bench: Bench) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open({}, LIMITS, 0)
        await session.run("1")
        await session.close()
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await session.run("1")

    bench.runner.run(scenario())


def test_closing_a_session_while_it_runs_fails_the_run(bench: Bench) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open({}, LIMITS, 0)
        run = asyncio.create_task(session.run("while True: pass"))
        await asyncio.sleep(0.2)
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await run
        assert children(bench.sandbox.pid or 0) == []

    bench.runner.run(scenario())


def test_a_dead_zygote_fails_its_sessions_and_is_replaced(bench: Bench) -> None:
    async def scenario() -> Execution:
        old = bench.sandbox.pid or 0
        session = await bench.sandbox.open({}, LIMITS, 0)
        await session.run("x = 1")
        running = asyncio.create_task(session.run("while True: pass"))
        await asyncio.sleep(0.1)
        [child] = children(old)
        os.kill(old, signal.SIGKILL)
        with pytest.raises(SandboxError, match="zygote"):
            await running
        assert all_gone([child])
        await session.close()
        [result] = await bench.session("1")
        assert bench.sandbox.pid not in (None, old)
        return result

    assert bench.runner.run(scenario()).output == "1\n"


@pytest.mark.parametrize("program", ["/no/such/python", "/bin/false"])
def test_a_zygote_that_cannot_start_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig())
        session = await sandbox.open({}, LIMITS, 0)
        for _ in range(2):
            with pytest.raises(SandboxError, match="did not start"):
                await session.run("1")
        await session.close()
        await sandbox.close()

    monkeypatch.setattr(sys, "executable", program)
    before = len(list(Path("/proc/self/fd").iterdir()))
    asyncio.run(scenario())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    script = """
    import asyncio, os
    from pyvision_rl.config import SandboxConfig
    from pyvision_rl.sandbox.base import SandboxLimits
    from pyvision_rl.sandbox.pool import ZygoteSandbox

    async def main():
        sandbox = ZygoteSandbox(SandboxConfig())
        session = await sandbox.open({}, SandboxLimits(), 0)
        code = "import os, subprocess; os.getpid(), subprocess.Popen(['sleep', '60']).pid"
        print((await session.run(code)).output, sandbox.pid, flush=True)
        os.kill(os.getpid(), 9)

    asyncio.run(main())
    """
    path = tmp_path / "driver.py"
    path.write_text(textwrap.dedent(script))
    source = Path(sys.modules["pyvision_rl"].__file__ or "").parent.parent
    ran = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(source), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    words = ran.stdout.replace("(", " ").replace(")", " ").replace(",", " ").split()
    assert len(words) == 3
    assert all_gone([int(word) for word in words])
    assert list(tmp_path.iterdir()) == [path]


# Refusals


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"not a name": picture()}, "'not a name'"),
        ({"class": picture()}, "'class'"),
        ({"answer": "42"}, "'answer' is a str"),
        ({"clip": Media("video", "0", 1, 1, b"abc")}, "'clip' is a video"),
        ({"clue": Media("image", "0", 1, 1)}, "'clue' has no source"),
        ({"clue": Media("image", "0", 2, 2, b"abc")}, "'clue' has 3 bytes"),
    ],
)
def test_a_bad_binding_is_refused_by_name(
    bench: Bench, bindings: dict[str, Any], words: str
) -> None:
    with pytest.raises(SandboxError, match=words):
        bench.cell("1", bindings=bindings)


def test_a_subclass_of_media_is_refused(bench: Bench) -> None:
    class Secret(Media):
        pass

    with pytest.raises(SandboxError, match="Secret"):
        bench.cell("1", bindings={"clue": Secret("image", "0", 1, 1, b"abc")})


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"figure.dp": 50}, "sandbox.figure.figure.dp is not a matplotlib rcParam; did you mean"),
        ({"figure.dpi": "much"}, "sandbox.figure.figure.dpi = 'much'"),
        ({"backend": "agg"}, "sandbox.figure.backend"),
    ],
)
def test_a_bad_rc_param_is_named_before_anything_starts(figure: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        ZygoteSandbox(SandboxConfig(figure=figure))


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.options\.docker"):
        ZygoteSandbox(SandboxConfig(options={"docker": True}))


def test_a_file_that_is_gone_fails_the_run_not_the_model(bench: Bench, tmp_path: Path) -> None:
    media = Media("image", "0" * 64, 4, 4, tmp_path / "gone.png")
    with pytest.raises(SandboxError, match=r"gone\.png"):
        bench.cell("1", bindings={"image_clue_0": media})


def test_an_image_file_is_bound_like_pixels_in_memory(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "clue.png"
    open_image(picture()).save(path)
    media = Media("image", picture().sha256, 40, 30, path)
    assert bench.cell("image_clue_0", bindings={"image_clue_0": media}).images == (picture(),)


def test_a_socket_that_hangs_up_reads_as_an_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(protocol.Ended):
            protocol.read_request(ours)
