"""Readers of the training sources: each yields (title, text) documents in a fixed order.

Sources are git checkouts at the commits in sources.json and unpacked Debian packages.
Files over 4 MiB are not read, so that a partial copy and a full clone give the same text.
"""

import json
import os
import re
import subprocess
from html.parser import HTMLParser

HERE = os.path.dirname(os.path.abspath(__file__))
FILE_LIMIT_BYTES = 4 << 20
LIST = json.load(open(os.path.join(HERE, "sources.json")))
QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...",
                        "\u00a0": " ", "\u200a": "", "\u2060": "", "\ufeff": "", "\u2011": "-",
                        "\u2009": " ", "\u2013": "-", "\u200b": "", "\u00ad": ""})


def clean(text):
    """Plain quotes and dashes, no invisible characters, at most one empty line in a row."""
    text = text.translate(QUOTES).replace("\r\n", "\n").replace("\t", "    ")
    text = re.sub(r"[ ]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class Git:
    """A git checkout or bare repository, read at one commit without a work tree."""

    def __init__(self, root, repo, commit):
        base = os.path.join(root, repo.replace("/", "+"))
        self.dir = next(d for d in (os.path.join(base, "repo"), base) if os.path.isdir(d))
        self.commit = commit

    def _git(self, *args, data=None):
        env = dict(os.environ, GIT_NO_LAZY_FETCH="1")
        return subprocess.run(["git", "-C", self.dir, *args], input=data, env=env,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout

    def read(self, under, keep):
        """Yields (path, text) of files below `under` whose path satisfies `keep`, sorted."""
        listing = self._git("ls-tree", "-r", "-l", "-z", self.commit, under or ".").decode()
        rows = [line.split(None, 4) for line in listing.split("\0") if line]
        wanted = sorted((path.split("\t")[-1], sha) for _, kind, sha, size, path in
                        [(r[0], r[1], r[2], *r[3:]) for r in rows]
                        if kind == "blob" and size.isdigit() and int(size) <= FILE_LIMIT_BYTES and keep(path))
        out = self._git("cat-file", "--batch", data="".join(sha + "\n" for _, sha in wanted).encode())
        at = 0
        for path, _ in wanted:
            end = out.index(b"\n", at)
            size = int(out[at:end].split()[2])
            yield path, out[end + 1:end + 1 + size].decode("utf-8", "replace")
            at = end + 2 + size


class Text(HTMLParser):
    """HTML or XML to plain text: block elements become paragraphs, listed elements are dropped."""

    BLOCK = {"p", "h1", "h2", "h3", "h4", "h5", "li", "pre", "blockquote", "dd", "dt", "tr", "div", "br",
             "para", "title", "item", "section", "header"}
    DROP = {"script", "style", "svg", "nav", "head", "math", "m:math", "table", "figure", "metadata", "solution"}

    def __init__(self, drop=frozenset()):
        super().__init__(convert_charrefs=True)
        self.parts, self.depth, self.pre, self.drop = [], 0, 0, self.DROP | drop

    def handle_starttag(self, tag, attrs):
        if tag in self.drop:
            self.depth += 1
        elif tag in self.BLOCK:
            self.parts.append("\n\n" if tag != "br" else "\n")
        self.pre += tag == "pre"

    def handle_endtag(self, tag):
        if tag in self.drop:
            self.depth = max(0, self.depth - 1)
        elif tag in self.BLOCK:
            self.parts.append("\n\n")
        self.pre -= tag == "pre"

    def handle_startendtag(self, tag, attrs):
        if tag == "br":
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.depth:
            self.parts.append(data if self.pre > 0 else re.sub(r"\s+", " ", data))

    @staticmethod
    def of(html, drop=frozenset()):
        parser = Text(drop)
        parser.feed(html)
        text = re.sub(r" *\n *", "\n", "".join(parser.parts)) if "<pre" not in html else "".join(parser.parts)
        return clean(re.sub(r"\n +\n", "\n\n", text))


def git(root, name):
    row = next(g for g in LIST["git"] if g["name"] == name)
    return Git(root, row["repo"], row["commit"])


def books(root):
    """Standard Ebooks: one document per chapter or story."""
    skip = {"colophon", "imprint", "titlepage", "uncopyright", "halftitlepage", "endnotes", "loi", "toc", "dedication"}
    for repo, commit in LIST["books"]["repos"]:
        tree = Git(root, "standardebooks/" + repo, commit)
        opf = next(iter(tree.read("src/epub/content.opf", lambda p: True)))[1]
        files = dict(tree.read("src/epub/text", lambda p: p.endswith(".xhtml")))
        for name in re.findall(r'<itemref idref="([^"]+)\.xhtml"', opf):
            body = files.get("src/epub/text/" + name + ".xhtml")
            if body and name not in skip:
                yield name.replace("-", " "), Text.of(body)


def stories(root):
    """Children's stories whose file states a licence without a non-commercial clause."""
    for name in ("stories-asp", "stories-pb"):
        for _, text in git(root, name).read("en/", lambda p: p.endswith(".md") and "README" not in p):
            licence = re.search(r"License: \[?([^\]\n]+)", text)
            if not licence or "NC" in licence.group(1) or not re.search("BY|ublic", licence.group(1)):
                continue
            title = re.match(r"#\s*(.+)", text)
            body = re.sub(r"(?m)^(#.*|\* (License|Text|Illustration|Translat|Language|Photo|Author|Source).*)$", "", text)
            body = "\n\n".join(" ".join(p.split()) for p in re.split(r"\n\s*\n", body) if p.strip())
            if title and len(body) > 200:
                yield title.group(1).strip(), clean(body)


def factbook(root):
    """(country, {field: text}) in factbook order of files; HTML is stripped."""
    strip = lambda v: clean(re.sub(r"<[^>]+>", " ", v)).replace("  ", " ")
    for path, text in git(root, "factbook").read("", lambda p: re.fullmatch(r"(?!meta)[\w-]+/\w\w\.json", p)):
        fields = {}

        def walk(node, trail):
            for key, value in node.items():
                if isinstance(value, dict):
                    walk(value, trail + [key.strip()])
                elif key == "text" and isinstance(value, str):
                    fields[" / ".join(trail)] = strip(value)

        walk(json.loads(text), [])
        name = fields.get("Government / Country name / conventional short form", "none")
        if name in ("none", "") or ";" in name:
            name = fields.get("Government / Country name / conventional long form", "")
        if name and name != "none":
            yield name.split("(")[0].strip(), fields


def factbook_text(root):
    for name, fields in factbook(root):
        lines = [f"{key.split(' / ', 1)[-1].replace(' / ', ', ')}: {value}" for key, value in fields.items()
                 if not re.match("Communications|Transportation|Energy", key)]
        yield name, name + "\n\n" + "\n".join(lines)


def rst(text):
    """reStructuredText with the roles, directives of no prose and underlines taken out."""
    text = re.sub(r":[\w:+-]+:`[~!]?([^`<]+?)(\s*<[^`>]*>)?`", r"\1", text)
    text = re.sub(r"`([^`<]+?)\s*<[^`>]*>`_+", r"\1", text)
    text = re.sub(r"(?m)^(\s*)\.\. (index|module|sectionauthor|moduleauthor|highlight|_).*\n(\1 +.*\n)*", "", text)
    text = re.sub(r"(?m)^([=\-~^*+#\"'`.])\1{3,}\s*$\n?", "", text)
    return clean(text.replace("``", "`"))


def peps(root):
    for path, text in git(root, "peps").read("peps/", lambda p: re.search(r"/pep-\d+\.rst$", p)):
        title = re.search(r"(?m)^Title: (.+)", text)
        body = re.sub(r"\A(?:[\w-]+:.*\n(?:\s+.*\n)*)+", "", text)
        if title:
            yield title.group(1), "PEP " + str(int(path[-8:-4])) + ": " + title.group(1) + "\n\n" + rst(body)


def python_docs(root):
    base = os.path.join(root, "python3.11-doc/usr/share/doc/python3.11/html/_sources")
    for folder in ("tutorial", "library", "howto", "faq", "reference", "using", "extending"):
        for name in sorted(os.listdir(os.path.join(base, folder))):
            if name.endswith(".txt"):
                yield name[:-8], rst(open(os.path.join(base, folder, name), encoding="utf-8").read())


def sqlite_docs(root):
    base = os.path.join(root, "sqlite3-doc/usr/share/doc/sqlite3")
    skip = re.compile(r"^(doc_|releaselog|hlr|cves|chronology|sitemap|keyword|copyright-release|consortium)")
    for name in sorted(os.listdir(base)):
        if name.endswith(".html") and not skip.match(name):
            text = Text.of(open(os.path.join(base, name), encoding="utf-8", errors="replace").read(), frozenset({"form"}))
            text = re.sub(r"(?s)\A.{0,400}?Support\s+Purchase\s+", "", text)
            text = re.sub(r"(?s)► Table Of Contents.*?\n1\. (.+?)\n.*?\n1\. \1\n", r"\n1. \1\n", text)
            if len(text) > 300:
                yield name[:-5], text


def tldr(root):
    """(command, description, [(what, command line)]) of the English pages."""
    for path, text in git(root, "tldr").read("pages/", lambda p: re.match(r"pages/(common|linux|osx)/.*\.md$", p)):
        name = re.match(r"# (.+)", text)
        about = " ".join(l[2:].strip() for l in text.splitlines() if l.startswith("> ") and "information:" not in l)
        plain = lambda s: re.sub(r"\{\{\[(-[^|\]]+)\|[^\]]+\]\}\}", r"\1", s).replace("{{", "").replace("}}", "")
        pairs = re.findall(r"(?m)^- (.+?):?\n\n`(.+)`", text)
        pairs = [(re.sub(r"\[(\w+)\]", r"\1", what), plain(line)) for what, line in pairs]
        if name and pairs and "alias of" not in about:
            yield name.group(1), about.replace("`", ""), pairs


def tldr_text(root):
    for name, about, pairs in tldr(root):
        yield name, f"{name}: {about}\n\n" + "\n".join(f"{what}:\n    {line}" for what, line in pairs)


def kjv(root):
    """The King James Bible, one document per chapter."""
    tool = os.path.join(root, "bible-kjv/usr/bin/bible")
    data = os.path.join(root, "bible-kjv-text/usr/lib")
    out = subprocess.run([tool, "-l99999", "-p", data, "gen1:1-rev22:21"], stdout=subprocess.PIPE, check=True)
    chapter, lines = None, []
    for line in out.stdout.decode("latin-1").splitlines() + ["End 1"]:
        verse = re.match(r"\s+\d+ (.+)", line)
        if verse:
            lines.append(verse.group(1))
        elif line.strip():
            if lines:
                yield chapter, chapter + "\n\n" + clean("\n".join(lines))
            chapter, lines = line.strip(), []


def openstax(root):
    for row in LIST["git"]:
        if row["name"].startswith("openstax"):
            for _, text in git(root, row["name"]).read("modules/", lambda p: p.endswith("index.cnxml")):
                title = re.search(r"<title>(.+?)</title>", text)
                body = Text.of(text[text.find("<content"):])
                if title and len(body) > 400:
                    yield title.group(1), title.group(1) + "\n\n" + body


def markdown(root):
    rules = (("rust-book", "src/"), ("shell-novice", "episodes/"))
    for name, under in rules:
        for path, text in git(root, name).read(under, lambda p: p.endswith(".md")):
            text = re.sub(r"(?s)\A---.*?---\n|<!--.*?-->|\{\{#.*?\}\}|\{[:%].*?\}", "", text)
            yield path, clean(re.sub(r"\[([^\]]+)\](\([^)]*\)|\[[^\]]*\])", r"\1", text))


def topical(root):
    """Human conversations as plain dialogue, without any assistant role."""
    for _, text in git(root, "topical").read("conversations/", lambda p: p.endswith(".json")):
        for key, talk in json.loads(text).items():
            lines = [f"{'A' if t['agent'] == 'agent_1' else 'B'}: {t['message'].strip()}" for t in talk["content"]]
            yield key, clean("\n".join(lines))


def wordnet(root):
    """Synsets in file order: {offset: (pos, words, gloss, examples, pointers)} and {lemma: [offset]} by sense."""
    base = os.path.join(root, "wordnet-base/usr/share/wordnet")
    synsets, index = {}, {}
    for pos in ("noun", "verb", "adj", "adv"):
        for line in open(os.path.join(base, "data." + pos), encoding="latin-1"):
            if line.startswith("  "):
                continue
            head, gloss = line.rstrip().split(" | ", 1)
            f = head.split()
            n_word = int(f[3], 16)
            words = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in f[4:4 + 2 * n_word:2]]
            rest = f[4 + 2 * n_word:]
            points = [(rest[1 + 4 * i], rest[3 + 4 * i] + rest[2 + 4 * i], rest[4 + 4 * i]) for i in range(int(rest[0]))]
            examples = re.findall(r'"([^"]+)"', gloss)
            meaning = re.split(r';\s*"', gloss)[0].strip().strip(";")
            synsets[f[2].replace("s", "a") + f[0]] = (pos, words, meaning, examples, points)
        for line in open(os.path.join(base, "index." + pos), encoding="latin-1"):
            if not line.startswith("  "):
                f = line.split()
                tagged = int(f[5 + int(f[3])])
                index.setdefault(f[0].replace("_", " "), []).append((tagged, pos, [f[1] + o for o in f[6 + int(f[3]):]]))
    return synsets, index


def wordnet_text(root):
    synsets, _ = wordnet(root)
    lines = []
    for pos, words, meaning, examples, _ in synsets.values():
        lines.append(f"{', '.join(words)} ({pos}): {meaning}." + "".join(f' "{e}"' for e in examples))
        if len(lines) == 24:
            yield words[0], clean("\n".join(lines))
            lines = []


TEXTS = {"books": books, "stories": stories, "factbook": factbook_text, "peps": peps, "python-docs": python_docs,
         "sqlite-docs": sqlite_docs, "tldr": tldr_text, "kjv": kjv, "openstax": openstax, "markdown": markdown,
         "topical": topical, "wordnet": wordnet_text}
