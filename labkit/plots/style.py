"""What all figures share: a figure that notebooks show, colours, text that the fonts can show."""

import functools
import io
import unicodedata

import matplotlib
from cycler import cycler
from matplotlib import font_manager
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
TARGET, IMPOSTER, BLACK, GREY = PALETTE[0], PALETTE[4], PALETTE[6], "#8A8A8A"
DPI = 110
HANGUL_FONTS = (
    *("Noto Sans KR", "Noto Sans CJK KR", "Noto Sans CJK JP", "NanumGothic"),
    *("Malgun Gothic", "Apple SD Gothic Neo", "UnDotum"),
)
STYLE = {
    "font.size": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(linestyle=("-", "--", "-.", ":")) * cycler(color=PALETTE),
    "grid.color": "#DDDDDD",
    "image.interpolation": "antialiased",
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a `$` in a person's name is no formula
}


class LabFigure(Figure):
    """A matplotlib figure that a notebook shows by itself, once, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> LabFigure:
    """Return an empty white figure, in inches, laid out so that nothing overlaps."""
    figure = LabFigure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def styled(draw):
    """Draw under the kit's style and leave matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def inside(*args, **kwargs):
        with matplotlib.rc_context({**STYLE, "font.family": fonts()}):
            figure = draw(*args, **kwargs)
            for _ in range(2):  # ticks are made in this style; the layout settles
                figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return inside


@functools.cache
def fonts() -> list[str]:
    """Return matplotlib's own font and the first installed one that has Hangul, if any."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *[name for name in HANGUL_FONTS if name in installed][:1]]


def text(value: object, length: int = 100) -> str:
    """Return a name as the fonts here can show it, without line breaks, shortened in the middle.

    Without a Korean font, Hangul is spelt in Latin letters; other unknown signs become `?`.
    """
    shown = "".join(map(_drawable, unicodedata.normalize("NFC", str(value))))
    tail = (length - 1) // 2
    return shown if len(shown) <= length else f"{shown[: length - 1 - tail]}…{shown[-tail:]}"


def _drawable(sign: str) -> str:
    if sign.isprintable() and (ord(sign) < 0x0590 or sign in "–—…•°≥≤±" or len(fonts()) > 1):
        return sign
    name = unicodedata.name(sign, "")
    return name.removeprefix("HANGUL SYLLABLE ").lower() if name.startswith("HANGUL S") else "?"
