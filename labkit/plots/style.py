"""What all figures share: a figure type that notebooks show, a palette, safe text."""

import functools
import io
import unicodedata

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any kind of colour vision.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#222222", "#8A8A8A"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINES = ("-", "--", "-.", ":")
TARGET, IMPOSTER = BLUE, ORANGE

HANGUL_FONTS = (
    "Noto Sans KR",
    "Noto Sans CJK KR",
    "NanumGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "UnDotum",
)
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "pdf.fonttype": 42,
}
DPI = 110


class LabFigure(Figure):
    """A matplotlib figure that a notebook shows by itself, once, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> LabFigure:
    """An empty white figure, in inches, laid out so that nothing overlaps."""
    return LabFigure(figsize=(width, height), layout="constrained", facecolor="white")


def styled(draw):
    """Draw under the kit's style and leave matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def inside(*args, **kwargs):
        with matplotlib.rc_context({**STYLE, "font.family": list(_families())}):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made and places found now, in this style
            figure.set_layout_engine("none")
            return figure

    return inside


@functools.cache
def _families() -> tuple[str, ...]:
    installed = set(font_manager.get_font_names())
    return ("DejaVu Sans", *(name for name in HANGUL_FONTS if name in installed))


def colour(i: int) -> str:
    return PALETTE[i % len(PALETTE)]


def line(i: int) -> str:
    return LINES[i % len(LINES)]


def text(value: object, length: int | None = None) -> str:
    """A name as the fonts here can show it, without line breaks, shortened in the middle.

    Without a Korean font, Hangul is spelt in Latin letters; other unknown signs become `?`.
    """
    shown = unicodedata.normalize("NFC", str(value))
    if len(_families()) == 1:
        shown = "".join(_latin(sign) for sign in shown)
    shown = "".join(sign if sign.isprintable() else "?" for sign in shown)
    if length is not None and len(shown) > length:
        tail = (length - 1) // 2
        shown = shown[: length - 1 - tail] + "…" + (shown[-tail:] if tail else "")
    return shown


INITIALS = "g kk n d tt r m b pp s ss . j jj ch k t p h".replace(".", "").split(" ")
VOWELS = "a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i".split(" ")
FINALS = "- k k k n n n t l k m l l l p l m p p t t ng t t k t p t".replace("-", "").split(" ")


def _latin(sign: str) -> str:
    """One sign in Latin letters: Hangul syllable by syllable (Revised Romanization)."""
    code = ord(sign) - 0xAC00
    if 0 <= code < 11172:
        return INITIALS[code // 588] + VOWELS[code % 588 // 28] + FINALS[code % 28]
    return sign if ord(sign) < 0x0590 or sign in "–—…•°≥≤±" else "?"
