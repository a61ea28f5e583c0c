"""Invented stage names, in Hangul and in Latin letters (Revised Romanization, simplified)."""

from labkit.synth.draws import stream

_FAMILY = (
    "김 Kim,이 Lee,박 Park,최 Choi,정 Jung,강 Kang,조 Jo,윤 Yoon,장 Jang,임 Lim,한 Han,"
    "오 Oh,서 Seo,신 Shin,권 Kwon,황 Hwang,안 Ahn,송 Song,류 Ryu,홍 Hong,전 Jeon,고 Ko,"
    "문 Moon,양 Yang,손 Son,배 Bae,백 Baek,허 Heo,남 Nam,심 Shim,노 Noh,하 Ha,곽 Gwak,"
    "성 Sung,차 Cha,주 Joo,우 Woo,구 Koo,나 Na,민 Min,유 Yoo,진 Jin,지 Ji,엄 Eom,채 Chae,"
    "원 Won,천 Cheon,방 Bang,공 Gong,현 Hyun"
)
_FIRST = (
    "가 ga,나 na,다 da,라 ra,로 ro,루 ru,마 ma,미 mi,민 min,바 ba,별 byeol,보 bo,빛 bit,"
    "새 sae,서 seo,설 seol,세 se,소 so,솔 sol,수 su,슬 seul,시 si,아 a,여 yeo,연 yeon,"
    "예 ye,온 on,유 yu,윤 yun,은 eun,이 i,자 ja,재 jae,정 jeong,주 ju,준 jun,지 ji,"
    "진 jin,찬 chan,채 chae,태 tae,하 ha,한 han,해 hae,현 hyeon,호 ho,희 hui,건 geon,"
    "규 gyu,기 gi,노 no,도 do,동 dong,라온 raon,모 mo,승 seung,영 yeong,우 u,원 won,"
    "다온 daon,리 ri,벼리 byeori,나래 narae,초 cho,효 hyo"
)
_SECOND = (
    "늘 neul,람 ram,름 reum,린 rin,비 bi,빈 bin,율 yul,솔 sol,슬 seul,온 on,원 won,"
    "윤 yun,은 eun,인 in,주 ju,준 jun,진 jin,찬 chan,하 ha,한 han,현 hyeon,호 ho,희 hui,"
    "결 gyeol,경 gyeong,나 na,다 da,담 dam,데 de,도 do,라 ra,루 ru,리 ri,린아 rina,"
    "맑음 malgeum,별 byeol,봄 bom,빛 bit,새 sae,샘 saem,설 seol,성 seong,수 su,아 a,"
    "안 an,영 yeong,오 o,우 u,울 ul,유 yu,이 i,재 jae,정 jeong,훈 hun,휘 hwi,혁 hyeok,"
    "겸 gyeom,민 min"
)


def _table(text: str) -> list[tuple[str, str]]:
    return [tuple(pair.split(" ")) for pair in text.split(",")]


_PARTS = (_table(_FAMILY), _table(_FIRST), _table(_SECOND))
_COUNT = len(_PARTS[0]) * len(_PARTS[1]) * len(_PARTS[2])


def stage_name(seed: int, number: int) -> tuple[str, str]:
    """Stage name of star `number`: ("Seo Haneul", "서하늘"), different for every number.

    Within one seed, numbers walk through all combinations in a shuffled order before a name
    comes back, then with a Roman numeral's stand-in: "Seo Haneul 2".
    """
    lap, place = divmod(number, _COUNT)
    rng = stream(seed, 77)
    # An affine walk with a step that shares no factor with the count visits every name once.
    step = int(rng.integers(_COUNT // 3, _COUNT // 2))
    while _gcd(step, _COUNT) != 1:
        step += 1
    place = (place * step + int(rng.integers(_COUNT))) % _COUNT
    place, family = divmod(place, len(_PARTS[0]))
    second, first = divmod(place, len(_PARTS[1]))
    parts = [_PARTS[0][family], _PARTS[1][first], _PARTS[2][second]]
    latin = f"{parts[0][1]} {(parts[1][1] + parts[2][1]).capitalize()}"
    hangul = "".join(part[0] for part in parts)
    return (f"{latin} {lap + 1}", f"{hangul} {lap + 1}") if lap else (latin, hangul)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a
