"""The driver's side of the protocol: any bytes are an answer, or a violation."""

from __future__ import annotations

import asyncio
import os
import socket
import textwrap
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantics_bench import SHORT, SOCKET, Bench

from pyvision_rl.sandbox.exchange import Exchange
from pyvision_rl.sandbox.inside import protocol
from pyvision_rl.sandbox.inside.protocol import DONE, IMAGE, TAIL, TEXT, Frames, Note
from pyvision_rl.sandbox.replies import Replies
from pyvision_rl.types import ExecStatus

REQUEST = 5
CAPS = protocol.caps(100, 2, 50, max_aspect=10, time_s=0, videos=2)


def header(kind: int, head: int, blob: int = 0, request: int = REQUEST) -> bytes:
    return protocol.HEADER.pack(protocol.MAGIC, kind, request, head, blob)


def picture(width: int, height: int, blob: bytes | None = None, note: Note | None = None) -> bytes:
    blob = bytes(3 * width * height) if blob is None else blob
    return protocol.image(REQUEST, (width, height), 0, note, len(blob)) + blob


def taken(*pieces: bytes) -> Replies:
    replies = Replies(REQUEST, CAPS)
    for piece in pieces:
        replies.feed(piece)
    return replies


def check_within_caps(replies: Replies) -> None:
    text, parts = replies.text()
    assert len(text) <= CAPS.output_chars
    assert len(replies.error) <= CAPS.error_chars
    assert len(replies.images) <= CAPS.images
    assert len(replies.fetched) <= CAPS.videos
    assert "".join(part for part in parts if isinstance(part, str)) == text
    text.encode("utf-8")
    for image in replies.images:
        assert 3 * image.width * image.height == len(image.pixels) <= 3 * CAPS.pixels


NUMBERS = st.sets(st.integers(0, 2**32 - 1), max_size=5).map(sorted)
CLAIMS = st.builds(protocol.claim, st.text(max_size=20), NUMBERS) | st.builds(
    Frames,
    st.text(max_size=20),
    st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 2), max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
)

FRAMES = st.one_of(
    st.builds(protocol.frames, st.just(REQUEST), CLAIMS, st.booleans()),
    st.builds(protocol.text, st.just(REQUEST), st.text(max_size=60)),
    st.builds(protocol.tail, st.just(REQUEST), st.integers(0, 2**64 - 1), st.text(max_size=120)),
    st.builds(
        protocol.done,
        st.just(REQUEST),
        st.integers(0, 255),
        st.integers(0, 2**64 - 1),
        st.text(max_size=120),
        st.text(max_size=120),
    ),
    st.builds(picture, st.integers(0, 12), st.integers(0, 12), st.none() | st.binary(max_size=40)),
    st.builds(header, st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)),
    st.binary(max_size=60),
)


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 80), max_size=40))
def test_any_frames_in_any_pieces_are_within_the_caps_or_a_violation(
    frames: list[bytes], cuts: list[int]
) -> None:
    data, replies = b"".join(frames), Replies(REQUEST, CAPS)
    try:
        for size in cuts:
            piece, data = data[:size], data[size:]
            replies.feed(piece)
        replies.feed(data)
    except protocol.Violation:
        pass
    check_within_caps(replies)


@given(st.text(max_size=60), NUMBERS, st.booleans())
def test_frames_arrive_as_they_were_told(name: str, numbers: list[int], shown: bool) -> None:
    claim = protocol.claim(name, numbers)
    told = [number for first, last in claim.runs for number in range(first, last + 1)]
    assert (told, claim.total) == (numbers, len(numbers))
    pieces = [protocol.frames(REQUEST, claim, shown), picture(2, 1)]
    replies = taken(*pieces)
    assert [image.note for image in replies.images] == [claim if shown else None]
    assert replies.fetched == ([] if shown else [claim])


def test_neighbours_are_one_run_and_too_many_runs_are_cut_and_counted() -> None:
    assert protocol.claim("v", [3, 4, 5, 9]).runs == ((3, 5), (9, 9))
    claim = protocol.claim("v", range(0, 2 * protocol.MAX_RUNS + 8, 2))
    assert len(claim.runs) == protocol.MAX_RUNS
    # Every second of 2 * MAX_RUNS + 8 numbers is a run of its own.
    assert claim.total == protocol.MAX_RUNS + 4
    assert taken(protocol.frames(REQUEST, claim, False)).fetched == [claim]


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ([Frames("v", ((5, 4),), 1)], "do not ascend"),
        ([Frames("v", ((0, 4), (4, 5)), 6)], "do not ascend"),
        ([Frames("v", ((0, 4), (5, 6)), 7)], "do not ascend"),
        ([Frames("v", ((7, 9), (1, 2)), 5)], "do not ascend"),
        ([Frames("v", ((0, 0),), 1)] * 3, "more than 2 videos"),
    ],
)
def test_broken_claims_about_frames_are_a_violation(claims: list[Frames], words: str) -> None:
    with pytest.raises(protocol.Violation, match=words):
        taken(*(protocol.frames(REQUEST, claim, False) for claim in claims))


def test_frames_that_do_not_add_up_are_a_violation() -> None:
    for size, rest in ((9, b"v"), (1, b"v" + bytes(7))):
        head = protocol.FRAMES_HEAD.pack(0, 1, size) + rest
        with pytest.raises(protocol.Violation, match="do not add up"):
            taken(protocol.frame(protocol.FRAMES, REQUEST, head))


def test_frames_of_a_session_without_videos_are_a_violation() -> None:
    replies = Replies(REQUEST, protocol.caps(100, 2, 50))
    with pytest.raises(protocol.Violation, match="bytes of FRAMES were announced; at most 0"):
        replies.feed(protocol.frames(REQUEST, protocol.claim("v", [1]), False))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_wait_for_more(data: bytes) -> None:
    replies = Replies(REQUEST, CAPS)
    try:
        replies.feed(data)
    except protocol.Violation:
        return
    assert not replies.done
    assert replies.partial == bool(data)


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_no_announced_length_is_allocated_beyond_the_caps(kind: int, head: int, blob: int) -> None:
    replies = Replies(REQUEST, CAPS)
    tracemalloc.start()
    try:
        replies.feed(header(kind, head, blob))
        replies.feed(bytes(200))
    except protocol.Violation:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20_000


@given(st.lists(st.integers(1, 40)))
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(cuts: list[int]) -> None:
    note = Note("image_clue_0", (1, 2, 3, 4), (0, 0, 5, 2))
    pixels = bytes(range(30))
    data = b"".join(
        [
            protocol.text(REQUEST, "one é "),
            protocol.image(REQUEST, (5, 2), 6, note, 30) + pixels,
            protocol.text(REQUEST, "two"),
            protocol.tail(REQUEST, 200, "x" * 50),
            protocol.done(REQUEST, protocol.RAISED, 9, "", "error \U0001f600"),
        ]
    )
    replies = Replies(REQUEST, CAPS)
    for size in cuts:
        hole = replies.hole()
        if hole is not None:  # as a socket would fill it
            count = min(size, len(hole))
            hole[:count] = data[:count]
            replies.filled(count)
        else:
            count = size
            replies.feed(data[:count])
        data = data[count:]
    replies.feed(data)
    assert (replies.done, replies.flags, replies.partial) == (True, protocol.RAISED, False)
    assert replies.error == "error \U0001f600"
    assert replies.text() == ("one é two", ("one é ", 0, "two"))
    [image] = replies.images
    assert (image.width, image.height, image.note, bytes(image.pixels)) == (5, 2, note, pixels)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x" * 40, "no frame"),
        (header(TEXT, 4, request=6), "another request"),
        (header(protocol.REQUEST, 4), "unknown kind 0"),
        (header(9, 4), "unknown kind 9"),
        (header(TEXT, 2**32 - 1), "4294967295"),
        (header(TEXT, 4, 1), "1 bytes of image"),
        (header(IMAGE, 48, 2**60), f"{2**60} bytes of image"),
        (header(IMAGE, 4) + bytes(4), "without its fields"),
        (header(DONE, 3) + bytes(3), "without its fields"),
        (header(TAIL, 7) + bytes(7), "without its fields"),
        (header(TEXT, 0), "more text"),
        (header(TEXT, 2) + b"\xed\xa0", "not UTF-8"),
        (protocol.frame(TEXT, REQUEST, "\ud800".encode("utf-8", "surrogatepass")), "not UTF-8"),
        (protocol.text(REQUEST, "a" * 101), "more text"),
        (protocol.text(REQUEST, "a") * 201, "more text"),
        (protocol.tail(REQUEST, 1, "a") * 9, "too often"),
        (protocol.done(REQUEST, 0, 0, "a" * 101), "more text"),
        (protocol.done(REQUEST, 0, 0, "", "a" * 101), "more text"),
        (protocol.done(REQUEST, 0, 0) * 2, "more than one answer"),
        (protocol.done(REQUEST, 0, 0) + b"x", "more than one answer"),
        (picture(5, 5) * 3, "more than 2 images"),
        (picture(5, 5, bytes(74)), "5x5 in 74 bytes"),
        (picture(2**31, 2, bytes(12)), f"{2**31}x2"),
        (picture(0, 5, b""), "0x5"),
        (picture(11, 1), "11x1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(protocol.Violation, match=words):
        taken(data)


def test_every_kind_of_frame_has_a_name() -> None:
    assert [protocol.KINDS[kind] for kind in (TEXT, TAIL, IMAGE, DONE)] == [
        "TEXT",
        "TAIL",
        "IMAGE",
        "DONE",
    ]


def test_threads_that_overrun_the_head_are_no_violation() -> None:
    replies = taken(protocol.text(REQUEST, "a" * 70), protocol.text(REQUEST, "b" * 70))
    assert len(replies.text()[0]) == 100


def test_a_frame_that_drips_is_cut_off() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            exchange = Exchange(ours, CAPS, frame_s=0.1)
            await exchange.ask({"op": "run"})
            data = header(TEXT, 100, request=exchange.request) + b"x" * 99
            for byte in data:
                theirs.send(bytes([byte]))
                await asyncio.wait({exchange.over}, timeout=0.01)
                if exchange.over.done():
                    break
            with pytest.raises(protocol.Violation, match="did not come to its end"):
                await exchange.over
            exchange.close()

    asyncio.run(scenario())


def test_slow_frames_that_end_are_no_drip() -> None:
    async def scenario() -> str:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            exchange = Exchange(ours, CAPS, frame_s=0.15)
            await exchange.ask({"op": "run"})
            for _ in range(5):
                data = protocol.text(exchange.request, "ab")
                for piece in (data[:9], data[9:]):
                    theirs.send(piece)
                    await asyncio.sleep(0.05)
            theirs.send(protocol.done(exchange.request, 0, 10))
            await exchange.over
            exchange.close()
            return exchange.replies.text()[0]

    assert asyncio.run(scenario()) == "ab" * 5


def test_requests_carry_pixels_and_descriptors() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Path("/dev/null").open("rb") as file:
        data = protocol.pack(7, {"op": "start"}, 3)
        socket.send_fds(ours, [data[:10]], [file.fileno(), file.fileno()])
        ours.sendall(data[10:] + b"abc")
        request, head, blob, fds = protocol.read_request(theirs)
        assert (request, head, bytes(blob), len(fds)) == (7, {"op": "start"}, b"abc", 2)
        for fd in fds:
            os.close(fd)


def test_a_socket_that_hangs_up_reads_as_an_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(protocol.Ended):
            protocol.read_request(ours)


# Hostile sessions


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("os.write(fd, b'x' * 100)", "no frame"),
        ("os.write(fd, protocol.text(request + 1, 'a'))", "another request"),
        ("os.write(fd, protocol.HEADER.pack(b'pvs3', 1, request, 2**32 - 1, 0))", "4294967295"),
        ("os.write(fd, protocol.HEADER.pack(b'pvs3', 3, request, 2, 2**60))", "of image"),
        ("os.write(fd, protocol.pack(request, {'raised': 1}))", "unknown kind 0"),
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
    attack = "os.write(fd, protocol.done(request, 0, 0))"
    forged, after, last = bench.cells(SOCKET + attack, "print(2)", "print(3)")
    assert ExecStatus.VIOLATION in (forged.status, after.status)
    assert after.output in ("2\n", "")
    assert last.output == "3\n"


def test_an_answer_that_never_ends_is_cut_off_by_the_clock(bench: Bench) -> None:
    attack = """
    import threading, time
    os.write(fd, protocol.HEADER.pack(b'pvs3', 1, request, 1000, 0))
    while True:
        try:
            time.sleep(0.01); os.write(fd, b' ')
        except KeyboardInterrupt:
            pass
    """
    code = SOCKET + textwrap.dedent(attack)
    assert bench.cell(code, limits=SHORT).status in (ExecStatus.KILLED, ExecStatus.VIOLATION)
