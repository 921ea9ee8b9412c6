"""``demo:facts``: true and false statements in matched pairs.

The words give nothing away. Every city, operand and number stands in as many true statements as
false ones, and so does every country and every result, so that a bag of words is at chance, or a
little below it: where a country's true statements fall into the test split, its false ones are
left in the training split, and a bag of words learns the wrong way round.
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

    - ``cities``: 20 countries of four cities, two forms. In the false statements the j-th city of
      a country is put into the (j + 1)-th country after it in a shuffled ring, so that each
      country is named as often falsely as truly. Grouped by city.
    - ``arithmetic``: sums in digits and in words. Two sums that differ by one to five exchange
      their results in the false statements. Grouped by the two operands, in either order and form.
    - ``comparisons``: "17 is larger than 9." against "9 is larger than 17.", and "smaller"; the
      words of a pair are the same. Grouped by the two numbers.

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
    rows: list[_Row] = []
    for i, country in enumerate(countries):
        for j, city in enumerate(_CITIES[country]):
            elsewhere = countries[(i + 1 + j) % len(countries)]
            for form in _CITY_FORMS:
                rows.append((form.format(city=city, country=country), 1, city, "cities"))
                rows.append((form.format(city=city, country=elsewhere), 0, city, "cities"))
    return rows


def _arithmetic(rng: random.Random) -> list[_Row]:
    rows: list[_Row] = []
    for in_words, largest, n in ((False, 30, 90), (True, 12, 60)):
        drawn = [(a, b) for a in range(2, largest + 1) for b in range(2, largest + 1)]
        for a, b, wrong in _exchanged(rng.sample(drawn, n)):
            group = f"{min(a, b)} and {max(a, b)}"
            for result in (a + b, wrong):
                text = f"{a} + {b} = {result}."
                if in_words:
                    words = [number_word(x) for x in (a, b, result)]
                    text = "{} plus {} is {}.".format(words[0].capitalize(), *words[1:])
                rows.append((text, int(result == a + b), group, "arithmetic"))
    return rows


def _exchanged(pairs: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(a, b, wrong sum) for pairs that find a partner of another, close sum to exchange with."""
    left, exchanged = list(pairs), []
    while left:
        a, b = left.pop()
        partner = next((p for p in left if 1 <= abs(sum(p) - a - b) <= 5), None)
        if partner is not None:
            left.remove(partner)
            exchanged += [(a, b, sum(partner)), (*partner, a + b)]
    return exchanged


def _comparisons(rng: random.Random) -> list[_Row]:
    rows: list[_Row] = []
    pairs = [(a, b) for b in range(2, 100) for a in range(2, b)]
    for small, large in rng.sample(pairs, 60):
        group = f"{small} against {large}"
        for word, a, b in (("larger", large, small), ("smaller", small, large)):
            rows.append((f"{a} is {word} than {b}.", 1, group, "comparisons"))
            rows.append((f"{b} is {word} than {a}.", 0, group, "comparisons"))
    return rows
