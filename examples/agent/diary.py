"""What happens on the simulated days: a workshop that is told about new machines.

Every name and number is invented, so an answer can only come from what the agent was told.
"""

from __future__ import annotations

from dataclasses import dataclass

USERS = ("ann", "bob")
_HEADS = ("Orle", "Brim", "Kander", "Vel", "Tas", "Quil", "Hest", "Dorn", "Fal", "Mos")
_TAILS = ("stad", "holt", "up", "mora", "grund", "mere", "vik", "au", "kenau", "ley")
_KINDS = ("press", "lathe", "crane", "kiln", "loom", "pump", "saw", "mill")
_A_DAY = 16
"""Names that a day has for itself; 50 days have 800 different ones."""
_BUILDERS = ("Marrow Works", "Tarn Foundry", "Kolder Yard", "Selm Brothers")


@dataclass(frozen=True, slots=True)
class Fact:
    """Something the agent is told, and a question about it.

    Attributes:
        text: what is said.
        question, answer: asked later; a reply that holds the answer is right.
        user: whose private fact it is; "": everybody's.
    """

    text: str
    question: str
    answer: str
    user: str = ""


def facts_of_day(day: int, count: int) -> list[Fact]:
    """``count`` (at most 14) shared facts of a day (from 1), and a private one of each user."""
    shared = [_fact(day, number) for number in range(count)]
    return shared + [_fact(day, count + i, user) for i, user in enumerate(USERS)]


def _fact(day: int, number: int, user: str = "") -> Fact:
    index = day * _A_DAY + number
    place = _HEADS[index % 10] + _TAILS[index // 10 % 10]
    kind, builder = _KINDS[index // 100 % 8], _BUILDERS[index * 7 % 4]
    name, year = f"{place} {kind}", 1850 + index * 13 % 150
    if user:
        name = f"{name} of {user.capitalize()}"
    text = (
        f"The {name} was installed in {year}. The {name} was built by {builder}."
        f" The {name} has {index % 17 + 3} gears."
    )
    return Fact(text, f"When was the {name} installed?", str(year), user)
