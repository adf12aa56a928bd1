"""Attacks 17-33: code that takes all the memory, fills the disk, or floods whoever reads it."""

from __future__ import annotations

import pytest
from attack_bench import Arena, limits
from attack_records import DONE, Attack, Expect, raised, words

from pyvision_rl.types import ExecStatus

BOUND = "the bound is a resource limit: it holds without isolation too, and must"
OURS = "the bound is our own interpreter's, the same at every level"
DEEP = "the bound is Python's own, the same everywhere"

MEMORY = (
    Attack("017", "huge_array", "np.ones(10**10 // 8)", raised("MemoryError"), no_control=BOUND),
    Attack(
        "018a",
        "bytearray_bomb",
        "taken = []\nwhile True: taken.append(bytearray(2**24))",
        raised("MemoryError"),
        no_control=BOUND,
    ),
    Attack(
        "018b",
        "small_objects_bomb",
        "taken = []\nwhile True: taken.append([0] * 1000)",
        raised("MemoryError"),
        limits={"memory_mb": 64},
        no_control=BOUND,
    ),
    Attack(
        "019a",
        "shared_mapping",
        "import mmap\nattempt(mmap.mmap, -1, 2**30)",
        words("ENOMEM"),
        no_control=BOUND,
    ),
    Attack(
        "019b",
        "many_shared_mappings",
        """
        import mmap
        taken = []
        def more():
            for _ in range(64):
                taken.append(mmap.mmap(-1, 2**24))
                taken[-1][::4096] = bytes(2**12)
        attempt(more)
        taken.clear()
        """,
        words("ENOMEM"),
        no_control=BOUND,
    ),
    Attack(
        "020a",
        "anonymous_file",
        "attempt(os.memfd_create, 'x')",
        words("EPERM"),
        control=DONE,
    ),
    Attack(
        "020b",
        "secret_memory",
        "attempt(raw, 'memfd_secret', 0)",
        words("EPERM", "ENOSYS"),
        no_control="few kernels offer it",
    ),
    Attack(
        "021a",
        "disk_filled_by_one_file",
        """
        def fill():
            with open("big", "wb") as file:
                for _ in range(8):
                    file.write(bytes(2**20))
        attempt(fill)
        """,
        words("ENOSPC"),
        at={"ll": words("EACCES", "EROFS")},
        control=DONE,
    ),
    Attack(
        "021b",
        "disk_filled_by_many_files",
        """
        def fill():
            for k in range(8):
                with open(f"big{k}", "wb") as file:
                    file.write(bytes(2**20))
        attempt(fill)
        """,
        words("ENOSPC"),
        at={"ll": words("EACCES", "EROFS")},
        control=DONE,
    ),
    Attack(
        "021c",
        "disk_filled_by_empty_files",
        """
        def fill():
            for k in range(20_000):
                open(f"empty{k}", "wb").close()
        attempt(fill)
        """,
        words("ENOSPC"),
        at={"ll": words("EACCES", "EROFS")},
        no_control="021b shows that files can be made",
    ),
    Attack("022", "huge_list", "x = [0] * 10**10", raised("MemoryError"), no_control=BOUND),
    Attack(
        "023a",
        "picture_bomb",
        """
        import io, zlib
        def chunk(kind, data):
            crc = struct.pack(">I", zlib.crc32(kind + data))
            return struct.pack(">I", len(data)) + kind + data + crc
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        Image.open(io.BytesIO(b"\\x89PNG\\r\\n\\x1a\\n" + head + body)).load()
        """,
        raised("DecompressionBombError"),
        no_control="Pillow refuses it everywhere",
    ),
    Attack(
        "023b",
        "picture_bomb_unguarded",
        "Image.MAX_IMAGE_PIXELS = None\nImage.new('RGB', (60000, 60000))",
        raised("MemoryError"),
        no_control=BOUND,
    ),
)

OUTPUT = (
    Attack(
        "024",
        "giant_figure",
        "plt.figure(figsize=(1000, 1000)); plt.plot([1]); plt.show()",
        Expect(output="not shown"),
        no_control=OURS,
    ),
    Attack(
        "025",
        "hundred_figures",
        "for _ in range(100): plt.figure()\nplt.show()",
        Expect(output=r"92 more images were not shown: the limit is 8"),
        no_control=OURS,
    ),
    Attack(
        "026",
        "giant_print",
        "print('x' * 10**8)",
        Expect(output=r"\n\[\d+ characters cut\]\nx"),
        limits={"memory_mb": 1024},
        no_control=OURS,
    ),
    Attack(
        "027",
        "million_prints",
        "for i in range(10**6): sys.stdout.write('x\\n')",
        Expect(output=r"\n\[\d+ characters cut\]\nx"),
        no_control=OURS,
    ),
    Attack(
        "028",
        "raw_writes_to_stdout",
        """
        def flood(fd):
            for _ in range(100):
                os.write(fd, b"y" * 10**6)
        for fd in (1, 2):
            attempt(flood, fd)
        """,
        words("DONE", "EAGAIN"),
        no_control="nobody reads these at any level; unread bytes are capped by the kernel",
    ),
    Attack(
        "029",
        "giant_error",
        "raise ValueError('a' * 10**7)",
        raised("ValueError: aaa"),
        no_control=OURS,
    ),
    Attack("030", "deep_recursion", "def f(): f()\nf()", raised("RecursionError"), no_control=DEEP),
    Attack(
        "031a",
        "recursion_without_limit",
        "sys.setrecursionlimit(10**8)\ndef f(): f()\nf()",
        # Python 3.11 says SystemError where it finds no memory for a frame.
        raised("MemoryError|SystemError|RecursionError"),
        limits={"memory_mb": 16},
        no_control="the same everywhere: it ends the interpreter that runs it",
    ),
    Attack(
        "031b",
        "recursion_in_c_without_limit",
        """
        sys.setrecursionlimit(10**8)
        class R:
            def __repr__(self): return repr(self)
        R()
        """,
        # Python 3.12 bounds recursion in C by itself.
        Expect((ExecStatus.DIED, ExecStatus.RAISED), error="SIGSEGV|RecursionError"),
        no_control="the same everywhere: it ends the interpreter that runs it",
    ),
    Attack(
        "032",
        "deeply_nested_list",
        "x = []\nfor _ in range(10**6): x = [x]\nx",
        raised("RecursionError"),
        no_control=DEEP,
    ),
    Attack(
        "033a",
        "deep_json",
        "import json\njson.loads('[' * 10**6)",
        raised("RecursionError"),
        no_control=DEEP,
    ),
    Attack(
        "033b",
        "deep_pickle",
        "import pickle\nx = []\nfor _ in range(10**6): x = [x]\npickle.dumps(x)",
        raised("RecursionError"),
        no_control=DEEP,
    ),
)
ATTACKS = (*MEMORY, *OUTPUT)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.id)
def test_attack(arena: Arena, attack: Attack) -> None:
    arena.repel(attack)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.control], ids=lambda a: a.id)
def test_control(unsafe: Arena, attack: Attack) -> None:
    unsafe.show(attack)


def test_attack_025_no_more_images_than_allowed(arena: Arena) -> None:
    [result] = arena.cells("for _ in range(20): Image.new('RGB', (4, 4)).show()")
    assert len(result.images) == limits().max_images == 8


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_attacks_026_to_029_text_is_within_its_limit(arena: Arena, stream: str) -> None:
    code = f"import sys\nfor _ in range(1000): sys.{stream}.write('x' * 1000)\n"
    code += "raise ValueError('a' * 10**6)"
    [result] = arena.cells(code)
    assert len(result.output) <= limits().max_output_chars
    assert len(result.error) <= limits().max_output_chars
