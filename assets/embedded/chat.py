"""Short conversations made from plain facts, hand-written seeds and templates.

A unit is a list of (user, assistant) pairs; `conversations` strings units together, sometimes
under a system message whose wish (a name, capitals, a closing word) the replies then follow.
"""

import hashlib
import html
import json
import os
import random
import re

import sources

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ("Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tara Uma Victor "
         "Wendy Yusuf Zoe Tom Bob Alice John Mary Peter Laura Omar Nina Ivan Maria Chris Sara Max Julia Kim").split()
THINGS = "apple book ball key lamp hat cup bike car phone bag chair coin flower letter map pen ring shoe umbrella".split()
COLORS = "red blue green yellow black white brown gray orange purple".split()
PLACES = "kitchen garden school park office library station market museum bathroom bedroom hallway".split()


def seeds(rng, name="seed.txt"):
    """Blocks of a text file as functions of rng that give one conversation unit."""
    blocks = []
    text = open(os.path.join(HERE, name), encoding="utf-8").read().split("\n\n", 1)[1]
    for block in re.split(r"\n\s*\n(?=Q:)", text):
        turns = []
        for part in re.findall(r"(?ms)^([QA]): (.*?)(?=^[QA]: |\Z)", block):
            text = part[1].strip()
            if part[0] == "Q":
                turns.append(([q.strip() for q in text.split("|")], []))
            else:
                turns[-1][1].append(text)
        blocks.append(turns)
    def unit(block):
        return lambda r: [(r.choice(q), r.choice(a)) for q, a in block]
    return [unit(b) for b in blocks for _ in range(max(2, min(6, len(b[0][0]) // 2)))]


def sloppy(rng, text):
    """How people type: sometimes no capital, no question mark, a please, or a lead-in."""
    p = rng.random()
    if p < 0.15:
        text = text.rstrip("?.!")
    if p < 0.3 and not re.search(r"\bI\b|[A-Z]{2}", text[1:]):
        text = text[:1].lower() + text[1:]
    elif p < 0.36 and text.endswith("?"):
        text = rng.choice(("Can you tell me: ", "Please tell me: ", "I have a question. ", "Hey, ")) + text
    elif p < 0.4:
        text = text.rstrip("?.") + ", please" + ("?" if text.endswith("?") else "")
    return text


def sentence(text):
    text = text.strip().rstrip(";,")
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".!?" else ".")


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def words(root, n_word=14000):
    """Definitions, synonyms, opposites, kinds and example sentences of the most common WordNet words."""
    synsets, index = sources.wordnet(root)
    ranked = sorted(((max(s[0] for s in senses), w) for w, senses in index.items()), reverse=True)
    common = [w for n, w in ranked if n >= 1 and re.fullmatch(r"[a-z]{3,}( [a-z]+)?", w)][:n_word]
    units = []
    for w in common:
        for tagged, pos, offsets in sorted(index[w], key=lambda s: -s[0])[:1]:
            _, members, meaning, examples, points = synsets[offsets[0]]
            kind = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}[pos]
            extra = f' For example: "{examples[0]}"' if examples and w in examples[0] else ""
            shown = f"{w} ({kind}): {meaning}.{extra}"
            asks = [f'What does "{w}" mean?', f"What does {w} mean?", f"Define {w}.", f"What is the meaning of {w}?",
                    f"Explain the word {w}.", f"meaning of {w}"]
            if pos == "noun":
                asks += [f"What is {article(w)}?", f"What is {w}?"]
            units.append(lambda r, a=asks, s=shown: [(sloppy(r, r.choice(a)), s[:1].upper() + s[1:])])
            others = [m for m in members if m.lower() != w and " " not in m]
            if others:
                a = f"{sentence(', '.join(others[:3]))[:-1]}." if len(others) > 1 else f"Another word for {w} is {others[0]}."
                units.append(lambda r, w=w, a=a: [(sloppy(r, r.choice((f"What is another word for {w}?", f"Give me a synonym of {w}.", f"synonyms for {w}"))), a)])
            for sign, target, where in points:
                if sign == "!" and target in synsets:
                    n = max(0, int(where[2:], 16) - 1)
                    o = synsets[target][1][min(n, len(synsets[target][1]) - 1)]
                    units += [lambda r, w=w, o=o: [(sloppy(r, r.choice((f"What is the opposite of {w}?", f"Give me the opposite of {w}.", f"antonym of {w}"))), f"The opposite of {w} is {o}.")]] * 3
            below = [synsets[t][1][0] for s, t, _ in points if s == "~" and t in synsets and " " not in synsets[t][1][0]]
            if pos == "noun" and tagged >= 3 and len(below) >= 3:
                def kinds(r, w=w, below=below):
                    n = r.choice((3, 3, 4, 5)) if len(below) >= 5 else 3
                    got = r.sample(below, n)
                    number = {3: "three", 4: "four", 5: "five"}[n]
                    return [(sloppy(r, r.choice((f"Name {number} kinds of {w}.", f"List {number} kinds of {w}.", f"Give me {n} examples of {article(w)}."))),
                             r.choice((sentence(", ".join(got[:-1]) + " and " + got[-1]), "\n".join(f"{i + 1}. {g}" for i, g in enumerate(got)))))]
                units.append(kinds)
            if examples and w in examples[0] and len(examples[0]) > 15:
                units.append(lambda r, w=w, e=examples[0]: [(sloppy(r, r.choice((f"Use the word {w} in a sentence.", f"Write a sentence with {w}.", f"Make a sentence with the word {w}."))), sentence(e))])
    return units


def commands(root):
    units = []
    for name, about, pairs in sources.tldr(root):
        what_is = [f"What is {name}?", f"What does the command {name} do?", f"What is {name} used for?"]
        units.append(lambda r, q=what_is, n=name, a=about: [(sloppy(r, r.choice(q)), sentence(f"{n} is a command. {a}" if a else n))])
        for what, line in pairs[:6]:
            if len(line) > 160:
                continue
            low = what[:1].lower() + what[1:]
            asks = [f"How do I {low} with {name}?", f"{name}: how do I {low}?", f"Show me how to {low} with {name}.", f"What is the {name} command to {low}?"]
            units.append(lambda r, q=asks, w=what, c=line: [(sloppy(r, r.choice(q)), r.choice((f"Use this command:\n\n```sh\n{c}\n```", f"```sh\n{c}\n```", f"{sentence(w)[:-1]}:\n\n```sh\n{c}\n```")))])
    return units


def countries(root):
    units = []
    fields = (("Government / Capital / name", ("What is the capital of {c}?", "capital of {c}", "Which city is the capital of {c}?"), "The capital of {c} is {v}.", 6),
              ("Geography / Location", ("Where is {c}?", "Where is {c} located?", "On which continent is {c}?"), "{c} is located in {v}.", 3),
              ("People and Society / Population / total", ("How many people live in {c}?", "What is the population of {c}?"), "About {v} people live in {c}.", 2),
              ("People and Society / Languages / Languages", ("Which languages do people speak in {c}?", "What language is spoken in {c}?"), "The languages of {c} are: {v}.", 2),
              ("Geography / Area / total", ("How large is {c}?", "What is the area of {c}?"), "{c} has an area of {v}.", 1),
              ("Geography / Land boundaries / border countries", ("Which countries border {c}?", "What are the neighbors of {c}?"), "{c} borders {v}.", 2),
              ("Geography / Climate", ("What is the climate of {c}?", "What is the weather like in {c}?"), "The climate of {c}: {v}.", 1),
              ("Economy / Exchange rates / currency", ("What is the currency of {c}?",), "The currency of {c} is the {v}.", 1),
              ("Geography / Elevation / highest point", ("What is the highest mountain of {c}?", "What is the highest point of {c}?"), "The highest point of {c} is {v} meters.", 1),
              ("Introduction / Background", ("Tell me about {c}.", "Tell me about the history of {c}.", "What do you know about {c}?"), "{v}", 2))
    for name, got in sources.factbook(root):
        for key, asks, reply, weight in fields:
            value = html.unescape(got.get(key, "")).split("\n")[0]
            value = re.sub(r"\s*\((?!official)[^)]*\)", "", value).replace(" est.", "").split(" note:")[0].strip(" ;.")
            if "Background" in key:
                value = " ".join(re.split(r"(?<=[.]) (?=[A-Z])", value)[:2]) + "."
                value = value.replace("..", ".")
            if "border" in key:
                value = ", ".join(re.sub(r" [\d,.]+ km.*", "", b).strip() for b in value.split(";"))
            if 2 < len(value) < 420 and (";" not in value or "Background" in key):
                units += [lambda r, q=asks, c=name, a=reply, v=value: [(sloppy(r, r.choice(q).format(c=c)), a.format(c=c, v=v))]] * weight
        capital = re.sub(r"\s*\(.*?\)|;.*", "", html.unescape(got.get("Government / Capital / name", ""))).strip()
        if capital:
            units.append(lambda r, c=name, v=capital: [(sloppy(r, f"{v} is the capital of which country?"), f"{v} is the capital of {c}.")])
    return units


def capitals(root):
    """Several capitals in a row, the later questions shortened as people do."""
    known = {}
    for name, got in sources.factbook(root):
        capital = re.sub(r"\s*\(.*?\)|;.*", "", html.unescape(got.get("Government / Capital / name", ""))).strip()
        if capital and "note" not in capital:
            known[name] = capital

    def unit(r):
        first, *rest = r.sample(sorted(known), r.choice((2, 2, 3)))
        turns = [(sloppy(r, f"What is the capital of {first}?"), f"The capital of {first} is {known[first]}.")]
        return turns + [(r.choice((f"And of {c}?", f"and {c}?", f"What about {c}?", f"And {c}?")), f"The capital of {c} is {known[c]}.") for c in rest]
    return [unit]


def unknown(rng):
    """Names and words that do not exist, and what a small model should say about them."""
    made = lambda n: "".join(rng.choice("bdfgklmnprstvz") + rng.choice(("a", "e", "i", "o", "u", "ar", "en", "il")) for _ in range(n))
    person, thing, digits = f"{made(2).capitalize()} {made(3).capitalize()}", made(rng.choice((2, 3, 4))), rng.randint(10000, 9999999)
    ask, reply = rng.choice((
        (rng.choice((f"Who is {person}?", f"Who was {person}?", f"Tell me about {person}.")), f"I do not know who {person} is. I am a small model and know few people."),
        (rng.choice((f"What is {thing}?", f"What does {thing} mean?", f"Define {thing}.", f"Explain {thing}.")), f"I do not know the word {thing}. I am a small model; a larger one may know it."),
        (rng.choice((f"What is the phone number of {person}?", f"Where does {person} live?", f"How old is {person}?")), f"I do not know anything about {person}."),
        (rng.choice((f"What is {digits} * {digits + 7919}?", f"{digits} times {digits + 31}")), "That is too hard for me. A calculator will give you the exact result."),
        (rng.choice((f"Summarize the book {thing.capitalize()} by {person}.", f"What happens in the film {thing.capitalize()}?")), f"I do not know {thing.capitalize()}, so I cannot tell."),
        (rng.choice((f"Write a {rng.choice((500, 1000, 2000))} word essay about {rng.choice(THINGS)}s.", f"Write a long report on the {rng.choice(THINGS)} market.")), "That is more than a model of my size can do well. A larger model will help: mlx-run run path/to/model.gguf runs one.")))
    return [(sloppy(rng, ask), reply)]


def functions(root):
    """Python library functions: what they do."""
    units = []
    for module, text in sources.python_docs(root):
        for name, args, body in re.findall(r"(?m)^\.\. function:: ([\w.]+)\((.*?)\).*\n(?: +.*\n)*?\n   (\S(?:.*\n)(?:   \S.*\n)*)", text):
            about = " ".join(body.replace("*", "").split())
            about = " ".join(re.split(r"(?<=[.]) (?=[A-Z])", about)[:2])
            full = name if "." in name or module in ("functions", "stdtypes") else f"{module}.{name}"
            if len(about) < 400:
                asks = (f"What does the Python function {full} do?", f"What does {full} do in Python?", f"Explain {full} in Python.", f"python {full}")
                units.append(lambda r, q=asks, f=full, a=args.replace("\\", ""), t=about: [(sloppy(r, r.choice(q)), f"`{f}({a})`: {t}")])
    return units


def trivia(root):
    units = []
    tree = sources.git(root, "trivia")
    for path, text in tree.read("categories/", lambda p: p.split("/")[-1] in ("animals", "for-kids", "general", "geography", "history", "humanities", "science-technology", "literature", "world")):
        for question, answer, options in re.findall(r"#Q (.+)\n\^ (.+)\n((?:[A-D] .+\n)+)", sources.clean(text) + "\n"):
            if len(question) > 160 or re.search(r"following|these|NOT|not ", question):
                continue
            def unit(r, q=question, a=answer, o=options):
                if r.random() < 0.4:
                    return [(f"{q}\n{o.strip()}", next((l for l in o.splitlines() if l[2:] == a), a))]
                return [(sloppy(r, q), a)]
            if question.endswith("?"):
                units.append(unit)
    return units


def tales(root):
    units = []
    for title, body in sources.stories(root):
        if len(body) < 3000:
            low = title[:1].lower() + title[1:] if title.split()[0] in ("The", "A", "An", "My") else title
            asks = (f'Tell me the story "{title}".', f"Tell me a story about {low}.", f"Tell me a story with the title {title}.", f"Write a story: {title}", "Tell me a children's story.")
            units.append(lambda r, q=asks, t=title, b=body: [(r.choice(q), b if r.random() < 0.6 else f"{t}\n\n{b}")])
    return units


def school_math(root, name="train"):
    units = []
    text = next(t for p, t in sources.git(root, "gsm8k").read("grade_school_math/data", lambda p: p.endswith("/" + name + ".jsonl")))
    for line in text.splitlines():
        row = json.loads(line)
        steps, result = re.sub(r"<<.*?>>", "", row["answer"]).split("\n#### ")
        if len(row["question"]) < 400 and len(steps) < 400:
            units.append(lambda r, q=row["question"], s=steps, a=result: [(sources.clean(q), f"{sources.clean(s)}\nThe answer is {a}.")])
    return units


def sums(rng):
    op = rng.choice("++--*/")
    top = rng.choice((10, 20, 100))
    a, b = rng.randint(0, top), rng.randint(0, top)
    if op == "*":
        a, b = rng.randint(0, 12), rng.randint(0, 12)
    if op == "/":
        b = rng.randint(1, 12)
        a = b * rng.randint(0, 12)
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]
    word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[op]
    ask = rng.choice((f"What is {a} {op} {b}?", f"{a} {op} {b}", f"{a}{op}{b}", f"{a} {op} {b} =", f"What is {a} {word} {b}?", f"Calculate {a} {op} {b}.", f"How much is {a} {word} {b}?"))
    return [(sloppy(rng, ask), rng.choice((f"{a} {op} {b} = {value}", f"{a} {op} {b} = {value}", f"{value}")))]


def counting(rng):
    who, thing, n, m = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 20), rng.randint(1, 12)
    if rng.random() < 0.5:
        return [(f"{who} has {n} {thing}s and gets {m} more. How many {thing}s does {who} have?", f"{n} + {m} = {n + m}. {who} has {n + m} {thing}s.")]
    n += m
    return [(f"{who} has {n} {thing}s and gives away {m}. How many {thing}s are left?", f"{n} - {m} = {n - m}. {who} has {n - m} {thing}s left.")]


def memory(rng):
    """The user says something about themselves and asks for it later."""
    who, color, animal, place = rng.choice(NAMES), rng.choice(COLORS), rng.choice(("cat", "dog", "bird", "fish", "horse", "rabbit")), rng.choice(("Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "New York", "Vienna", "Oslo", "Cairo"))
    pet, thing, age = rng.choice(("Luna", "Milo", "Rex", "Bella", "Coco", "Tiger", "Max")), rng.choice(THINGS), rng.randint(8, 90)
    facts = [((f"My name is {who}.", f"I am {who}", f"I'm {who}.", f"Hi, my name is {who}", f"call me {who}"), (f"Nice to meet you, {who}!", f"Hello {who}! How can I help you?"),
              ("What is my name?", "Do you remember my name?", "what's my name", "Who am I?"), (f"Your name is {who}.",)),
             ((f"My favorite color is {color}.", f"I like the color {color}"), (f"{color.capitalize()} is a lovely color.",), ("What is my favorite color?", "Which color do I like?"), (f"Your favorite color is {color}.",)),
             ((f"I have a {animal} named {pet}.", f"My {animal} is called {pet}"), (f"{pet} is a nice name for a {animal}!",), (f"What is the name of my {animal}?", f"What is my {animal} called?"), (f"Your {animal} is called {pet}.",)),
             ((f"I live in {place}.", f"I am from {place}"), (f"{place} must be an interesting place to live.",), ("Where do I live?", "Which city do I live in?"), (f"You live in {place}.",)),
             ((f"I am {age} years old.", f"I'm {age}"), ("Thank you for telling me.", "Good to know!"), ("How old am I?", "What is my age?"), (f"You are {age} years old.",)),
             ((f"Please remember the word {thing}.", f"Remember: {thing}"), (f"I will remember the word {thing}.",), ("Which word did I ask you to remember?", "What was the word?"), (f"The word was {thing}.",))]
    chosen = rng.sample(facts, rng.choice((1, 1, 2, 3)))
    turns = [(rng.choice(f[0]), rng.choice(f[1])) for f in chosen]
    if rng.random() < 0.3:
        turns += sums(rng)
    rng.shuffle(chosen)
    return turns + [(sloppy(rng, rng.choice(f[2])), rng.choice(f[3])) for f in chosen]


def reading(rng):
    """Small facts about people, things and places with a question about one of them."""
    people, things, colors = rng.sample(NAMES, 3), rng.sample(THINGS, 3), [rng.choice(COLORS) for _ in range(3)]
    places = rng.sample(PLACES, 3)
    i = rng.randrange(3)
    form = rng.randrange(3)
    if form == 0:
        text = " ".join(f"{p} has a {c} {t}." for p, c, t in zip(people, colors, things))
        ask, reply = rng.choice(((f"Who has the {things[i]}?", f"{people[i]} has the {things[i]}."), (f"What color is the {things[i]}?", f"The {things[i]} is {colors[i]}."), (f"What does {people[i]} have?", f"{people[i]} has a {colors[i]} {things[i]}.")))
    elif form == 1:
        text = " ".join(rng.choice((f"{p} is in the {x}.", f"{p} went to the {x}.")) for p, x in zip(people, places))
        ask, reply = rng.choice(((f"Where is {people[i]}?", f"{people[i]} is in the {places[i]}."), (f"Who is in the {places[i]}?", f"{people[i]} is in the {places[i]}.")))
    else:
        text = " ".join(f"{p} put the {t} in the {x}." for p, t, x in zip(people, things, places))
        ask, reply = rng.choice(((f"Where is the {things[i]}?", f"The {things[i]} is in the {places[i]}."), (f"Who took the {things[i]}?", f"{people[i]} put the {things[i]} in the {places[i]}.")))
    return [(rng.choice((f"{text} {ask}", f"{text}\n\n{ask}", f"Text: {text}\nQuestion: {ask}")), reply)]


def text_tasks(rng, bank):
    some = rng.sample(bank, 3)
    w = some[0]
    number = rng.randint(1, 99)
    items = rng.sample(bank, rng.randint(3, 5))
    tasks = ((f"Spell the word {w}.", "-".join(w.upper())), (f"How many letters does the word {w} have?", f"The word {w} has {len(w)} letters."),
             (f"Write {w} in capital letters.", w.upper()), (f"Repeat after me: {' '.join(some)}", " ".join(some)),
             (f"Sort these words: {', '.join(items)}", ", ".join(sorted(items))), (f"Which word is longest: {', '.join(items)}?", max(items, key=len)),
             (f"What is the first letter of {w}?", f"The first letter of {w} is {w[0].upper()}."), (f"What comes after {number}?", str(number + 1)),
             (f"Which number is larger, {number} or {number + 7}?", f"{number + 7} is larger."), (f"Count from {number} to {number + 5}.", ", ".join(str(number + i) for i in range(6))),
             (f"Is {number} even or odd?", f"{number} is {'even' if number % 2 == 0 else 'odd'}."), (f"Make a list of these: {' and '.join(some)}", "\n".join("- " + s for s in some)))
    ask, reply = rng.choice(tasks)
    return [(sloppy(rng, ask) if "after me" not in ask else ask, reply)]


def wish(rng):
    """A system message and the change of a reply it asks for."""
    name = rng.choice(NAMES)
    plain = lambda t: t
    return rng.choice(((rng.choice(("You are a helpful assistant.", "You are a friendly assistant.", "You are MLXR's small built-in model.", "Be brief and kind.", "You are a helpful AI assistant. Answer clearly.")), plain, None),) * 5 +
                      ((f"Your name is {name}.", plain, name), (f"You are {name}, a helpful assistant.", plain, name),
                       ("Answer in capital letters.", str.upper, None), ("Write everything in lower case.", str.lower, None),
                       ('End every answer with "Over."', lambda t: t + " Over.", None), (f"The user's name is {name}. Use it.", lambda t: f"{name}, " + t, None)))


def conversations(root, count, seed, held_out=False):
    """`count` conversations as {"messages"}; `held_out` draws other school problems and other random choices."""
    rng = random.Random(hashlib.sha256(f"chat/{seed}".encode()).digest())
    bank = [w for w in open(os.path.join(HERE, "seed.txt")).read().lower().split() if w.isalpha() and len(w) > 3]
    bank = sorted(set(bank))
    return drawn(rng, count, [(0.30, seeds(rng)), (0.16, words(root)), (0.09, commands(root)), (0.08, countries(root)), (0.03, functions(root)),
             (0.05, trivia(root)), (0.025, tales(root)), (0.025, school_math(root, "test" if held_out else "train")), (0.07, [sums]),
             (0.02, [counting]), (0.02, capitals(root)), (0.03, [unknown]), (0.06, [memory]), (0.05, [reading]), (0.05, [lambda r: text_tasks(r, bank)])])


def common(root, count, seed):
    """As `conversations`, of what people ask first: hand-written text and the most common words."""
    rng = random.Random(hashlib.sha256(f"common/{seed}".encode()).digest())
    return drawn(rng, count, [(0.5, seeds(rng, "common.txt")), (0.2, seeds(rng)), (0.12, words(root, 1500)), (0.06, countries(root)),
                              (0.04, capitals(root)), (0.04, [memory]), (0.04, [reading])])


def drawn(rng, count, pools):
    """Conversations of units drawn from [(weight, units)]."""
    weights = [p[0] for p in pools]
    for _ in range(count):
        pairs = []
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            pairs += rng.choice(rng.choices(pools, weights)[0][1])(rng)
        messages, change = [], lambda t: t
        if rng.random() < 0.25:
            text, change, name = wish(rng)
            messages.append({"role": "system", "content": text})
            if name:
                pairs.insert(rng.randint(0, 1), (rng.choice(("What is your name?", "Who are you?", "what's your name")), rng.choice((f"My name is {name}.", f"I am {name}."))))
                pairs = [p for i, p in enumerate(pairs) if "MLXR" not in p[1]]
        for ask, reply in pairs:
            messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": change(reply)}]
        if pairs:
            yield {"messages": messages}
