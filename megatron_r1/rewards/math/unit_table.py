"""Table of the known units: exact factors to base units, SI prefixes, English and Chinese names.

A line is `names = factor bases`. Base units are arbitrary words: m, kg and s, but also `dollar` or `celsius`.
°C, °F and K are different bases, as their zeros differ; a month is not a number of days.
"""

from collections.abc import Iterator
from fractions import Fraction

Parsed = tuple[dict[str, int], Fraction]  # powers of the bases, and the factor

_PREFIXES = {
    "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "d": -1, "c": -2, "m": -3, "u": -6, "µ": -6, "μ": -6,
    "n": -9, "p": -12, "f": -15,
}  # fmt: skip
_LONG_PREFIXES = {
    "tera": 12, "giga": 9, "mega": 6, "kilo": 3, "hecto": 2, "deca": 1, "deci": -1, "centi": -2, "milli": -3,
    "micro": -6, "nano": -9, "pico": -12,
}  # fmt: skip
_WITH_PREFIXES = """
m meter metre = m
g gram gramme = 1/1000 kg
s second = s
A ampere amp = A
mol mole = mol
cd candela = cd
Hz hertz = s^-1
N newton = kg m s^-2
Pa pascal = kg m^-1 s^-2
J joule = kg m^2 s^-2
W watt = kg m^2 s^-3
C coulomb = A s
V volt = kg m^2 s^-3 A^-1
F farad = A^2 s^4 kg^-1 m^-2
Ω ohm = kg m^2 s^-3 A^-2
S siemens = A^2 s^3 kg^-1 m^-2
Wb weber = kg m^2 s^-2 A^-1
T tesla = kg s^-2 A^-1
H henry = kg m^2 s^-2 A^-2
L l liter litre = 1/1000 m^3
eV electronvolt = electronvolt
cal calorie = 523/125 kg m^2 s^-2
Wh watthour = 3600 kg m^2 s^-2
B byte = 8 bit
bit = bit
bar = 100000 kg m^-1 s^-2
K kelvin = kelvin
"""
_WITHOUT_PREFIXES = """
kg kilo kilos 公斤 千克 = kg
t ton tonne 吨 = 1000 kg
克 = 1/1000 kg
毫克 = 1/1000000 kg
斤 = 1/2 kg
sec secs 秒 秒钟 = s
min mins minute 分钟 = 60 s
h hr hrs hour 小时 时 个小时 = 3600 s
d day 天 日 = 86400 s
wk week 周 星期 = 604800 s
mo month 个月 月 = month
yr year 年 = 12 month
in inch = 127/5000 m
ft foot feet = 381/1250 m
yd yard = 1143/1250 m
mi mile = 201168/125 m
mph = 1397/3125 m s^-1
kmh kph kmph = 5/18 m s^-1
acre = 316160658/78125 m^2
ha hectare 公顷 = 10000 m^2
lb lbs pound = 45359237/100000000 kg
oz ounce = 45359237/1600000000 kg
cc = 1/1000000 m^3
gal gallon = gallon
qt quart = 1/4 gallon
pt pint = 1/8 gallon
cup = 1/16 gallon
atm = 101325 kg m^-1 s^-2
mmHg = mmHg
kwh = 3600000 kg m^2 s^-2
rpm = rpm
米 公尺 = m
千米 公里 = 1000 m
分米 = 1/10 m
厘米 公分 = 1/100 m
毫米 = 1/1000 m
微米 = 1/1000000 m
升 = 1/1000 m^3
毫升 = 1/1000000 m^3
牛 牛顿 = kg m s^-2
焦 焦耳 = kg m^2 s^-2
瓦 瓦特 = kg m^2 s^-3
千瓦 = 1000 kg m^2 s^-3
伏 伏特 = kg m^2 s^-3 A^-1
安 安培 = A
帕 = kg m^-1 s^-2
亩 = mu
° deg degree 度 = degree
' arcmin arcminute = 1/60 degree
'' arcsec arcsecond = 1/3600 degree
rad radian 弧度 = radian
°c celsius degc 摄氏度 = celsius
°f fahrenheit degf 华氏度 = fahrenheit
$ usd us$ dollar buck 美元 = dollar
¢ cent = 1/100 dollar
€ eur euro 欧元 = euro
£ gbp = sterling
penny pence = 1/100 sterling
¥ 元 yuan rmb cny 人民币 块 块钱 圆 = yuan
角 = 1/10 yuan
yen jpy 日元 = yen
₹ rs inr rupee = rupee
paise = 1/100 rupee
₽ ruble = ruble
₩ won = won
"""
_CHINESE_POWERS = {"平方": 2, "立方": 3}
_CHINESE_LENGTHS = ("米", "千米", "公里", "分米", "厘米", "毫米")


def _lines(table: str) -> Iterator[tuple[list[str], Parsed]]:
    for line in table.strip().splitlines():
        names, _, terms = line.partition(" = ")
        yield names.split(), _terms(terms)


def _terms(text: str) -> Parsed:
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for word in text.split():
        if word[0].isdigit():
            factor *= Fraction(word)
        else:
            base, _, power = word.partition("^")
            powers[base] = int(power or 1)
    return powers, factor


def raised(parsed: Parsed, power: int) -> Parsed:
    """A unit to a power."""
    return {base: n * power for base, n in parsed[0].items()}, parsed[1] ** power


def _table() -> dict[str, Parsed]:
    table: dict[str, Parsed] = {}
    for names, (powers, factor) in _lines(_WITH_PREFIXES):
        for name in names:
            prefixes = _LONG_PREFIXES if len(name) > 3 else _PREFIXES
            for prefix, exponent in ({"": 0} | prefixes).items():
                table.setdefault(prefix + name, (powers, factor * Fraction(10) ** exponent))
    for names, parsed in _lines(_WITHOUT_PREFIXES):
        table |= dict.fromkeys(names, parsed)
    for word, power in _CHINESE_POWERS.items():
        table |= {word + length: raised(table[length], power) for length in _CHINESE_LENGTHS}
    return table


UNITS = _table()
