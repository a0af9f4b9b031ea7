"""Rewrite an English expression for an image that is flipped left to right.

The words and rules are in mirror.yaml.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import ascii_lowercase

import yaml

_TOKEN = re.compile(r"[^\W\d_]+|\d+|\S")


class CannotMirrorError(ValueError):
    """Mirroring the sample might change what it refers to. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of mirror.yaml.

    `pattern`: a set of words per token, None for any word; `place`: the index in `pattern` of the word that the rule
    decides on.
    """

    verdict: str
    pattern: tuple[frozenset[str] | None, ...]
    place: int

    def fits(self, words: Sequence[str], index: int) -> bool:
        """Whether the pattern matches with its `place` at `words[index]`. `words` begin with ^ and end with $."""
        begin = index - self.place
        window = words[max(begin, 0) : begin + len(self.pattern)]
        return len(window) == len(self.pattern) and all(
            allowed is None or word in allowed for allowed, word in zip(self.pattern, window, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """The parsed contents of mirror.yaml."""

    swap: Mapping[str, str]
    rules: tuple[Rule, ...]
    ordinals: frozenset[str]
    counted_from: frozenset[str]
    leave_out_words: frozenset[str]
    leave_out_phrases: tuple[Rule, ...]
    unrelated: frozenset[str]


def mirror(sent: str) -> str:
    """The expression for the flipped image. Mirroring the result gives `sent` again. Raises CannotMirrorError."""
    mirrored = _mirror_once(sent)
    if mirrored != sent and _mirror_once(mirrored) != sent:
        raise CannotMirrorError("mirroring it twice does not restore it")
    return mirrored


def _mirror_once(sent: str) -> str:
    rules = load_rules()
    _check_script(sent)
    spans = [match.span() for match in _TOKEN.finditer(sent)]
    words = ["^", *(sent[begin:end].lower() for begin, end in spans), "$"]
    _check_words(words, rules)
    parts, done = [], 0
    for index, (begin, end) in enumerate(spans, start=1):
        if words[index] in rules.swap and _verdict(words, index, rules) == "swap":
            parts += [sent[done:begin], _match_case(rules.swap[words[index]], sent[begin:end])]
            done = end
    return "".join(parts) + sent[done:]


def _check_script(sent: str) -> None:
    """Reject non-Latin letters and invisible characters, because the words for left and right are Latin."""
    for letter in "" if sent.isascii() else sent:
        latin = not letter.isalpha() or unicodedata.name(letter, "").startswith("LATIN ")
        if not latin or unicodedata.category(letter) == "Cf":
            raise CannotMirrorError("it has non-Latin or invisible characters")


def _verdict(words: Sequence[str], index: int, rules: Rules) -> str:
    verdict = next((rule.verdict for rule in rules.rules if rule.fits(words, index)), "swap")
    if verdict == "leave out":
        raise CannotMirrorError("left or right may or may not be a direction")
    return verdict


def _check_words(words: Sequence[str], rules: Rules) -> None:
    for index, word in enumerate(words):
        if word in rules.leave_out_words or any(rule.fits(words, index) for rule in rules.leave_out_phrases):
            raise CannotMirrorError("it has writing, compass points or abbreviations")
        if word.isdigit() and words[index + 1] not in rules.ordinals:
            raise CannotMirrorError("it has writing, compass points or abbreviations")
        if _resembles_a_side(word) and word not in rules.swap and word not in rules.unrelated:
            raise CannotMirrorError("it has an unknown word that resembles left or right")
    if not rules.ordinals.isdisjoint(words) and rules.counted_from.isdisjoint(words):
        raise CannotMirrorError("it counts without saying from where")


def _resembles_a_side(word: str) -> bool:
    return "lef" in word or "righ" in word or word in _misspellings("left") or word in _misspellings("right")


@cache
def _misspellings(word: str) -> frozenset[str]:
    """All strings one typing error away: a letter missing, added or wrong, or two neighbours swapped."""
    splits = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    missing = {head + tail[1:] for head, tail in splits}
    exchanged = {head + tail[1::-1] + tail[2:] for head, tail in splits}
    added = {head + letter + tail for head, tail in splits for letter in ascii_lowercase}
    wrong = {head + letter + tail[1:] for head, tail in splits for letter in ascii_lowercase}
    return frozenset(missing | exchanged | added | wrong)


def _match_case(word: str, like: str) -> str:
    return word.upper() if like.isupper() else word.capitalize() if like[0].isupper() else word


@cache
def load_rules() -> Rules:
    """The rules of mirror.yaml."""
    data = yaml.safe_load(Path(__file__).with_name("mirror.yaml").read_text(encoding="utf-8"))
    lists = {name: frozenset(words) for name, words in data["words"].items()}
    return Rules(
        swap=data["swap"] | {right: left for left, right in data["swap"].items()},
        rules=tuple(_parse_rule(verdict, pattern, lists) for verdict, pattern in data["rules"]),
        ordinals=frozenset(data["ordinals"]),
        counted_from=frozenset(data["counted_from"]),
        leave_out_words=frozenset(data["leave_out_words"]),
        leave_out_phrases=tuple(_parse_rule("leave out", phrase, lists) for phrase in data["leave_out_phrases"]),
        unrelated=frozenset(data["unrelated"]),
    )


def _parse_rule(verdict: str, pattern: str, lists: Mapping[str, frozenset[str]]) -> Rule:
    tokens = pattern.split(" ")
    place = next(index for index, token in enumerate(tokens) if token.startswith("<"))
    return Rule(verdict, tuple(_allowed(token.strip("<>"), lists) for token in tokens), place)


def _allowed(token: str, lists: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    if token == "*":
        return None
    return frozenset().union(*(lists[part[1:]] if part.startswith("@") else {part} for part in token.split("|")))
