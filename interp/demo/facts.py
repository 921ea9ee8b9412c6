"""``demo:facts``: true and false statements in matched pairs.

The words give nothing away. Two true statements exchange their objects to make two false ones
(Lyon and Osaka exchange France and Japan), and the four are one group; so every word stands in as
many true statements of its group as false ones. A bag of words is exactly at chance under any
grouped split, and it takes the combination of words to know which is true.
"""

import random

import pandas as pd

from interp.data import Dataset

__all__ = ["statements"]

# Four cities a country; none has a well-known namesake in another country of the list.
_CITIES = {
    "Argentina": ("Buenos Aires", "Mendoza", "Ushuaia", "Bariloche"),
    "Australia": ("Sydney", "Brisbane", "Adelaide", "Canberra"),
    "Brazil": ("Recife", "Curitiba", "Manaus", "Fortaleza"),
    "Canada": ("Toronto", "Montreal", "Calgary", "Winnipeg"),
    "China": ("Shanghai", "Beijing", "Wuhan", "Chengdu"),
    "Egypt": ("Cairo", "Luxor", "Aswan", "Giza"),
    "France": ("Lyon", "Marseille", "Toulouse", "Bordeaux"),
    "Germany": ("Hamburg", "Munich", "Cologne", "Leipzig"),
    "India": ("Mumbai", "Chennai", "Kolkata", "Jaipur"),
    "Italy": ("Milan", "Naples", "Turin", "Bologna"),
    "Japan": ("Osaka", "Kyoto", "Nagoya", "Sapporo"),
    "Kenya": ("Nairobi", "Mombasa", "Kisumu", "Nakuru"),
    "Mexico": ("Monterrey", "Puebla", "Tijuana", "Cancun"),
    "Nigeria": ("Abuja", "Kano", "Ibadan", "Kaduna"),
    "Poland": ("Warsaw", "Krakow", "Gdansk", "Wroclaw"),
    "Russia": ("Moscow", "Kazan", "Omsk", "Novosibirsk"),
    "Spain": ("Seville", "Bilbao", "Zaragoza", "Malaga"),
    "Sweden": ("Stockholm", "Gothenburg", "Uppsala", "Malmo"),
    "Turkey": ("Istanbul", "Ankara", "Izmir", "Bursa"),
    "Vietnam": ("Hanoi", "Hue", "Haiphong", "Da Nang"),
}
_CITY_FORMS = ("The city of {city} is in {country}.", "{city} is a city in {country}.")

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()

# A row is (text, label, group, topic).
_Row = tuple[str, int, str, str]


def statements(seed: int = 0) -> Dataset:
    """True and false statements about cities, sums and sizes: a matched pair each, grouped.

    - ``cities``: 20 countries of four cities, in two forms. Two cities exchange their countries
      in the false statements; the two are the group.
    - ``arithmetic``: sums in digits and in words. Two sums that differ by one to five exchange
      their results in the false statements; the two are the group. No two groups share a pair of
      operands, in either order or form.
    - ``comparisons``: "17 is larger than 9." against "9 is larger than 17.", and "smaller". The
      two numbers are the group.

    Every statement ends in a full stop and says what it says in its last word, so the last token
    is the place to read.

    Parameters
    ----------
    seed : shuffles the countries and draws the numbers.

    Returns
    -------
    Dataset
        About 800 rows, half of them true, each pair on neighbouring rows: ``text``, ``label``
        (1 true, 0 false), ``group``, ``topic``.
    """
    rng = random.Random(seed)
    data = [*_cities(rng), *_arithmetic(rng), *_comparisons(rng)]
    rows = pd.DataFrame(data, columns=["text", "label", "group", "topic"])
    return Dataset(
        name="facts",
        kind="text",
        inputs=rows["text"].tolist(),
        rows=rows,
        labels=("label",),
        group="group",
        text_column="text",
        about={"label": "the statement is true"},
        notes=(f"seed {seed}; pairs of a true and a false statement on neighbouring rows",),
    )


def number_word(n: int) -> str:
    """The English word for 0 to 99, such as ``"forty-two"``."""
    if n < len(_UNITS):
        return _UNITS[n]
    tens, unit = divmod(n, 10)
    return _TENS[tens] + (f"-{_UNITS[unit]}" if unit else "")


def _cities(rng: random.Random) -> list[_Row]:
    countries = list(_CITIES)
    rng.shuffle(countries)
    half = len(countries) // 2
    rows: list[_Row] = []
    for i, here in enumerate(countries[:half]):
        for j, city in enumerate(_CITIES[here]):
            there = countries[half + (i + j) % half]
            other = _CITIES[there][j]
            for form in _CITY_FORMS:
                for name, right, wrong in ((city, here, there), (other, there, here)):
                    for country, label in ((right, 1), (wrong, 0)):
                        text = form.format(city=name, country=country)
                        rows.append((text, label, f"{city} and {other}", "cities"))
    return rows


def _arithmetic(rng: random.Random) -> list[_Row]:
    pairs = [(a, b) for b in range(2, 31) for a in range(2, b + 1)]
    rng.shuffle(pairs)
    small = [pair for pair in pairs if max(pair) <= 12]
    large = [pair for pair in pairs if max(pair) > 12]
    in_words, in_digits = small[:50], small[50:] + large[:70]
    rows: list[_Row] = []
    for form, spell, drawn in (
        ("{} plus {} is {}.", number_word, in_words),
        ("{} + {} = {}.", str, in_digits),
    ):
        for one, two in _close_sums([rng.choice([(a, b), (b, a)]) for a, b in drawn]):
            group = "{} + {} and {} + {}".format(*one, *two)
            for (a, b), wrong in ((one, sum(two)), (two, sum(one))):
                for result, label in ((a + b, 1), (wrong, 0)):
                    text = form.format(spell(a), spell(b), spell(result))
                    rows.append((text[0].upper() + text[1:], label, group, "arithmetic"))
    return rows


_Sum = tuple[int, int]


def _close_sums(pairs: list[_Sum]) -> list[tuple[_Sum, _Sum]]:
    """Disjoint couples whose sums differ by one to five; a pair that finds no other is left out."""
    left, couples = list(pairs), []
    while left:
        one = left.pop()
        two = next((p for p in left if 1 <= abs(sum(p) - sum(one)) <= 5), None)
        if two is not None:
            left.remove(two)
            couples.append((one, two))
    return couples


def _comparisons(rng: random.Random) -> list[_Row]:
    rows: list[_Row] = []
    pairs = [(a, b) for b in range(2, 100) for a in range(2, b)]
    for small, large in rng.sample(pairs, 60):
        group = f"{small} against {large}"
        for word, a, b in (("larger", large, small), ("smaller", small, large)):
            rows.append((f"{a} is {word} than {b}.", 1, group, "comparisons"))
            rows.append((f"{b} is {word} than {a}.", 0, group, "comparisons"))
    return rows
