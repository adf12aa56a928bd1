"""Videos in sessions: readers under their names, and word of the frames fetched and shown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from semantics_bench import SHORT, Bench, children, picture
from video_bench import HOURS_10, NUM_FRAMES, bound, clip, ten_hours

from pyvision_rl.config import SandboxConfig
from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.inside.protocol import Frames
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.sandbox.sources import MAX_FRAMES, known_frames
from pyvision_rl.sandbox.videos import MAX_VIDEOS, VideoFiles
from pyvision_rl.types import ExecStatus, ImageSource, Media, VideoFacts, VideoFrames
from tests.clips import counting, grey_of, write_clip
from tests.fakes import a_video

SANDBOX = {"options": {"branchable": True}}
LIMITS = SandboxLimits(wall_s=30.0)
NAME = "video_clue_0"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Media]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "image_clue_0": picture(),
        NAME: clip(folder),
        "video_clue_1": clip(folder, "other.mp4", 20),
    }


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, Media]:
    """A video that a test may spoil."""
    return {NAME: clip(tmp_path)}


def frames(*numbers: int, name: str = NAME) -> VideoFrames:
    return VideoFrames(name, numbers)


def test_a_session_reads_any_frame_of_its_videos(bench: Bench, given: dict[str, Media]) -> None:
    code = f"""
    print(len({NAME}), len(video_clue_1), {NAME}.get_avg_fps())
    for number in (47, 0, 13, -1):
        print(round(float({NAME}[number].asnumpy().mean())), end=" ")
    """
    result = bench.cell(code, bindings=given)
    assert result.error == ""
    first, levels = result.output.split("\n")
    assert first == "48 20 8.0"
    wants = [grey_of(number) for number in (47, 0, 13, 47)]
    assert np.allclose(list(map(int, levels.split())), wants, atol=6)
    assert result.fetched == (frames(0, 13, 47),)


def test_a_reader_says_in_a_line_what_it_is(bench: Bench, given: dict[str, Media]) -> None:
    line = "<VideoReader video_clue_0: 48 frames, 8 fps, 6.0 s, 64x48>\n"
    result = bench.cell(f"display({NAME})\n{NAME}", bindings=given)
    assert (result.output, result.images, result.fetched) == (line * 2, (), ())


@pytest.mark.parametrize(
    ("code", "numbers"),
    [
        ("plt.imshow(v[3].asnumpy()); plt.show()", (3,)),
        ("plt.imshow(v[-1]); plt.show()", (47,)),
        ("for a, f in zip(plt.subplots(1, 2)[1], v.get_batch([9, 2])): a.imshow(f)", (2, 9)),
        ("b = v.get_batch([4, 5, 30]).asnumpy()\nplt.imshow(np.hstack(list(b[1:])))", (5, 30)),
        ("plt.figure(); plt.subplot(121); plt.imshow(v[1])\nplt.subplot(122)\n"
         "plt.imshow(image_clue_0)", (1,)),
        ("Image.fromarray(v[7].asnumpy()).show()", (7,)),
        ("Image.fromarray(v[7]).crop((1, 2, 30, 40)).resize((99, 80)).show()", (7,)),
        ("Image.fromarray(v[7]).convert('L').rotate(20).transpose(0).copy()", (7,)),
        ("Image.fromarray(v[7][10:30, 5:])", (7,)),
        ("i = Image.fromarray(v[7]); i.thumbnail((20, 20)); i", (7,)),
        ("g = Image.new('RGB', (128, 48))\n"
         "for k in (0, 1): g.paste(Image.fromarray(v[9 + k]), (64 * k, 0))\ng", (9, 10)),
        ("from decord import VideoReader, cpu\nplt.imshow(VideoReader(v, ctx=cpu(0))[8])", (8,)),
    ],
)  # fmt: skip
def test_a_shown_picture_names_its_frames(
    bench: Bench, given: dict[str, Media], code: str, numbers: tuple[int, ...]
) -> None:
    result = bench.cell(f"v = {NAME}\n{code}", bindings=given)
    assert (result.error, result.sources) == ("", (frames(*numbers),))
    [told] = result.fetched
    assert set(numbers) <= set(told.frames)


def test_opencv_reads_and_shows_a_bound_video(bench: Bench, given: dict[str, Media]) -> None:
    pytest.importorskip("cv2")
    code = """
    import cv2
    video = cv2.VideoCapture("video_clue_0.mp4")
    video.set(cv2.CAP_PROP_POS_FRAMES, 11)
    ok, frame = video.read()
    cv2.imshow("w", frame)
    plt.imshow(cv2.cvtColor(cv2.resize(frame, (32, 24)), cv2.COLOR_BGR2RGB))
    """
    result = bench.cell(code, bindings=given)
    assert (result.error, result.sources) == ("", (frames(11),) * 2)


def test_of_several_videos_the_one_with_most_frames_is_named(
    bench: Bench, given: dict[str, Media]
) -> None:
    code = f"""
    axes = plt.subplots(1, 3)[1]
    axes[0].imshow({NAME}[1]); axes[1].imshow(video_clue_1[2]); axes[2].imshow(video_clue_1[3])
    """
    result = bench.cell(code, bindings=given)
    assert result.sources == (frames(2, 3, name="video_clue_1"),)
    assert result.fetched == (frames(1), frames(2, 3, name="video_clue_1"))


@pytest.mark.parametrize(
    "code",
    [
        "plt.imshow(np.array(v[3]) * 0)",
        "image_clue_0.show()",
        "Image.new('RGB', (9, 9)).show()",
        "i = Image.fromarray(v[3]); i._pvrl_frames = 3; i",
        "i = Image.fromarray(v[3]); i._pvrl_frames = ('video_clue_0', (99,)); i",
        "i = Image.fromarray(v[3]); i._pvrl_frames = ('image_clue_0', (0,)); i",
        "i = Image.fromarray(v[3]); i._pvrl_frames = ('video_clue_9', (0,)); i",
    ],
)
def test_no_frames_are_made_up(bench: Bench, given: dict[str, Media], code: str) -> None:
    result = bench.cell(f"v = {NAME}\n{code}", bindings=given)
    assert result.error == ""
    [source] = result.sources
    assert not isinstance(source, VideoFrames)


def test_a_shown_frame_is_an_image_from_then_on(bench: Bench, given: dict[str, Media]) -> None:
    code = f"Image.fromarray({NAME}[5]).show()\nimage_clue_1.crop((1, 2, 30, 40)).show()"
    result = bench.cell(code, bindings=given)
    assert result.sources == (frames(5), ImageSource("image_clue_1", (1, 2, 30, 40), True))


def test_frames_are_told_of_the_cell_that_fetched_them(
    bench: Bench, given: dict[str, Media]
) -> None:
    codes = (f"x = {NAME}.get_batch([1, 2, 2]); 1/0", "x.shape", f"{NAME}[2]; {NAME}[40]\nNone")
    first, second, third = bench.cells(*codes, bindings=given)
    assert first.status is ExecStatus.RAISED
    assert [r.fetched for r in (first, second, third)] == [
        (frames(1, 2),),
        (),
        (frames(2, 40),),
    ]


def test_an_interrupted_cell_tells_what_it_fetched(bench: Bench, given: dict[str, Media]) -> None:
    result = bench.cells("1", f"{NAME}[4]\nwhile True: pass", bindings=given, limits=SHORT)[1]
    assert (result.status, result.fetched) == (ExecStatus.TIMEOUT, (frames(4),))


def test_numbers_that_code_makes_up_say_nothing_beyond_the_video(
    bench: Bench, given: dict[str, Media]
) -> None:
    code = f"import sys; tell = sys.modules['sandbox_child.video'].FETCHED; tell('{NAME}', {{}})"
    codes = [code.format(numbers) for numbers in ("[3, 10**6]", "[-1, 3]", "['x', 3]", "[2**40]")]
    codes += ["tell('video_clue_9', [1]); tell('image_clue_0', [1])", f"{NAME}[5]\nNone"]
    results = bench.cells(*codes, bindings=given)
    assert [r.fetched for r in results] == [(frames(3),), (), (), (), (), (frames(5),)]
    assert {r.status for r in results} == {ExecStatus.OK}


def test_a_fork_reads_on_by_itself(bench: Bench, given: dict[str, Media]) -> None:
    async def scenario() -> None:
        session = await bench.sandbox.open(given, LIMITS, 0)
        await session.run(f"v = {NAME}; v[0]; print(v.next().mean())")
        twin = await session.fork()
        wants = [str(number) for number in range(2, 14)]
        for want in wants:  # through two key frames, in turn: a place in the file is nobody else's
            code = f"print(abs(v.next().mean() - {grey_of(int(want))}) < 6)"
            assert (await session.run(code)).output == (await twin.run(code)).output == "True\n"
        await session.close()
        assert (await twin.run("v[30]\nNone")).fetched == (frames(30),)
        await twin.close()

    bench.runner.run(scenario())


def test_readers_are_there_again_after_a_lost_state(bench: Bench, given: dict[str, Media]) -> None:
    died, after = bench.cells("import os; os._exit(1)", f"len({NAME})", bindings=given)
    assert (died.status, after.output) == (ExecStatus.DIED, "48\n")


def test_sessions_with_videos_share_their_images(bench: Bench, given: dict[str, Media]) -> None:
    async def scenario() -> None:
        before = set(children(bench.sandbox.pid or 0))
        for _ in range(3):
            session = await bench.sandbox.open(given, LIMITS, 0)
            result = await session.run(f"image_clue_0.show()\nimage_clue_0.size, {NAME}[1].shape")
            await session.close()
            assert result.output == "((40, 30), (48, 64, 3))\n"
            assert result.images == (given["image_clue_0"],)
        assert len(set(children(bench.sandbox.pid or 0)) - before) <= 1

    bench.runner.run(scenario())


def test_a_file_that_disappears_is_read_on_and_then_missed(
    bench: Bench, alone: dict[str, Media]
) -> None:
    path = alone[NAME].source
    assert isinstance(path, Path)

    async def scenario() -> None:
        session = await bench.sandbox.open(alone, LIMITS, 0)
        await session.run("x = 1")
        path.unlink()
        assert (await session.run(f"{NAME}[30].shape")).output == "(48, 64, 3)\n"
        await session.run("import os; os._exit(1)")
        with pytest.raises(SandboxError, match=f"{NAME}: {path} cannot be opened"):
            await session.run("1")
        await session.close()

    bench.runner.run(scenario())


def spoil_missing(path: Path) -> None:
    path.unlink()


def spoil_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def spoil_content(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def spoil_time(path: Path) -> None:
    os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_missing, "cannot be opened"),
        (spoil_pipe, "is no regular file"),
        (spoil_content, "was changed"),
        (spoil_time, "was changed"),
    ],
)
def test_a_file_that_is_not_what_it_was_is_our_failure(
    alone: dict[str, Media], spoil: Callable[[Path], None], why: str
) -> None:
    path = alone[NAME].source
    assert isinstance(path, Path)
    store = VideoFiles()
    with store.opened(alone) as files:
        assert os.pread(files[0], 8, 4)[:4] == b"ftyp"
    spoil(path)
    with pytest.raises(SandboxError, match=f"{NAME}: {path} {why}"), store.opened(alone):
        pass


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_behind_or_shared(alone: dict[str, Media]) -> None:
    store, before = VideoFiles(), num_open()
    lost = Media("video", "0" * 64, 2, 2, Path("/nowhere.mp4"), VideoFacts(1, 1, 1))
    with pytest.raises(SandboxError, match="nowhere"), store.opened({**alone, "b": lost}):
        pass
    with store.opened({**alone, "again": alone[NAME]}) as files:
        os.lseek(files[0], 9, os.SEEK_SET)
        assert os.lseek(files[1], 0, os.SEEK_CUR) == 0
    assert num_open() == before


def test_what_no_session_can_read_is_refused_when_it_is_opened(
    bench: Bench, given: dict[str, Media], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(bindings: dict[str, Media], error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            bench.runner.run(bench.sandbox.open(bindings, LIMITS, 0))

    for source in (None, b"123"):
        refused({"v": a_video(source=source)}, SandboxError, "'v' is a video without a file")
    many = {f"v{number}": given[NAME] for number in range(MAX_VIDEOS + 1)}
    refused(many, SandboxError, f"33 videos are bound; a session holds {MAX_VIDEOS} at most")
    monkeypatch.setitem(sys.modules, "av", None)
    refused(given, ConfigError, r'needs av, .*pip install "pyvision-rl\[video\]"')


def test_a_session_holds_as_many_videos_as_are_allowed(
    bench: Bench, given: dict[str, Media]
) -> None:
    many = {f"v{number}": given[NAME] for number in range(MAX_VIDEOS)}
    images = {f"i{number}": picture(256, 256) for number in range(20)}
    code = f"sum(len(globals()[f'v{{n}}']) for n in range({MAX_VIDEOS})), i19.size"
    result = bench.cell(code, bindings={**many, **images})
    assert result.output == f"({MAX_VIDEOS * NUM_FRAMES}, (256, 256))\n"


def test_a_file_that_is_no_video_ends_its_session_only(
    bench: Bench, given: dict[str, Media], tmp_path: Path
) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(5000))
    pid = bench.sandbox.pid
    with pytest.raises(SandboxError, match=f"did not start: .*{NAME}: it is not a video"):
        bench.cell("1", bindings={NAME: bound(path)})
    assert bench.cell(f"len({NAME})", bindings=given).output == "48\n"
    assert bench.sandbox.pid == pid


def test_a_cut_file_gives_the_frames_that_it_holds(bench: Bench, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "cut.mp4", counting(200), index_first=True, g="12")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    codes = (
        f"print(0 < len({NAME}) < 200)\n{NAME}[len({NAME}) - 1].shape",
        f"{NAME}[199]",
        f"print(abs({NAME}[5].mean() - {grey_of(5)}) < 6)",
    )
    held, beyond, after = bench.cells(*codes, bindings={NAME: bound(path, 200)})
    assert held.output == "True\n(48, 64, 3)\n"
    assert (beyond.status, "IndexError" in beyond.error) == (ExecStatus.RAISED, True)
    assert after.output == "True\n"


def test_damaged_files_harm_nobody_else(
    bench: Bench, given: dict[str, Media], tmp_path: Path
) -> None:
    source = given[NAME].source
    assert isinstance(source, Path)
    data, pid = source.read_bytes(), bench.sandbox.pid
    code = f"{NAME}.get_batch(range(len({NAME}))).shape"
    for seed in range(6):
        random = np.random.default_rng(seed)
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[random.integers(40, len(data), 40)] = random.integers(0, 256, 40, dtype=np.uint8)
        path = tmp_path / f"{seed}.mp4"
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(SandboxError):  # it does not even open
            result = bench.cell(code, bindings={NAME: bound(path)})
            assert result.status in (ExecStatus.OK, ExecStatus.RAISED, ExecStatus.DIED)
    assert bench.cell(f"{NAME}[7].shape", bindings=given).output == "(48, 64, 3)\n"
    assert bench.sandbox.pid == pid


def test_frames_beyond_the_memory_limit_are_refused_and_the_session_goes_on(
    bench: Bench, given: dict[str, Media]
) -> None:
    limits = SandboxLimits(memory_mb=256, wall_s=30)
    code = f"""
    import decord
    decord.VideoReader({NAME}, width=4000, height=3000).get_batch(range(48))
    """
    failed, after = bench.cells(code, f"{NAME}[1].shape", bindings=given, limits=limits)
    assert (failed.status, "MemoryError" in failed.error) == (ExecStatus.RAISED, True)
    assert after.output == "(48, 64, 3)\n"


def test_ten_hours_open_within_small_limits(bench: Bench, tmp_path: Path) -> None:
    limits = SandboxLimits(memory_mb=256, cpu_s=10, wall_s=60)
    code = f"""
    print({NAME})
    print({NAME}[{HOURS_10 - 1}].shape, {NAME}.get_batch([20_000, 1]).shape)
    """
    result = bench.cell(code, bindings={NAME: ten_hours(tmp_path)}, limits=limits)
    assert result.error == ""
    assert result.output == (
        "<VideoReader video_clue_0: 36000 frames, 1 fps, 36000.0 s, 16x16>\n"
        "(16, 16, 3) (2, 16, 16, 3)\n"
    )
    assert result.fetched == (frames(1, 20_000, HOURS_10 - 1),)


def test_a_child_kept_ready_is_not_given_files(given: dict[str, Media]) -> None:
    # Their walls are narrower: who holds files of the user changes no modes, not of its own either.
    code = "import os; open('f', 'w').close(); os.chmod('f', 0o777)"

    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig(options={"ready": 1}))
        for bindings, status in (({}, ExecStatus.OK), (given, ExecStatus.RAISED)) * 2:
            session = await sandbox.open(bindings, LIMITS, 0)
            assert (await session.run(code)).status is status
            await session.close()
        await sandbox.close()

    asyncio.run(scenario())


def test_the_decoder_is_loaded_once_and_again_when_it_was_lost(given: dict[str, Media]) -> None:
    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig(options={"max_groups": 0}))

        async def groups_after_a_session() -> list[int]:
            session = await sandbox.open(given, LIMITS, 0)
            assert (await session.run(f"len({NAME})")).output == "48\n"
            await session.close()
            return children(sandbox.pid or 0)

        [first] = await groups_after_a_session()
        assert await groups_after_a_session() == [first]
        os.kill(first, signal.SIGKILL)
        while children(sandbox.pid or 0):
            await asyncio.sleep(0.01)
        [second] = await groups_after_a_session()
        assert second != first
        await sandbox.close()

    asyncio.run(scenario())


def test_the_decoder_can_be_loaded_from_the_start(given: dict[str, Media]) -> None:
    async def scenario() -> None:
        sandbox = ZygoteSandbox(SandboxConfig(options={"preload": ["av"]}))
        session = await sandbox.open(given, LIMITS, 0)
        assert (await session.run(f"len({NAME})")).output == "48\n"
        await session.close()
        assert children(sandbox.pid or 0) == []
        await sandbox.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("runs", "total", "want"),
    [
        (((0, 2), (9, 9)), 4, frames(0, 1, 2, 9)),
        (((60, 2**32 - 1),), 2**32 - 60, frames(60, 61, 62, 63)),
        (((60, 63),), 2**32 - 1, VideoFrames(NAME, (60, 61, 62, 63), 60)),
        (((64, 70),), 7, None),
        ((), 0, None),
        (((3, 3),), 3, VideoFrames(NAME, (3,), 2)),
    ],
)
def test_claims_are_cut_to_the_video(
    runs: tuple[tuple[int, int], ...], total: int, want: VideoFrames | None
) -> None:
    assert known_frames(Frames(NAME, runs, total), {NAME: a_video()}) == want


def test_claims_about_what_is_no_video_say_nothing() -> None:
    bindings = {NAME: a_video(), "image_clue_0": picture()}
    for name in ("image_clue_0", "video_clue_1", ""):
        assert known_frames(Frames(name, ((0, 1),), 2), bindings) is None


def test_too_many_frames_are_counted_and_left_out() -> None:
    many = Media("video", "0" * 64, 2, 2, None, VideoFacts(2**20, 30.0, 1.0))
    found = known_frames(Frames(NAME, ((5, 2**20 - 1),), 2**20 - 5), {NAME: many})
    assert found is not None
    assert (len(found.frames), found.frames[0]) == (MAX_FRAMES, 5)
    assert found.num_left_out == 2**20 - 5 - MAX_FRAMES
