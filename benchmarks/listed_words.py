"""A peer: feature words by a count and a hand-written list of words that are none.

Until this project learnt its feature words, its Amazon preparer chose explanations by this rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

# Words of judging, doing and telling: frequent in reviews, yet no feature of a product.
OPINIONS = """
    able absolutely actually add added adding agree allow allows alot amazing amazon anymore
    arrived available away awesome bad believe best better big bit bought bring buy buying
    called came can change cheap check clean come comes comfortable compared completely cool
    couldn couple course day days deal decent decided definitely did didn different does doesn
    doing don easily easy end entire especially exactly excellent expect expected expensive
    extra extremely fact far fast favorite feel feels figure finally fine fit fits following
    found friend fun gave general get gets getting given giving glad goes going good got great
    guess half happen happy hard haven heavy helps high higher highly hold holds home hope hour
    hours however idea immediately impressed included including instead isn issue issues item
    job just keep kept kind know known left let level life light like liked likes line little
    live long longer look looked looking looks lot lots loud love loved loves low lower made
    main make makes maybe mean mine minutes month months need needed needs new nice normally
    nothing notice noticed number obviously offer old older open order ordered original own paid
    particular particularly people perfect perfectly person personally picked place plan play
    played playing plays pleased point possible pretty probably problem problems product
    products pull purchase purchased purpose put puts quick quickly quite rather reach read real
    really reason received recommend recommended review reviews right run running said save saw
    say says second seem seems send sent serious seriously set short similar simple simply
    single situation slightly slip small soft sold solid someone something soon sorry sort
    sounds spend spent standard star stars start started stay stays stop strong stuck stuff
    super sure takes tell terrible thank thanks thats thick thin thing things think thought
    tight time times tiny told took total totally tried trouble try turn understand unless use
    used useful using usually ve version want wanted wasn waste way week weeks went wide wish
    won wonder wonderful work worked works worry worse worst worth wouldn write wrong year years
    yes yet
"""
NO_FEATURES = ENGLISH_STOP_WORDS | frozenset(OPINIONS.split())
SHARE = 0.005  # a feature word stands in at least this share of the reviews
SHORTEST, LONGEST = 3, 30  # words of an explanation
SENTENCE = re.compile(r"(?<=[.!?])\s*(?=[A-Z\"'(])|(?<=[.!?])\s+|\n+")
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def _words(text: str) -> list[str]:
    return [
        word
        for word in WORD.findall(text.lower())
        if len(word) >= 3 and word.isalpha() and not word.endswith("ly") and word not in NO_FEATURES
    ]


def shared_words(reviews: Sequence[str | None]) -> dict[str, int]:
    """The words outside of the list that at least 0.5% of the reviews share, with their number."""
    counts = Counter(word for text in reviews for word in set(_words(text or "")))
    return {word: count for word, count in counts.items() if count >= SHARE * len(reviews)}


def choose_features(reviews: Sequence[str | None], counts: dict[str, int]) -> list[str | None]:
    """For each review the rarest word of a sentence, from the sentence where it is commonest."""
    features: list[str | None] = []
    for text in reviews:
        choices: list[tuple[int, int, str]] = []
        for place, sentence in enumerate(SENTENCE.split(text or "")):
            shared = [word for word in _words(sentence) if word in counts]
            if shared and SHORTEST <= len(sentence.split()) <= LONGEST:
                word = min(shared, key=lambda word: (counts[word], word))
                choices.append((counts[word], -place, word))
        features.append(max(choices)[2] if choices else None)
    return features
