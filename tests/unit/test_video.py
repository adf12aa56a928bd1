"""Videos are probed and decoded where a bad file can do no harm."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.config import PromptsConfig
from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.types import Media, VideoFacts
from pyvision_rl.video import (
    Worker,
    check_video,
    decoded,
    file_video,
    spread,
    uniform,
    video_frames,
)
from tests.clips import counting, grey_of, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 frames of 64 x 48 pixels, 8 a second."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", counting(50))


def grey(image: Media) -> float:
    assert isinstance(image.source, bytes)
    return float(np.frombuffer(image.source, np.uint8).mean())


def test_a_video_is_named_by_its_bytes_and_knows_its_facts(clip: Path, tmp_path: Path) -> None:
    media = file_video(clip)
    assert (media.kind, media.width, media.height, media.source) == ("video", 64, 48, clip)
    assert media.video == VideoFacts(50, 8.0, 6.25)
    twin = tmp_path / "twin.mp4"
    twin.write_bytes(clip.read_bytes())
    assert file_video(twin) == media
    longer = write_clip(tmp_path / "longer.mp4", counting(51))
    assert file_video(longer) != media


def test_frames_come_in_the_order_asked_for_with_their_times(clip: Path) -> None:
    found = decoded(file_video(clip), [40, 3, 40, 0])
    assert [frame.number for frame in found] == [40, 3, 40, 0]
    assert [frame.time_s for frame in found] == [5.0, 0.375, 5.0, 0.0]
    for frame in found:
        assert abs(grey(frame.image) - grey_of(frame.number)) < 4
    assert video_frames(file_video(clip), []) == []


def test_times_are_those_of_a_variable_frame_rate(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "uneven.mp4", counting(5), 10, pts=[0, 1, 2, 20, 40], bf="2")
    media = file_video(clip)
    assert [f.time_s for f in decoded(media, range(5))] == pytest.approx([0, 0.1, 0.2, 2, 4])


def test_frames_are_scaled_down_within_a_limit_and_never_up(clip: Path) -> None:
    media = file_video(clip)
    sizes = {n: video_frames(media, [1], n)[0] for n in (3072, 3071, 768, 1, 10**6)}
    assert {n: (m.width, m.height) for n, m in sizes.items()} == {
        3072: (64, 48),
        3071: (63, 47),  # 64 * sqrt(3071 / 3072) = 63.99, 47.99
        768: (32, 24),
        1: (1, 1),  # 1.15 x 0.87, a pixel at least
        10**6: (64, 48),
    }


@pytest.mark.parametrize("number", [-1, 50])
def test_there_is_no_frame_beyond_the_ends(clip: Path, number: int) -> None:
    with pytest.raises(IndexError, match=f"no frame {number}; there are 50"):
        video_frames(file_video(clip), [0, number])


def test_what_is_no_video_is_named_with_the_reason(clip: Path, tmp_path: Path) -> None:
    garbage, empty, text = (tmp_path / n for n in ("garbage.mp4", "empty.mp4", "list.m3u8"))
    garbage.write_bytes(os.urandom(4096))
    empty.write_bytes(b"")
    text.write_text(f"#EXTM3U\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n")
    for path, reason in (
        (garbage, "not a video"),
        (empty, "the file is empty"),
        (text, "not a video"),  # it would make the decoder open other files
        (tmp_path / "gone.mp4", "no such file"),
        (tmp_path, "not a regular file"),
    ):
        with pytest.raises(TaskError, match=rf"{path.name}: .*{reason}"):
            file_video(path)


def test_a_video_cut_short_has_the_frames_it_has_and_fails_its_check(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", counting(50), index_first=True)
    assert check_video(whole) == file_video(whole)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:2400])
    facts = file_video(cut).video
    assert facts is not None
    assert 0 < facts.num_frames < 50
    lost = 50 - facts.num_frames
    with pytest.raises(TaskError, match=rf"cut\.mp4: it is cut short: {lost} of 50 frames"):
        check_video(cut)
    # Without an index in front, the header tells how long it was.
    whole = write_clip(tmp_path / "whole.mkv", counting(50))
    assert check_video(whole) == file_video(whole)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(
        TaskError, match=r"cut\.mkv: it is cut short: .* its header tells of 6\.\d s"
    ):
        check_video(cut)
    # One that begins late is whole.
    late = write_clip(tmp_path / "late.mkv", counting(20), pts=range(80, 100))
    assert check_video(late) == file_video(late)
    headless = tmp_path / "headless.mp4"
    headless.write_bytes(write_clip(tmp_path / "late.mp4", counting(50)).read_bytes()[:2000])
    with pytest.raises(TaskError, match=r"headless\.mp4: .*no(t a)? video"):
        file_video(headless)


def test_a_file_that_changed_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", counting(20))
    before = file_video(path)
    write_clip(path, counting(30))
    os.utime(path, ns=(1, 1))
    assert file_video(path).video == VideoFacts(30, 8.0, 3.75)
    with pytest.raises(TaskError, match=r"a\.mp4: changed since"):
        video_frames(before, [0])
    path.unlink()
    with pytest.raises(TaskError, match=r"a\.mp4: no such file"):
        video_frames(before, [0])


def test_ten_hours_are_probed_and_looked_into_quickly(tmp_path: Path) -> None:
    # One frame every ten seconds.
    path = write_clip(
        tmp_path / "long.mp4", counting(3600, 16, 16), Fraction(1, 10), preset="ultrafast", g="50"
    )
    media = file_video(path)
    assert media.video == VideoFacts(3600, 0.1, 36_000.0)
    (frame,) = decoded(media, [3599])
    assert frame.time_s == 35_990.0
    assert abs(grey(frame.image) - grey_of(3599)) < 4


def test_without_av_the_extra_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"needs av.*pyvision-rl\[video\]"):
        file_video(clip)


def test_a_dead_decoder_is_replaced(clip: Path) -> None:
    worker = Worker()
    worker.ask(clip, "facts")
    assert worker.pid is not None
    first = worker.pid
    os.kill(first, signal.SIGKILL)
    time.sleep(0.2)  # until it can be seen
    worker.ask(clip, "facts")
    assert worker.pid not in (first, None)
    worker.end()
    assert worker.pid is None


def test_a_decoder_that_crashes_at_a_file_is_an_error_of_that_file(clip: Path) -> None:
    worker = Worker()
    worker.ask(clip, "facts")
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(TaskError, match=r"clip\.mp4: the decoder crashed \(SIGKILL\)"):
        worker.ask(clip, "facts")
    assert worker.ask(clip, "frames", [7])[0][0]["time_s"] == 0.875
    worker.end()


def test_a_decoder_that_takes_too_long_is_ended(clip: Path) -> None:
    worker = Worker(reply_s=0.0)
    with pytest.raises(TaskError, match=r"clip\.mp4: the decoder took too long"):
        worker.ask(clip, "facts")
    assert worker.pid is None


@given(st.integers(1, 10**6), st.integers(1, 300))
def test_uniform_frames_are_the_centres_of_equal_pieces(num_frames: int, count: int) -> None:
    found = uniform(num_frames, count)
    assert len(found) == min(count, num_frames)
    assert found == sorted(set(found))
    piece = Fraction(num_frames, len(found))
    for k, number in enumerate(found):
        # The frame that is shown at the centre of its piece.
        assert number <= (k + Fraction(1, 2)) * piece < number + 1
    if count < num_frames:
        # As far from the start as from the end, up to the frame itself.
        assert abs(found[0] - (num_frames - 1 - found[-1])) <= 1


def test_uniform_by_hand() -> None:
    assert uniform(8, 4) == [1, 3, 5, 7]  # pieces of 2 frames, centres at 1, 3, 5, 7
    assert uniform(10, 3) == [1, 5, 8]  # pieces of 10 / 3, centres at 1.67, 5, 8.33
    assert uniform(3, 5) == [0, 1, 2]


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"num_frames": 4}, 4),
        ({"num_frames": 100}, 64),
        ({"frames_fps": 2.0}, 16),  # 8 seconds
        ({"frames_fps": 0.01}, 1),
        ({"frames_fps": 8.0}, 32),  # max_frames
        ({"frames_fps": 8.0, "max_frames": 64}, 64),
    ],
)
def test_how_many_frames_a_config_asks_for(config: dict[str, float], count: int) -> None:
    film = Media("video", "f", 56, 56, None, VideoFacts(64, 8.0, 8.0))
    settings = PromptsConfig.model_validate({"context": "frames", **config})
    assert spread(film, settings) == uniform(64, count)


def test_a_relative_path_is_that_of_the_folder_we_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker was started elsewhere and stays there.
    file_video(write_clip(tmp_path / "first.mp4", counting(3)))
    write_clip(tmp_path / "second.mp4", counting(5))
    monkeypatch.chdir(tmp_path)
    media = file_video(Path("second.mp4"))
    assert media.video is not None
    assert media.video.num_frames == 5
