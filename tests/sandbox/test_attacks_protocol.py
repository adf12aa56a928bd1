"""Attacks 83-93 and 96: code that speaks to the driver in the interpreter's place, or breaks it.

The code has what a thorough attacker would find: the socket, the id of the request that is being
answered, and the protocol's own functions.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path
from typing import Any

import pytest
from attack_bench import AFTER, Arena, check
from attack_records import LOST, Attack, Expect, broken, raised
from attack_traces import descriptors, resident_bytes

import pyvision_rl.sandbox
from pyvision_rl.types import ExecStatus

FORGERY = """
frame = sys._getframe()
while 'request' not in frame.f_locals or 'sock' not in frame.f_locals:
    frame = frame.f_back
request, fd = frame.f_locals['request'], frame.f_locals['sock'].fileno()
protocol = sys.modules[frame.f_globals['__package__'] + '.protocol']

def say(data):
    data = memoryview(data)
    while data:
        data = data[os.write(fd, data):]

def header(kind, head, blob=0, number=None, magic=protocol.MAGIC):
    return protocol.HEADER.pack(magic, kind, request if number is None else number, head, blob)

def picture(width, height, blob, note=None):
    return protocol.image(request, (width, height), 0, note, blob)
"""
ONLY_TRUSTED = "without isolation the session speaks the same protocol, and is judged the same"


def forged(number: str, name: str, code: str, blocked: Expect, **more: Any) -> Attack:
    return Attack(
        number, name, FORGERY + textwrap.dedent(code), blocked, no_control=ONLY_TRUSTED, **more
    )


FRAMES = (
    forged(
        "083b",
        "two_forged_answers",
        "say(2 * protocol.done(request, 0, 6, 'forged'))",
        broken("more than one answer"),
    ),
    forged("083c", "no_frame", "say(b'x' * 100)", broken("no frame")),
    forged("083d", "half_a_frame", "say(b'pvs3')\nos._exit(0)", Expect((ExecStatus.DIED,))),
    forged(
        "084a",
        "giant_text_announced",
        "say(header(protocol.TEXT, 2**32 - 1))",
        broken("4294967295 bytes of TEXT"),
    ),
    forged(
        "084b",
        "giant_picture_announced",
        "say(header(protocol.IMAGE, 64, 2**60))",
        broken("bytes of image"),
    ),
    forged(
        "084c",
        "giant_end_announced",
        "say(header(protocol.DONE, 2**31))",
        broken("bytes of DONE"),
    ),
    forged(
        "084d",
        "blob_with_text",
        "say(header(protocol.TEXT, 4, 1) + b'textx')",
        broken("bytes of image"),
    ),
    forged(
        "084e",
        "flood_of_text",
        "while True: say(protocol.text(request, 'x'))",
        broken("more text than allowed"),
    ),
    forged(
        "084f",
        "flood_of_tails",
        "while True: say(protocol.tail(request, 10**6, 'x' * 100))",
        broken("too often"),
    ),
    forged("084g", "flood_of_bytes", "while True: say(bytes(2**20))", broken("no frame")),
    forged(
        "084h",
        "flood_of_pictures",
        "while True: say(picture(1000, 1000, 3 * 10**6) + bytes(3 * 10**6))",
        broken("more than 8 images"),
    ),
    forged("086a", "closed_socket", "os.close(fd)\ntime.sleep(60)", broken("closed its connect")),
    forged(
        "089",
        "pickle_for_the_driver",
        "import pickle\nsay(pickle.dumps(print) + bytes(100))",
        broken("no frame"),
    ),
    forged(
        "090a",
        "text_that_is_no_utf8",
        "say(header(protocol.TEXT, 2) + b'\\xff\\xfe')",
        broken("not UTF-8"),
    ),
    forged(
        "090b",
        "name_that_is_no_utf8",
        "say(header(protocol.IMAGE, protocol.IMAGE_HEAD.size + 2, 3)"
        " + protocol.IMAGE_HEAD.pack(1, 1, 0, *(0,) * 8) + b'\\xff\\xfe' + bytes(3))",
        broken("not UTF-8"),
    ),
    forged("091a", "picture_of_another_size", "say(picture(9, 9, 3))", broken("9x9 in 3 bytes")),
    forged("091b", "picture_of_no_size", "say(picture(0, 0, 0))", broken("0x0")),
    forged(
        "091c",
        "picture_of_giant_sides",
        "say(picture(2**32 - 1, 2**32 - 1, 3))",
        broken("4294967295x4294967295"),
    ),
    forged(
        "091d",
        "picture_over_the_pixels",
        "say(picture(2001, 2000, 3 * 2001 * 2000))",
        broken("bytes of image|2001x2000"),
    ),
    forged("091e", "picture_like_a_thread", "say(picture(1000, 1, 3000))", broken("1000x1")),
    forged(
        "092",
        "more_pictures_than_allowed",
        "for _ in range(9): say(picture(1, 1, 3) + bytes(3))",
        broken("more than 8 images"),
    ),
    forged(
        "093a",
        "answer_to_another_request",
        "say(protocol.done(request - 1, 0, 6, 'forged'))",
        broken("another request"),
    ),
    forged(
        "093b", "request_to_the_driver", "say(protocol.pack(request, {}))", broken("unknown kind 0")
    ),
    forged("093c", "frame_of_no_kind", "say(header(200, 0))", broken("unknown kind 200")),
    forged(
        "093d",
        "end_without_fields",
        "say(header(protocol.DONE, 3) + b'abc')",
        broken("without its fields"),
    ),
)

BREAKS = (
    forged(
        "086b",
        "all_descriptors_closed",
        "os.closerange(0, 1024)",
        Expect((ExecStatus.VIOLATION, ExecStatus.DIED)),
    ),
    forged(
        "087a",
        "patched_libraries",
        """
        import ast, json, linecache, re, socket, struct, traceback
        print("before")
        for module in (ast, json, linecache, re, socket, struct, traceback, signal, time, os):
            for name in list(vars(module)):
                if not name.startswith("__") and module is not signal and module is not os:
                    try: setattr(module, name, None)
                    except (AttributeError, TypeError): pass
        signal.signal = signal.pthread_sigmask = os.write = os.read = None
        """,
        Expect(output="^before\n$"),
    ),
    forged(
        "087b",
        "patched_streams",
        "sys.stdout = sys.stderr = sys.displayhook = sys.excepthook = None\nsys.modules.clear()",
        Expect(),
    ),
    forged(
        "087c",
        "patched_interpreter",
        """
        serving = frame.f_locals["self"]
        for name in list(vars(serving)):
            setattr(serving, name, None)
        """,
        Expect((ExecStatus.VIOLATION, ExecStatus.DIED)),
    ),
    forged("088a", "deleted_builtins", "import builtins\nbuiltins.__dict__.clear()", Expect()),
    forged(
        "088b",
        "changed_builtins",
        """
        import builtins
        for name in ("len", "isinstance", "bytes", "dict", "str", "list", "map", "sum", "open"):
            setattr(builtins, name, None)
        """,
        Expect(),
    ),
    forged(
        "090d",
        "odd_text",
        "print('\\ud800 \\x00 \\U0001f600', float('nan'), '\\x1b[31m', '\\u202e')",
        Expect(output="^\\? \x00 \U0001f600 nan"),
    ),
    forged("090e", "odd_error", "raise ValueError('\\udfff\\x00')", raised("ValueError")),
    forged("090f", "json_bomb_as_text", "print('[' * 10**6)", Expect(output=r"^\[\[\[")),
)


@pytest.mark.parametrize("attack", FRAMES, ids=lambda a: a.id)
def test_attack(arena: Arena, attack: Attack) -> None:
    arena.repel(attack)


@pytest.mark.parametrize("attack", BREAKS, ids=lambda a: a.id)
def test_attack_on_the_interpreter(arena: Arena, attack: Attack) -> None:
    # Its own later cells may be broken; the driver and other sessions are not.
    attacked, after = arena.play(attack, ())
    check(attacked, attack.blocked)
    assert after.status in (ExecStatus.OK, ExecStatus.RAISED, *LOST)
    [other] = arena.cells("print('fine')")
    assert other.output == "fine\n"


def test_attack_084_the_driver_s_memory_stays_flat(arena: Arena) -> None:
    hostile = [attack for attack in FRAMES if attack.number.startswith("084")]
    arena.play(hostile[0], ())
    before = resident_bytes()
    for attack in hostile:
        arena.play(attack, ())
    assert resident_bytes() - before < 64 * 2**20


def test_attack_084_descriptors_sent_to_the_driver_do_not_stay(arena: Arena) -> None:
    code = """
    ours = socket.socket(fileno=os.dup(fd))
    for _ in range(50):
        frame = protocol.text(request, "x")
        socket.send_fds(ours, [frame], [0] * 100)
    ours.detach()
    """
    before = descriptors("self")
    attacked, _ = arena.play(forged("084i", "descriptors", code, Expect()), ())
    assert attacked.status in (ExecStatus.OK, ExecStatus.RAISED, ExecStatus.VIOLATION)
    assert descriptors("self") == before


DRIP = """
data = protocol.done(request, 0, 1000, 'x' * 1000)
for byte in data[:100]:
    try:
        say(bytes([byte])); time.sleep(0.05)
    except KeyboardInterrupt:
        pass
while True:
    try: time.sleep(1)
    except KeyboardInterrupt: pass
"""


def test_attack_085_an_answer_that_drips(arena: Arena) -> None:
    attack = forged("085", "drip", DRIP, Expect(), limits={"wall_s": 0.6, "grace_s": 0.3})
    attacked, after = arena.play(attack, ())
    assert attacked.status in (ExecStatus.KILLED, ExecStatus.VIOLATION)
    assert attacked.duration_s < 5
    assert after.output == "fresh\n"


@pytest.mark.parametrize(
    "then", ["", "time.sleep(0.1)", "os._exit(0)", "time.sleep(60)", "say(b'x')"]
)
def test_attack_083a_a_forged_answer_shifts_nothing(arena: Arena, then: str) -> None:
    # What it says is what the cell could have printed; the true answer, if one comes, is surplus.
    code = f"{FORGERY}\nsay(protocol.done(request, 0, 7, 'forged\\n'))\n{then}"
    first, second, third = arena.cells(arena.preamble() + code, "print(2)", "print(3)", wall_s=1.0)
    ends = (ExecStatus.KILLED, ExecStatus.DIED) if then else ()
    assert {first.status, second.status} & {ExecStatus.VIOLATION, *ends}
    assert first.output in ("forged\n", "")
    assert second.output in ("2\n", "")
    assert (second.output == "") == second.state_lost
    assert third.output == "3\n"


def test_attack_083_an_interpreter_of_the_model_s_own_only_fools_its_session(arena: Arena) -> None:
    # It answers all requests itself: what it says is what a cell could have printed.
    code = """
    say(protocol.done(request, 0, 5, "mine\\n"))
    sock = frame.f_locals["sock"]
    while True:
        request, head, _, _ = protocol.read_request(sock)
        say(protocol.done(request, 0, 5, "mine\\n"))
    """
    attack = forged("083e", "own_interpreter", code, Expect())
    attacked, after = arena.play(attack, ())
    assert (attacked.output, after.output) == ("mine\n", "mine\n")
    [other] = arena.cells(AFTER)
    assert other.output == "fresh\n"


def test_attack_091_a_forged_source_is_not_verified(arena: Arena) -> None:
    code = """
    note = protocol.Note("image_clue_0", (0, 0, 40, 30), (0, 0, 40, 30))
    say(picture(40, 30, 3600, note) + bytes(3600))
    """
    attacked, _ = arena.play(forged("091f", "forged_source", code, Expect()), ())
    assert len(attacked.images) == 1
    assert attacked.sources[0] is None or not attacked.sources[0].verified


@pytest.mark.parametrize(
    "box", ["(-5, -5, 10, 10)", "(0, 0, 2**31 - 1, 2**31 - 1)", "(9, 9, 9, 9)"]
)
def test_attack_091_an_impossible_source_is_harmless(arena: Arena, box: str) -> None:
    code = f"""
    note = protocol.Note("image_clue_0", {box}, {box})
    say(picture(40, 30, 3600, note) + bytes(3600))
    """
    attacked, after = arena.play(forged("091g", "impossible_source", code, Expect()), ())
    assert attacked.status in (ExecStatus.OK, ExecStatus.VIOLATION)
    assert all(source is None or not source.verified for source in attacked.sources)
    assert after.status is ExecStatus.OK


def test_attack_093_an_answer_to_an_earlier_cell_never_arrives(arena: Arena) -> None:
    code = """
    def late():
        time.sleep(0.1)
        while True:
            os.write(fd, protocol.text(request, "stale"))
            time.sleep(0.01)
    threading.Thread(target=late, daemon=True).start()
    """
    attacked, after = arena.play(forged("093e", "late_words", code, Expect()), ())
    assert "stale" not in attacked.output + after.output
    for _ in range(3):
        assert "stale" not in arena.cells(AFTER)[0].output


def test_attack_096_no_result_of_an_earlier_cell_is_ever_delivered(arena: Arena) -> None:
    codes, wants = [], []
    for k in range(6):
        codes += [f"import time\nprint('late {k}', flush=True); time.sleep(5)", f"print({k})"]
        wants.append(f"{k}\n")
    results = arena.cells(*codes, wall_s=0.2, grace_s=0.2)
    assert [r.output for r in results[1::2]] == wants
    assert [r.output for r in results[::2]] == [f"late {k}\n" for k in range(6)]
    assert {r.status for r in results[::2]} == {ExecStatus.TIMEOUT}


def test_attack_089_nothing_that_the_driver_runs_could_unpickle() -> None:
    folder = Path(pyvision_rl.sandbox.__file__).parent
    driver_side = [*folder.glob("*.py"), folder / "inside" / "protocol.py"]
    risky = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing"}
    for path in driver_side:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not risky & {alias.name for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in risky, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
