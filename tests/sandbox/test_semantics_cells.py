"""What a cell means: names, output, errors, and the order of it all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantics_bench import SHORT, Bench

from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.replies import compose
from pyvision_rl.types import ExecStatus


def test_variables_persist_between_cells(bench: Bench) -> None:
    assert bench.cells("x = 20", "x + 1")[1].output == "21\n"


def test_the_namespace_is_main_and_holds_the_usual_names(bench: Bench) -> None:
    result = bench.cell("print(__name__, np.__name__, plt.__name__, Image.__name__)")
    assert result.output == "__main__ numpy matplotlib.pyplot PIL.Image\n"


def test_code_that_reads_its_command_line_finds_an_empty_one(bench: Bench) -> None:
    code = "import argparse, sys\nprint(sys.argv, argparse.ArgumentParser().parse_args())"
    assert bench.cell(code).output == "[''] Namespace()\n"


def test_a_thread_s_words_of_an_ended_cell_are_no_answer_to_the_next(bench: Bench) -> None:
    code = """
        import sys
        late = None
        write = sys.stdout._wire.send
        def catch(frame, blob=b""):
            global late
            late = frame
            write(frame, blob)
        sys.stdout._wire.send = catch
        print("first")
        sys.stdout._wire.send = write
        """
    # As one does that was made before the cell ended and handed over after the next began.
    again = "sys.stdout._wire._waiting.append((late, b''))\nprint('second')"
    first, second = bench.cells(textwrap.dedent(code), again)
    assert (first.output, second.status, second.output) == ("first\n", ExecStatus.OK, "second\n")


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


def test_code_recurses_equally_deep_in_every_session(bench: Bench) -> None:
    code = "def f(n): return f(n + 1)\nf(0)"
    cells = [cell for _ in range(4) for cell in bench.cells(code, code)]
    assert len({cell.error.replace("<cell 2>", "<cell 1>") for cell in cells}) == 1
    assert int(cells[0].error.split(" earlier calls")[0].split()[-1]) > 950


def test_sessions_do_not_see_each_other(bench: Bench) -> None:
    bench.cell("x = 1\nnp.pi = 3\nopen('note.txt', 'w').write('x')")
    code = "import os\n'x' in globals(), np.pi == 3, os.listdir()"
    assert bench.cell(code).output == "(False, False, [])\n"


def test_odd_text_comes_back_printable(bench: Bench) -> None:
    result = bench.cell("print('\\ud800 \\x00 \U0001f600')")
    assert result.output == "? \x00 \U0001f600\n"
    assert bench.cell("x = '\x00'").status is ExecStatus.RAISED


# As in a notebook


def test_the_module_is_the_real_main(bench: Bench) -> None:
    code = """
    import sys, dataclasses, typing
    @dataclasses.dataclass
    class A:
        x: 'int' = 1
    m = sys.modules['__main__']
    m.A is A, m.__name__, A.__module__, typing.get_type_hints(A)
    """
    assert bench.cell(code).output == "(True, '__main__', '__main__', {'x': <class 'int'>})\n"


def test_a_semicolon_silences_the_last_expression(bench: Bench) -> None:
    assert bench.cells("1;", "print(2);")[0].output == ""
    assert bench.cell("print(2);").output == "2\n"


def test_a_value_that_cannot_be_displayed_is_an_error(bench: Bench) -> None:
    code = "class R:\n    def __repr__(self): raise ValueError('no words')\nR()"
    result = bench.cell(code)
    assert (result.status, "ValueError: no words" in result.error) == (ExecStatus.RAISED, True)


def test_an_error_whose_text_fails_is_still_an_error(bench: Bench) -> None:
    code = "class E(Exception):\n    def __str__(self): raise KeyError\nx = 1\nraise E"
    failed, after = bench.cells(code, "x")
    assert (failed.status, "E: <exception str() failed>" in failed.error) == (
        ExecStatus.RAISED,
        True,
    )
    assert after.output == "1\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%matplotlib inline\nx = 1", "magic commands"),
        ("x = 1\n  %time x", "magic commands"),
        ("%%timeit\nx = 1", "magic commands"),
        ("!ls -l", "shell commands"),
        ("x = !ls", "shell commands"),
        ("!pip install x", "shell commands"),
    ],
)
def test_notebook_commands_are_named_in_the_error(bench: Bench, code: str, words: str) -> None:
    result = bench.cell(code)
    assert result.status is ExecStatus.RAISED
    assert words in result.error
    assert "plain Python" in result.error


@pytest.mark.parametrize("code", ["x = 7\n%3", "x = 5 %\n", "print(1) !"])
def test_other_syntax_errors_keep_their_words(bench: Bench, code: str) -> None:
    error = bench.cells("x = 4", code)[1].error
    assert "SyntaxError" in error
    assert ("commands" in error) == code.endswith("%3")


def test_private_names_of_a_cell_do_not_reach_the_runtime(bench: Bench) -> None:
    code = """
    import json, struct, socket, builtins, signal, traceback, time
    json.dumps = json.loads = struct.pack = struct.unpack = None
    json.JSONDecoder.decode = json.JSONEncoder.encode = None
    time.monotonic = signal.pthread_sigmask = None
    socket.socket.send = socket.socket.recv_into = None
    print('still here')
    """
    patched, after = bench.cells(code, "1 + 1")
    assert (patched.status, patched.output) == (ExecStatus.OK, "still here\n")
    assert after.output == "2\n"


@pytest.mark.parametrize("name", ["len", "isinstance", "str", "print", "dict", "max"])
def test_a_deleted_builtin_ends_no_session_silently(bench: Bench, name: str) -> None:
    code = f"import builtins\nkeep = builtins.{name}\ndel builtins.{name}\n"
    first, after = bench.cells(code + f"builtins.{name} = keep\n1", "2")
    assert (first.output, after.output) == ("1\n", "2\n")
    broken = bench.cell(code)
    assert broken.status in (ExecStatus.OK, ExecStatus.RAISED, ExecStatus.DIED)


def test_text_and_pictures_keep_their_order(bench: Bench) -> None:
    code = """
    print('a'); image_clue_0.show(); print('b', end='')
    plt.imshow(image_clue_0); plt.show()
    print('c')
    image_clue_0
    """
    result = bench.cell(code)
    assert result.parts == ("a\n", 0, "bc\n"[:1], 1, "c\n", 2)
    assert result.output == "a\nbc\n"


def test_pictures_in_the_cut_part_stand_after_the_words_about_it(bench: Bench) -> None:
    code = """
    print('a' * 150); image_clue_0.show(); print('b' * 150)
    image_clue_0.show()
    print('c' * 150); image_clue_0.show(); print('d' * 20)
    """
    result = bench.cell(code, limits=SandboxLimits(max_output_chars=200))
    assert result.parts == (
        "a" * 80,
        "\n[314 characters cut]\n",
        0,
        1,
        "c" * 58 + "\n",
        2,
        "d" * 20 + "\n",
    )


def test_what_threads_print_is_in_the_output(bench: Bench) -> None:
    code = """
    import threading
    threads = [threading.Thread(target=print, args=(i,)) for i in range(9)]
    for t in threads: t.start()
    for t in threads: t.join()
    """
    assert sorted(bench.cell(code).output.split()) == [str(i) for i in range(9)]


def test_a_thread_that_prints_between_cells_breaks_nothing(bench: Bench) -> None:
    code = """
    import threading, time
    def chatter():
        while True: print('x', flush=True); time.sleep(0.001)
    threading.Thread(target=chatter, daemon=True).start()
    """
    cells = bench.cells(code, *["time.sleep(0.02); y = 1"] * 10)
    assert {cell.status for cell in cells} == {ExecStatus.OK}


def test_much_output_in_small_pieces_is_whole(bench: Bench) -> None:
    result = bench.cell("for i in range(3000): print(i % 10, end='')")
    assert result.output == "0123456789" * 300


def test_a_timer_of_the_code_s_own_tears_no_frame(bench: Bench) -> None:
    code = """
    import signal
    class Tick(Exception): pass
    def tick(*_): raise Tick
    signal.signal(signal.SIGALRM, tick)
    big = Image.new('RGB', (900, 900)); seen = 0
    for i in range(60):
        # Again after a second: one that comes while a picture is described is lost.
        signal.setitimer(signal.ITIMER_REAL, 0.0002 * (i + 1), 1.0)
        try:
            while True:
                print('word', end='')
                if i % 10 == 0: big.show()
        except Tick: seen += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    seen
    """
    result = bench.cell(textwrap.dedent(code))
    assert (result.status, result.error) == (ExecStatus.OK, "")
    assert "60\n" in result.output


@given(st.text(max_size=400), st.integers(0, 5), st.lists(st.integers(0, 500), max_size=6))
def test_head_and_tail_of_any_text_are_kept(text: str, more: int, places: list[int]) -> None:
    limit = protocol.MIN_CHARS + more
    marks = sorted(min(place, len(text)) for place in places)
    output, parts = compose(text[:limit], text[limit:][-limit:], len(text), marks, limit)
    texts = [part for part in parts if isinstance(part, str)]
    assert "".join(texts) == output
    assert [part for part in parts if isinstance(part, int)] == list(range(len(marks)))
    assert len(output) <= limit
    if len(text) <= limit:
        assert output == text
        before = [len("".join(map(str, texts_before(parts, k)))) for k in range(len(marks))]
        assert before == marks
    else:
        head, tail = output.split(f"\n[{len(text) - (limit - 40)} characters cut]\n", 1)
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) == limit - 40


def texts_before(parts: tuple[str | int, ...], index: int) -> list[str]:
    return [part for part in parts[: parts.index(index)] if isinstance(part, str)]


@given(
    st.text(max_size=200),
    st.text(max_size=200),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**64 - 1), max_size=6),
)
def test_no_claim_about_the_output_breaks_its_limit(
    head: str, tail: str, total: int, marks: list[int]
) -> None:
    output, parts = compose(head[:64], tail, total, marks, 64)
    assert len(output) <= 64
    assert "".join(part for part in parts if isinstance(part, str)) == output
    assert [part for part in parts if isinstance(part, int)] == list(range(len(marks)))
