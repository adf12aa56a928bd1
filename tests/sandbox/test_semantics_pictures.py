"""What a cell shows: every spelling, the limits, and where pictures come from."""

from __future__ import annotations

import pytest
from semantics_bench import LIMITS, SHOW, Bench, picture, smooth

from pyvision_rl.media import open_image
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.types import ExecStatus, ImageSource


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
        "import matplotlib as m; m.use('TkAgg'); m.rcParams['backend'] = 'agg'\n" + SHOW,
        "import matplotlib\nmatplotlib.use(backend='Agg', force=True)\n" + SHOW + "plt.show()",
        "plt.ion()\n" + SHOW + "plt.draw(); plt.pause(0.001)",
        SHOW + "display(plt.gcf())",
        SHOW + "plt.gcf().canvas.manager.show()",
        "import pylab\npylab.imshow(image_clue_0); pylab.show()",
        "fig = plt.figure()\nplt.imshow(image_clue_0)\nplt.show(fig)",
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
        "from PIL import ImageShow\nImageShow.show(image_clue_0)",
        "from IPython.display import display\ndisplay(image_clue_0)",
        "import IPython\nIPython.display.display(image_clue_0)",
        "from IPython.core.display import display\ndisplay(image_clue_0)",
        "from IPython.display import Image as I, display\nimport io\n"
        "f = io.BytesIO(); image_clue_0.save(f, 'PNG'); display(I(data=f.getvalue()))",
        "from IPython.display import Image as I\nimage_clue_0.save('a.png')\nI(filename='a.png')",
        "from IPython.display import Image as I\nimage_clue_0.save('a.png')\nI('a.png')",
        "class P:\n    def __init__(s, i): s.i = i\n"
        "    def _repr_png_(s): return s.i._repr_png_()\nP(image_clue_0)",
        "class P:\n    def _repr_png_(s): return image_clue_0._repr_png_(), {}\ndisplay(P())",
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
    makes = ("figure()", "subplots()", "gca()", "figure(figsize=(2, 1.5))")
    makes += (
        "subplots(figsize=[3, 2])",
        "figure(figsize=(0.5, 4))",
        "figure(figsize=(2, 1, 'in'))",
    )
    codes = [body.format(make) for make in makes]
    # A new object for an rcParam makes every figure be built from scratch, to the same values.
    anew = "plt.rcParams['figure.figsize'] = [1.12, 1.12]\n"
    limits = SandboxLimits(figure={"xtick.bottom": True, "axes.spines.left": True})
    for other in (LIMITS, limits):
        early = [bench.cell(code, limits=other) for code in codes]
        late = [bench.cell(anew + code, limits=other) for code in codes]
        assert [e.images for e in early] == [e.images for e in late]
        assert all(len(e.images) == 1 for e in early)


@pytest.mark.parametrize("size", ["(0, 1)", "(1,)", "(float('nan'), 1)", "'wide'", "(1e9, 1e9)"])
def test_a_size_that_no_figure_can_have_is_answered_as_matplotlib_does(
    bench: Bench, size: str
) -> None:
    code = f"plt.figure(figsize={size}); plt.imshow(image_clue_0); plt.show()\n"
    early = bench.cell("x = 1\n" + code)
    late = bench.cell("plt.rcParams['figure.figsize'] = [1.12, 1.12]\n" + code)
    assert early.images == late.images == ()
    assert (early.status, early.error, early.output) == (late.status, late.error, late.output)


def test_changed_rc_params_apply_to_figures_made_in_advance(bench: Bench) -> None:
    code = "plt.rcParams['figure.figsize'] = (2, 1)\n" + SHOW
    assert [(m.width, m.height) for m in bench.cell(code).images] == [(100, 50)]


def test_a_session_s_own_rc_params_are_laid_over_the_configured(bench: Bench) -> None:
    limits = SandboxLimits(figure={"figure.figsize": [2, 1]})
    assert [(m.width, m.height) for m in bench.cell(SHOW, limits=limits).images] == [(100, 50)]


def test_a_picture_that_draws_nothing_is_written_as_text(bench: Bench) -> None:
    code = "class P:\n    def _repr_png_(s): return None\n    def __repr__(s): return 'p'\nP()"
    assert bench.cell(code).output == "p\n"


def test_words_of_ipython_are_written_as_text(bench: Bench) -> None:
    code = """
    from IPython.display import HTML, Markdown, clear_output, display
    from IPython import get_ipython
    clear_output(wait=True)
    display(HTML('<b>'), Markdown('# a'), 3)
    get_ipython() is None
    """
    assert bench.cell(code).output == "<b>\n# a\n3\nTrue\n"


@pytest.mark.parametrize("width", [0, -1])
def test_no_picture_of_nothing_is_shown(bench: Bench, width: int) -> None:
    result = bench.cell(f"image_clue_0.crop((5, 5, {5 + width}, 9)).show()")
    assert result.images == ()
    assert result.status in (ExecStatus.OK, ExecStatus.RAISED)


@pytest.mark.parametrize(("width", "shown"), [(2000, 1), (2001, 0)])
def test_a_picture_too_long_and_narrow_is_reported_not_raised(
    bench: Bench, width: int, shown: int
) -> None:
    result = bench.cell(f"Image.new('RGB', ({width}, 10)).show()\nprint('on')")
    assert (result.status, len(result.images)) == (ExecStatus.OK, shown)
    said = "[an image of 2001x10 pixels was not shown: one side may be at most 200 times the other]"
    assert result.output == ("on\n" if shown else f"{said}\non\n")


CV2 = "import cv2\n"
BGR = "a = np.asarray(image_clue_0)[..., ::-1].copy()\n"


@pytest.mark.parametrize(
    "code",
    [
        "cv2.imshow('w', a); cv2.waitKey(0); cv2.destroyAllWindows()",
        "cv2.namedWindow('w'); cv2.imshow('w', a)",
        "cv2.imshow('w', a / 255.0)",
        "cv2.imshow('w', a.astype(np.uint16) * 256)",
        "cv2.imshow('w', np.dstack([a, a[..., 0]]))",
    ],
)
def test_opencv_shows_its_pictures_with_the_colours_in_order(bench: Bench, code: str) -> None:
    pytest.importorskip("cv2")
    result = bench.cell(CV2 + BGR + code)
    assert (result.error, result.images) == ("", (picture(),))


def test_opencv_shows_grey_and_refuses_what_is_no_picture(bench: Bench) -> None:
    pytest.importorskip("cv2")
    code = "cv2.imshow('w', np.full((2, 3), 7, np.uint8))\ncv2.imshow('w', np.zeros(5))"
    result = bench.cell(CV2 + code)
    assert open_image(result.images[0]).getpixel((0, 0)) == (7, 7, 7)
    assert (result.status, "ValueError: imshow" in result.error) == (ExecStatus.RAISED, True)


# Where pictures come from

CROP = "c = image_clue_0.crop((40, 30, 240, 180))\n"
BOX = (40, 30, 240, 180)
AXES = SandboxLimits(
    figure={
        "figure.figsize": [6.4, 4.8],
        "figure.dpi": 100,
        "figure.subplot.left": 0.125,
        "figure.subplot.right": 0.9,
        "figure.subplot.bottom": 0.11,
        "figure.subplot.top": 0.88,
        **{f"axes.spines.{side}": True for side in ("left", "right", "top", "bottom")},
    }
)


@pytest.mark.parametrize(
    ("code", "box"),
    [
        ("image_clue_0.show()", (0, 0, 400, 300)),
        (CROP + "c.show()", BOX),
        (CROP + "display(c.crop((10, 20, 60, 70)))", (50, 50, 100, 100)),
        (CROP + "c.resize((400, 300)).show()", BOX),
        (CROP + "c.resize((800, 600)).crop((40, 80, 240, 280)).show()", (50, 50, 100, 100)),
        ("image_clue_0.resize((100, 75), box=(40, 30, 240, 180)).show()", BOX),
        (CROP + "c.thumbnail((100, 100)); c.show()", BOX),
        (CROP + "c.copy().convert('RGB').show()", BOX),
        (CROP + "plt.imshow(c); plt.show()", BOX),
        (CROP + "plt.imshow(c); plt.axis('off'); plt.title('t')", BOX),
        (CROP + "fig, ax = plt.subplots(); ax.imshow(c); fig", BOX),
        ("plt.imshow(image_clue_0); plt.xlim(40, 240); plt.ylim(180, 30)", BOX),
        ("from PIL import ImageOps\nImageOps.crop(image_clue_0, 30).show()", (30, 30, 370, 270)),
        ("plt.imshow(np.asarray(image_clue_0)[30:180, 40:240])", BOX),
        ("a = np.array(image_clue_0)[10:]; plt.imshow(a[20:170, 40:240])", BOX),
        ("Image.fromarray(np.array(image_clue_0)[30:180, 40:240]).show()", BOX),
        ("plt.imshow(np.array(image_clue_0))", (0, 0, 400, 300)),
    ],
)
@pytest.mark.parametrize("limits", [LIMITS, AXES], ids=["bare", "axes"])
def test_a_shown_part_is_named_and_verified(
    bench: Bench, code: str, box: tuple[int, int, int, int], limits: SandboxLimits
) -> None:
    result = bench.cell(code, bindings={"image_clue_0": smooth()}, limits=limits)
    assert result.error == ""
    [source] = result.sources
    assert source is not None
    assert (source.name, source.verified) == ("image_clue_0", True)
    assert all(abs(a - b) <= 1 for a, b in zip(source.box, box, strict=True)), source.box


@pytest.mark.parametrize(
    "code",
    [
        "c.paste((255, 0, 0), (0, 0, 200, 150)); c.show()",
        "c.putalpha(0); c.show()",
        "plt.imshow(c); plt.plot([0, 200], [0, 150], lw=300); plt.show()",
        "c._pvrl_tag = ('image_clue_0', 0, 0, 400, 300); c.show()",
        "c._pvrl_tag = ('image_clue_0', 200, 100, 400, 250); c.show()",
        "c = Image.new('RGB', (200, 150)); c._pvrl_tag = ('image_clue_0', *BOX); c.show()",
        "c.convert('L').show()",
        "c.crop((150, 100, 300, 250)).show()",
    ],
)
def test_a_picture_that_does_not_show_the_part_is_not_verified(bench: Bench, code: str) -> None:
    code = f"BOX = {BOX}\n{CROP}{code}"
    result = bench.cell(code, bindings={"image_clue_0": smooth()})
    assert result.error == ""
    [source] = result.sources
    assert source is None or not source.verified


@pytest.mark.parametrize(
    "code",
    [
        "Image.new('RGB', (9, 9)).show()",
        "c.rotate(20).show()",
        "Image.fromarray(np.asarray(c)).show()",
        "plt.imshow(np.asarray(image_clue_0)[::2, ::2])",
        "plt.imshow(np.asarray(image_clue_0)[..., ::-1])",
        "plt.imshow(np.zeros((3, 4, 3), np.uint8))",
        "plt.imshow(np.asfortranarray(np.asarray(image_clue_0))[5:9, 5:9])",
        "plt.imshow(255 - np.asarray(image_clue_0)[30:180, 40:240])",
        "plt.imshow(np.asarray(image_clue_0).transpose(1, 0, 2))",
        "fig, axes = plt.subplots(1, 2); axes[0].imshow(c); axes[1].imshow(c)",
        "plt.plot([1, 2])",
        "plt.imshow(c, origin='lower')",
        "c._pvrl_tag = 'x'; c.show()",
        "c._pvrl_tag = ('image_clue_0', 1e300, 0, float('nan'), 2); c.show()",
        "c._pvrl_tag = ('image_clue_9', 0, 0, 5, 5); c.show()",
        "c._pvrl_tag = ('x' * 999, 0, 0, 5, 5); c.show()",
        "c._pvrl_tag = ('image_clue_0', 500, 500, 600, 600); c.show()",
    ],
)
def test_a_picture_of_unknown_origin_has_no_source(bench: Bench, code: str) -> None:
    result = bench.cell(CROP + code, bindings={"image_clue_0": smooth()})
    assert (result.error, result.sources) == ("", (None,))


def test_a_crop_of_a_shown_image_names_that_image(bench: Bench) -> None:
    code = CROP + "c.show()\nimage_clue_1.crop((1, 2, 60, 50)).show()"
    result = bench.cell(code, bindings={"image_clue_0": smooth()})
    assert result.sources[1] == ImageSource("image_clue_1", (1, 2, 60, 50), verified=True)
