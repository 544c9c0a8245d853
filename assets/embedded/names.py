"""Functions and fields under names made up for one conversation.

A model that has seen each function under a handful of names learns the names; one that never sees a
name twice has to read it where the functions are listed, letter by letter, and to choose by what the
description says. Names and descriptions are drawn apart from each other out of the corpus's paraphrases
for training (SGD-X 1 to 4); words of a name are exchanged for others, taken from the description or from
WordNet, and every conversation has its own style of writing them.
"""

import random
import re

import sources
from sgd import Functions, told

VARIANTS = range(5)
PLAIN = set("a an the of for to in on at is are be by with from and or that this it its user users which whose given any all has have".split())
# Style of function names, style of field names, and how often.
STYLES = ((("pascal", "snake"), 4), (("snake", "snake"), 4), (("camel", "camel"), 3), (("camel", "snake"), 1),
          (("kebab", "snake"), 1), (("snake", "camel"), 1), (("flat", "flat"), 1))


def written(words, style):
    """A name of lower-case words."""
    if style in ("pascal", "camel"):
        name = "".join(w[:1].upper() + w[1:] for w in words)
        return name if style == "pascal" else name[:1].lower() + name[1:]
    return {"snake": "_", "kebab": "-", "flat": ""}[style].join(words)


def split(name):
    """The lower-case words of a name in any style."""
    return [w.lower() for w in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)]


def bank(root):
    """Single words of WordNet, those that its authors met in texts four times."""
    _, index = sources.wordnet(root)
    words = sorted(w for w in index if re.fullmatch(r"[a-z]{3,11}", w))
    return words + 3 * [w for w in words if max(sense[0] for sense in index[w])]


def invent(rng, names, about, words):
    """Lower-case words of a new name for what has one of `names` and is described by `about`."""
    own, other = (split(rng.choice(names)) for _ in range(2))
    told = [w for w in re.findall(r"[a-z]+", about.lower()) if w not in PLAIN and len(w) > 2]
    kind = rng.random()
    if kind < 0.2:
        return own
    if kind < 0.4 and told:
        return rng.sample(told, min(len(told), rng.choice((1, 2, 2, 3))))
    if kind < 0.6:
        mixed = list(dict.fromkeys(own + other))
        return rng.sample(mixed, min(len(mixed), rng.choice((1, 2, 3, 4))))
    if kind < 0.72:
        return rng.sample(words, rng.choice((1, 2, 2, 3)))
    at = rng.randrange(len(own))
    new = rng.choice(told) if told and rng.random() < 0.3 else rng.choice(words)
    return own[:at] + [new] + own[at + (rng.random() < 0.7):]


class Renamed(Functions):
    """The functions of one conversation under new names; `seed` decides on them, service by service."""

    def __init__(self, schemas, words, seed):
        super().__init__(schemas, None, False)
        self.words, self.seed, self.known = words, seed, {}
        styles, weights = zip(*STYLES)
        self.style = random.Random(seed).choices(styles, weights)[0]

    def shown(self, service, kind):
        """Original name -> {"name", "description"} as shown; `kind` is "intents" or "slots"."""
        key = (service, kind)
        if key not in self.known:
            rng, taken, out = random.Random(f"{self.seed}/{service}/{kind}"), set(), {}
            style = self.style[kind == "slots"]
            for rows in zip(*(self.schemas[service][v][kind] for v in VARIANTS)):
                about, known = rng.choice(rows)["description"], [row["name"] for row in rows]
                name = written(invent(rng, known, about, self.words), style)
                while name in taken:
                    name = written(invent(rng, known, about, self.words) + [rng.choice(self.words)], style)
                taken.add(name)
                out[rows[0]["name"]] = {"name": name, "description": about}
            self.known[key] = out
        return self.known[key]

    def function_name(self, service, intent):
        return self.shown(service, "intents")[intent]["name"]


def conversations(root, splits, copies, seed, limit=None):
    """All dialogues of the splits, `copies` times, each time with names of its own."""
    words = bank(root)
    return told(root, splits, lambda schemas, rng, key: Renamed(schemas, words, key), copies, seed, limit)
