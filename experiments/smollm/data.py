"""Items of the experiment and lines to train its experts on: python data.py FOLDER

Everything is a function of constants: word lists, sentence patterns, seeds. Evaluated items:

- ``english``: word problems in English, which the expert ``arithmetic`` is trained on;
- ``italian``: a word of an English translation, which the expert ``language`` is trained on;
- ``target``: word problems in Italian, which nobody is trained on.

Each has four choices. The choices of an item differ in their last token only, so that one pass over the
prompt scores them all. No line for training has the situation of an evaluated item: the same people, things,
verbs and numbers.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

WORDS = {
    "en": (
        *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    ),
    "it": (
        *("uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove", "dieci"),
        *("undici", "dodici", "tredici", "quattordici", "quindici", "sedici", "diciassette", "diciotto"),
    ),
}
NAMES = (
    *("Anna", "Luca", "Marco", "Sara", "Paolo", "Elena", "Bruno", "Carla"),
    *("Emma", "Fabio", "Gina", "Leo", "Mia", "Nora", "Rita", "Tom"),
)
THINGS = (  # English, Italian, whether the Italian is feminine
    ("apples", "mele", True),
    ("books", "libri", False),
    ("coins", "monete", True),
    ("cards", "carte", True),
    ("flowers", "fiori", False),
    ("tickets", "biglietti", False),
    ("keys", "chiavi", True),
    ("toys", "giocattoli", False),
    ("chairs", "sedie", True),
    ("hats", "cappelli", False),
    ("bottles", "bottiglie", True),
    ("letters", "lettere", True),
    ("cups", "tazze", True),
    ("plates", "piatti", False),
)
GAINS = (("buys", "compra"), ("finds", "trova"), ("gets", "riceve"), ("wins", "vince"), ("takes", "prende"))
LOSSES = (
    ("sells", "vende"),
    ("loses", "perde"),
    ("breaks", "rompe"),
    ("uses", "usa"),
    ("hides", "nasconde"),
)
OPERATIONS = ("more", "less", "together", "difference")
CHANGES = ("more", "less")  # one person and a verb; the other two operations compare two persons
DIGITS = range(1, 10)
ITEMS = 1000
LINES = 8000


@dataclass(frozen=True)
class Situation:
    """What a problem is about, in no language. ``answer`` is 1 to 9, ``first`` and ``second`` are 2 to 18."""

    operation: str
    first: int
    second: int
    person: str
    other: str | None
    thing: int
    verb: int | None

    @property
    def answer(self) -> int:
        return (
            self.first + self.second if self.operation in ("more", "together") else self.first - self.second
        )

    @property
    def verbs(self) -> tuple[str, str]:
        return (GAINS if self.operation == "more" else LOSSES)[self.verb or 0]


Item = dict[str, object]
Maker = Callable[[Situation, random.Random], Item]


def situation(rng: random.Random) -> Situation:
    operation = rng.choice(OPERATIONS)
    if operation in ("more", "together"):
        answer = rng.randint(4, 9)
        second = rng.randint(2, answer - 2)
        first = answer - second
    else:
        answer = rng.choice(DIGITS)
        second = rng.randint(2, 18 - answer)
        first = answer + second
    person, other = rng.sample(NAMES, 2)
    thing = rng.randrange(len(THINGS))
    if operation in CHANGES:
        return Situation(operation, first, second, person, None, thing, rng.randrange(len(GAINS)))
    return Situation(operation, first, second, person, other, thing, None)


def problem(s: Situation, language: str) -> tuple[str, str]:
    """Statement and question."""
    first, second = WORDS[language][s.first - 1], WORDS[language][s.second - 1]
    return _english(s, first, second) if language == "en" else _italian(s, first, second)


def _english(s: Situation, first: str, second: str) -> tuple[str, str]:
    thing, verb = THINGS[s.thing][0], s.verbs[0]
    return {
        "more": (
            f"{s.person} has {first} {thing} and {verb} {second} more.",
            f"How many {thing} does {s.person} have now?",
        ),
        "less": (
            f"{s.person} has {first} {thing} and {verb} {second} of them.",
            f"How many {thing} does {s.person} have now?",
        ),
        "together": (
            f"{s.person} has {first} {thing} and {s.other} has {second}.",
            f"How many {thing} do they have together?",
        ),
        "difference": (
            f"{s.person} has {first} {thing} and {s.other} has {second}.",
            f"How many more {thing} does {s.person} have?",
        ),
    }[s.operation]


def _italian(s: Situation, first: str, second: str) -> tuple[str, str]:
    thing, verb = THINGS[s.thing][1], s.verbs[1]
    more, many = ("altre", "Quante") if THINGS[s.thing][2] else ("altri", "Quanti")
    return {
        "more": (
            f"{s.person} ha {first} {thing} e ne {verb} {more} {second}.",
            f"{many} {thing} ha ora {s.person}?",
        ),
        "less": (
            f"{s.person} ha {first} {thing} e ne {verb} {second}.",
            f"{many} {thing} ha ora {s.person}?",
        ),
        "together": (
            f"{s.person} ha {first} {thing} e {s.other} ne ha {second}.",
            f"{many} {thing} hanno insieme?",
        ),
        "difference": (
            f"{s.person} ha {first} {thing} e {s.other} ne ha {second}.",
            f"{many} {thing} in più ha {s.person}?",
        ),
    }[s.operation]


def reading(s: Situation, rng: random.Random) -> tuple[str, str]:
    """Question and answer about what two people have: who has more, or how many; nothing to calculate."""
    first, second = rng.sample(range(2, 10), 2)
    other = s.other or rng.choice([name for name in NAMES if name != s.person])
    thing = THINGS[s.thing][0]
    another = rng.choice([t[0] for t in THINGS if t[0] != thing])
    side, compare = rng.randrange(2), rng.random() < 0.5
    a, b = WORDS["en"][first - 1], WORDS["en"][second - 1]
    if compare:
        much = "more" if side else "fewer"
        question = f"{s.person} has {a} {thing} and {other} has {b} {thing}. Who has {much} {thing}?"
        return question, s.person if (first > second) == bool(side) else other
    text = f"{s.person} has {a} {thing} and {other} has {b} {another}."
    who, what, number = ((s.person, thing, first), (other, another, second))[side]
    return f"{text} How many {what} does {who} have?", str(number)


def asked(question: str) -> str:
    return f"Q: {question}\nA:"


def translation(italian: str) -> str:
    return f"Italian: {italian}\nEnglish:"


def problem_item(s: Situation, rng: random.Random, language: str) -> Item:
    """A word problem; wrong choices are the other operation, the numbers of the text, and near numbers."""
    likely = [abs(s.first - s.second), s.first + s.second, s.first, s.second]
    likely = [n for n in dict.fromkeys(likely) if n in DIGITS and n != s.answer]
    near = [n for n in (s.answer + d for d in (-3, -2, -1, 1, 2, 3)) if n in DIGITS]
    rng.shuffle(near)
    wrong = list(dict.fromkeys([*likely[:2], *near]))[:3]
    return choices(asked(" ".join(problem(s, language))), [f" {n}" for n in (s.answer, *wrong)], rng)


def translation_item(s: Situation, rng: random.Random) -> Item:
    """One word of a translation that is given up to there: a number, a thing or a verb."""
    italian, english = problem(s, "it")[0], problem(s, "en")[0]
    kinds = {
        "number": WORDS["en"][1:],
        "thing": tuple(t[0] for t in THINGS),
        "verb": tuple(v for v, _ in GAINS + LOSSES),
    }
    kind = rng.choice(sorted(kinds if s.operation in CHANGES else ("number", "thing")))
    words = english.rstrip(".").split()
    place = rng.choice([i for i, word in enumerate(words) if word in kinds[kind]])
    wrong = rng.sample([w for w in kinds[kind] if w not in words], 3)
    return choices(
        f"{translation(italian)} {' '.join(words[:place])}", [f" {w}" for w in (words[place], *wrong)], rng
    )


def choices(prompt: str, candidates: list[str], rng: random.Random) -> Item:
    """An item whose first candidate is right, in random order."""
    right = candidates[0]
    rng.shuffle(candidates)
    return {"prompt": prompt, "choices": candidates, "answer": candidates.index(right)}


def arithmetic_line(s: Situation, rng: random.Random) -> Item:
    """For the expert in arithmetic: word problems and some reading, in English."""
    if rng.random() < 0.25:
        question, answer = reading(s, rng)
        return {"prompt": asked(question), "answer": f" {answer}"}
    return {"prompt": asked(" ".join(problem(s, "en"))), "answer": f" {s.answer}"}


def language_line(s: Situation, rng: random.Random) -> Item:
    """For the expert in Italian: translations of statements (three quarters) and questions into English."""
    part = 1 if rng.random() < 0.25 else 0
    return {"prompt": translation(problem(s, "it")[part]), "answer": f" {problem(s, 'en')[part]}"}


def situations(rng: random.Random, without: frozenset[Situation]) -> Iterator[Situation]:
    """Endless situations, none twice and none of ``without``."""
    seen = set(without)
    while True:
        s = situation(rng)
        if s not in seen:
            seen.add(s)
            yield s


def draw() -> dict[str, tuple[list[Situation], random.Random]]:
    """The situations of each task and expert by name, and the source of its random choices."""
    drawn: dict[str, tuple[list[Situation], random.Random]] = {}
    evaluated: set[Situation] = set()
    for seed, name in enumerate([*TASKS, *EXPERTS]):
        rng = random.Random(seed)
        found = list(islice(situations(rng, frozenset(evaluated)), ITEMS if name in TASKS else LINES))
        if name in TASKS:
            evaluated.update(found)
        drawn[name] = found, rng
    return drawn


def build() -> dict[str, list[Item]]:
    """All items by name: of tasks (prompt, choices, answer), lines for experts (prompt, answer)."""
    makers = TASKS | EXPERTS
    return {name: [makers[name](s, rng) for s in found] for name, (found, rng) in draw().items()}


TASKS: dict[str, Maker] = {
    "english": lambda s, rng: problem_item(s, rng, "en"),
    "italian": translation_item,
    "target": lambda s, rng: problem_item(s, rng, "it"),
}
EXPERTS: dict[str, Maker] = {"arithmetic": arithmetic_line, "language": language_line}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where NAME.jsonl are written")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in build().items():
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
