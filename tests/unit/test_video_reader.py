"""decord's and OpenCV's APIs over bound videos, and which frames an array shows."""

from __future__ import annotations

import os
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips import counting, write_clip

pytest.importorskip("av", reason="install the extra: sandbox")
from pyvision_rl.sandbox.inside import video
from pyvision_rl.sandbox.inside.frames import FrameReader
from pyvision_rl.sandbox.inside.video import VideoError, frames_of

NUM = 24
NAME = "video_clue_0"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_clip(
        tmp_path_factory.mktemp("clips") / "clip.mp4",
        counting(NUM),
        bf="2",
        g="8",
        sc_threshold="0",
    )


@pytest.fixture(scope="module")
def frames(path):
    """Return every frame."""
    return FrameReader(path).get(range(NUM))


@pytest.fixture
def fetched():
    return []


@pytest.fixture
def reader(path, fetched):
    """Return a bound video; decord and OpenCV are as they were afterwards."""
    cv2 = pytest.importorskip("cv2", reason="install the extra: sandbox")
    before = dict(vars(cv2))
    video.FETCHED = lambda name, numbers: fetched.append((name, list(numbers)))
    video.install()
    yield video.open_video(os.open(path, os.O_RDONLY), NAME)
    video.FETCHED = lambda name, numbers: None
    vars(cv2).update(before)
    video._BOUND.clear()
    for name in [n for n in sys.modules if n.partition(".")[0] == "decord"]:
        del sys.modules[name]


def same(got, want):
    return np.array_equal(np.asarray(got), want)


def test_one_frame_is_read_by_its_number(reader, frames):
    assert len(reader) == NUM
    for index in (0, 5, -1, -NUM, np.int64(7), np.uint8(3)):
        assert same(reader[index].asnumpy(), frames[index])


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(2, 9, 3), slice(-4, None), slice(9, 2), [1, 5, 1], np.array([3, -1])],
)
def test_several_frames_are_read_at_once(reader, frames, index):
    assert same(reader[index].asnumpy(), frames[index])


@given(indices=st.lists(st.integers(-NUM, NUM - 1), max_size=8))
@settings(max_examples=20)
def test_a_batch_is_in_the_order_asked_for(path, frames, indices):
    reader = video.VideoReader(str(path))
    want = frames[np.array(indices, int)]
    for form in (list, tuple, np.array):
        assert same(reader.get_batch(form(indices)).asnumpy(), want)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda vr: vr[NUM], f"Index: {NUM} out of bound: {NUM}"),
        (lambda vr: vr[-NUM - 3], f"Index: -3 out of bound: {NUM}"),
        (lambda vr: vr.get_batch([0, NUM, 99]), f"Out of bound indices: [{NUM} 99]"),
        (lambda vr: vr.get_batch([0, -99]), "Invalid negative indices: [-99]"),
        (lambda vr: vr.get_frame_timestamp([NUM]), f"Out of bound indices: [{NUM}]"),
        (lambda vr: vr.seek(NUM), f"Out of bound indices: [{NUM}]"),
    ],
)
def test_numbers_out_of_range_are_told_as_decord_tells_them(reader, ask, words):
    with pytest.raises(IndexError) as caught:
        ask(reader)
    assert str(caught.value) == words


def test_a_frame_s_number_may_be_any_whole_number(reader, frames):
    for number in (5.0, np.float32(5), np.array(5), np.int8(5), Fraction(5)):
        assert same(reader[number].asnumpy(), frames[5])
    assert same(reader[np.array(-1)].asnumpy(), frames[-1])
    with pytest.raises(TypeError, match=r"a frame's number is a whole number, not 5\.5"):
        reader[5.5]


def test_a_recording_that_begins_within_a_group_of_pictures_is_read(tmp_path, frames):
    import av

    # Three frames are shown before the first key frame and stored behind it: they refer to what was
    # cut off, and are never decoded.
    params = "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0:log-level=none"
    whole = write_clip(tmp_path / "whole.mkv", frames, codec="libx265", **{"x265-params": params})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if packet.dts is not None and keys > 1:
                packet.stream = stream
                target.mux(packet)
    cut = video.VideoReader(str(tmp_path / "cut.mkv"))
    assert (len(cut), cut.get_key_indices()) == (19, [3, 11])
    assert "64x48" in repr(cut)
    with pytest.raises(VideoError, match="frame 0 cannot be decoded"):
        cut[0]
    for number in (3, 10, 18):
        shown = cut[number].asnumpy().astype(int)
        assert np.abs(shown - frames[number + NUM - 19]).mean() < 12


def test_frames_follow_each_other(reader, frames):
    assert same(np.stack(list(reader)), frames)
    reader.seek(5)
    assert same(reader.next(), frames[5])
    reader.skip_frames(2)
    assert same(reader.next(), frames[8])
    reader.seek_accurate(NUM - 1)
    assert same(reader.next(), frames[-1])
    with pytest.raises(StopIteration):
        reader.next()


def test_facts_are_told(reader):
    assert reader.get_avg_fps() == 8.0
    assert reader.get_key_indices() == [0, 8, 16]
    assert np.allclose(reader.get_frame_timestamp(3), [0.375, 0.5])
    assert reader.get_frame_timestamp([0, 1]).shape == (2, 2)
    assert reader.get_frame_timestamp(slice(0, 6, 2)).shape == (3, 2)
    assert repr(reader) == f"<VideoReader {NAME}: {NUM} frames, 8 fps, 3.0 s, 64x48>"


def test_models_find_decord_where_they_look_for_it(reader, frames, path):
    import decord
    from decord import VideoReader, cpu, gpu
    from decord.bridge import set_bridge

    for source in (reader, NAME, f"{NAME}.mp4", f"/data/{NAME}.mp4", str(path)):
        again = VideoReader(source, ctx=cpu(0), num_threads=4)
        assert same(again[4].asnumpy(), frames[4])
    with path.open("rb") as file:
        assert same(VideoReader(file, gpu(0))[4].asnumpy(), frames[4])
    assert VideoReader(NAME, width=20, height=10)[0].shape == (10, 20, 3)
    assert VideoReader(NAME, width=20).get_batch([0, 1]).shape == (2, 48, 20, 3)
    set_bridge("native")
    decord.logging.set_level(decord.logging.QUIET)
    assert decord.logging.QUIET == -8
    with pytest.raises(decord.DECORDError, match=f"no_video.*{NAME}"):
        VideoReader("no_video.mp4")


def test_readers_of_one_video_are_not_in_each_others_way(reader, frames):
    other = video.VideoReader(NAME)
    for number in (9, 3, 20, 4):
        assert same(reader[number], frames[number])
        assert same(other.next(), frames[other._next - 1])


def test_frames_can_come_as_tensors(reader, frames):
    torch = pytest.importorskip("torch")
    import decord

    with decord.bridge.use_torch():
        batch = reader.get_batch([1, 2])
        assert isinstance(batch, torch.Tensor)
        assert same(batch.numpy(), frames[1:3])
    assert isinstance(reader[0], np.ndarray)
    with pytest.raises(ImportError, match="tensorflow is not available"):
        decord.bridge.set_bridge("tensorflow")
    with decord.bridge.use_torch(), pytest.raises(ImportError, match="frames are torch's tensors"):
        decord.bridge.set_bridge("tensorflow")


def test_what_decord_has_for_sound_is_there_and_says_why_not(reader):
    from decord import AudioReader, VideoLoader, VideoReader

    assert len(VideoReader(NAME)) == NUM
    for kind in (AudioReader, VideoLoader):
        with pytest.raises(VideoError, match="use VideoReader"):
            kind(f"{NAME}.mp4")


def test_every_fetch_is_told(reader, fetched):
    reader[3]
    reader.get_batch([5, -1, 5])
    assert fetched == [(NAME, [3]), (NAME, [5, NUM - 1, 5])]


def test_opencv_reads_bound_videos(reader, frames, path):
    import cv2

    capture = cv2.VideoCapture(f"{NAME}.mp4")
    assert capture.isOpened()
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == NUM
    assert capture.get(cv2.CAP_PROP_FPS) == 8
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 64
    assert capture.get(cv2.CAP_PROP_FRAME_HEIGHT) == 48
    read, frame = capture.read()
    assert read
    assert same(frame[..., ::-1], frames[0])
    assert capture.get(cv2.CAP_PROP_POS_FRAMES) == 1
    assert capture.set(cv2.CAP_PROP_POS_FRAMES, NUM - 1)
    assert capture.grab()
    assert same(capture.retrieve()[1][..., ::-1], frames[-1])
    assert capture.read() == (False, None)
    capture.set(cv2.CAP_PROP_POS_MSEC, 1000)
    assert same(capture.read()[1][..., ::-1], frames[8])
    assert capture.get(cv2.CAP_PROP_POS_MSEC) == 1000
    capture.release()
    assert not capture.isOpened()
    # Any other source is OpenCV's own affair.
    assert same(cv2.VideoCapture(str(path)).read()[1][..., ::-1], frames[0])
    assert not cv2.VideoCapture("no_video.mp4").isOpened()


def test_sampling_by_time_ends_where_the_video_does(reader, frames, path):
    import cv2

    for source in (NAME, str(path)):  # ours, and OpenCV's own
        capture, read = cv2.VideoCapture(source), []
        for second in range(100):
            capture.set(cv2.CAP_PROP_POS_MSEC, second * 1000)
            more, frame = capture.read()
            if not more:
                break
            read.append(frame)
        assert len(read) == 3
        assert same(read[2][..., ::-1], frames[16])
    assert capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"h264")
    ours = cv2.VideoCapture(NAME)
    assert ours.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"h264")
    ours.set(cv2.CAP_PROP_POS_AVI_RATIO, 1)
    assert ours.get(cv2.CAP_PROP_POS_FRAMES) == NUM
    assert ours.read() == (False, None)


def test_opencv_fills_a_picture_of_the_right_size(reader, frames):
    import cv2

    capture, picture = cv2.VideoCapture(NAME), np.zeros((48, 64, 3), np.uint8)
    assert capture.read(image=picture)[0]
    assert same(picture[..., ::-1], frames[0])
    assert capture.grab()
    assert capture.retrieve(picture, flag=0)[0]
    assert same(picture[..., ::-1], frames[1])
    assert same(capture.read(np.zeros((4, 4, 3), np.uint8))[1][..., ::-1], frames[2])


def test_a_file_that_code_wrote_is_read_though_it_has_a_video_s_name(reader, tmp_path, monkeypatch):
    import cv2

    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / f"{NAME}.mp4", counting(5, 32, 24))
    assert cv2.VideoCapture(f"{NAME}.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert len(video.VideoReader(f"{NAME}.mp4")) == 5
    assert len(video.VideoReader(NAME)) == NUM


def test_opencv_takes_its_arguments_by_name(reader, frames, path):
    import cv2

    ours = cv2.VideoCapture(filename=NAME, apiPreference=cv2.CAP_ANY)
    assert same(ours.read()[1][..., ::-1], frames[0])
    assert ours.open(filename=f"{NAME}.mp4", apiPreference=cv2.CAP_FFMPEG)
    theirs = cv2.VideoCapture(filename=str(path))
    assert same(theirs.read()[1][..., ::-1], frames[0])
    empty = cv2.VideoCapture()
    assert not empty.isOpened()
    assert empty.open(NAME)


def test_an_array_in_another_order_knows_its_frames(reader):
    picture = reader[3].asnumpy().transpose(2, 0, 1)
    assert frames_of(picture / 255.0) == frames_of(reader[3].asnumpy())
    assert frames_of((picture / 255.0)[::-1, 1:]) == frames_of(reader[3].asnumpy())


def test_opencv_passes_on_which_frames_an_array_shows(reader):
    import cv2

    capture = cv2.VideoCapture(NAME)
    capture.set(cv2.CAP_PROP_POS_FRAMES, 6)
    _, frame = capture.read()
    assert frames_of(frame) == (NAME, (6,))
    rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    assert frames_of(cv2.resize(rgb, (20, 20))) == (NAME, (6,))
    cv2.putText(frame, "x", (5, 20), cv2.FONT_HERSHEY_PLAIN, 1, (0, 0, 0))
    plain = np.zeros((4, 4, 3), np.uint8)
    assert frames_of(cv2.resize(plain, (2, 2))) is None


SHOWN = {
    "one": (lambda vr: vr[3], (3,)),
    "batch": (lambda vr: vr.get_batch([9, 2, 2]), (2, 9)),
    "member": (lambda vr: vr.get_batch([9, 2, 5])[1], (2,)),
    "last": (lambda vr: vr.get_batch([9, 2, 5])[-1], (5,)),
    "part": (lambda vr: vr.get_batch([9, 2, 5])[1:, 4:9, ::2], (2, 5)),
    "stepped": (lambda vr: vr.get_batch([9, 2, 5])[::2], (5, 9)),
    "backwards": (lambda vr: vr.get_batch([9, 2, 5])[::-1][0], (5,)),
    "channel": (lambda vr: vr.get_batch([9, 2, 5])[1, ..., 0], (2,)),
    "picked": (lambda vr: vr.get_batch([9, 2, 5])[[2, 0]], (5, 9)),
    "picked member": (lambda vr: vr.get_batch([9, 2, 5])[[2, 0]][1], (9,)),
    "masked": (lambda vr: vr.get_batch([9, 2, 5])[np.array([True, False, True])][1], (5,)),
    "grid": (lambda vr: vr[0:8].reshape(2, 4, 48, 64, 3)[1, 2], (6,)),
    "sheet": (lambda vr: np.hstack(np.hstack(vr[0:4].reshape(2, 2, 48, 64, 3))), (0, 1, 2, 3)),
    "tall": (lambda vr: vr[0:4].reshape(-1, 64, 3)[48:97], (1, 2)),
    "floats": (lambda vr: vr[0:4].astype(np.float32)[2], (2,)),
    "scaled": (lambda vr: (vr[0:4] / 255)[3], (3,)),
    "grid scaled": (lambda vr: (vr[0:8].reshape(2, 4, 48, 64, 3) / 255)[1, 2], (6,)),
    "copied": (lambda vr: vr[0:4].copy()[1], (1,)),
    "channels first": (lambda vr: vr[0:4].transpose(0, 3, 1, 2)[1], (1,)),
    "side by side": (lambda vr: np.concatenate([vr[1], vr[7]], axis=1), (1, 7)),
    "stacked": (lambda vr: np.stack([vr[1], vr[7]])[1], (7,)),
    "appended": (lambda vr: np.concatenate([vr[1:3], vr[7:9]])[3], (8,)),
    "difference": (lambda vr: np.abs(vr[1].astype(int) - vr[7]), (1, 7)),
    "mean": (lambda vr: vr[2:5].mean(axis=0), (2, 3, 4)),
    "turned": (lambda vr: np.rot90(vr[2]), (2,)),
    "clipped": (lambda vr: np.clip(vr[2] * 1.5, 0, 255).astype(np.uint8), (2,)),
    # What was in one part is in another: any of the frames may be there.
    "rolled": (lambda vr: np.roll(vr[0:4], 1, axis=0)[0], (0, 1, 2, 3)),
    "taken": (lambda vr: np.take(vr[0:4], [3, 2, 1, 0], axis=0)[0], (0, 1, 2, 3)),
    "taken by its method": (lambda vr: vr[0:4].take([3, 2, 1, 0], axis=0)[0], (0, 1, 2, 3)),
    "sorted": (lambda vr: np.sort(vr[0:4], axis=0)[0], (0, 1, 2, 3)),
    "flipped": (lambda vr: np.flip(vr[0:4], axis=0)[0], (3,)),
    "plain view": (lambda vr: np.asarray(vr[0:4][2]), (2,)),
}


@pytest.mark.parametrize("how", SHOWN)
def test_arrays_know_the_frames_they_show(reader, how):
    make, numbers = SHOWN[how]
    assert frames_of(make(reader)) == (NAME, numbers)


def test_arrays_that_show_no_frames_say_so(reader):
    frame = reader[0]
    for value in (np.zeros_like(frame), np.array([frame, frame]), frame.tolist(), 3, None):
        assert frames_of(value) is None
    assert isinstance(frame.mean(), float)
    assert not isinstance(frame.max(), np.ndarray)


@given(
    numbers=st.lists(st.integers(0, NUM - 1), min_size=1, max_size=6),
    cut=st.tuples(st.integers(0, 5), st.integers(1, 6), st.sampled_from([1, 2, -1])),
)
@settings(max_examples=40, deadline=None)
def test_a_slice_shows_exactly_its_frames(path, numbers, cut):
    video._BOUND[NAME] = FrameReader(path)
    first, length, step = cut
    batch = video.VideoReader(NAME).get_batch(numbers)
    where = slice(first, first + length, step) if step > 0 else slice(None, None, step)
    want = tuple(sorted(set(numbers[where])))
    for made in (batch[where], batch[where].copy(), batch[where] + 1):
        assert frames_of(made) == ((NAME, want) if want else None)


def test_a_video_that_cannot_be_bound_is_told(tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all" * 100)
    with pytest.raises(VideoError, match="not a video"):
        video.open_video(os.open(bad, os.O_RDONLY), "video_clue_9")
