"""GLOSSARY.md: the terms of NOTATION.md in the order of the alphabet, with where each is explained.

`tools/build.py sync` writes it.
"""

import re

import rules

GLOSSARY = rules.ROOT / "GLOSSARY.md"
HEAD = """# Glossary

Every term of the course, with the chapter that explains it and the Chinese term. This page is made
from [NOTATION.md](NOTATION.md), which has the symbols, by `tools/build.py sync`.

| Term | Meaning | In code | 中文 | Chapter |
|---|---|---|---|---|
"""


def rows(notation):
    """[(term, meaning, code, chinese, chapters named above the table)] of NOTATION.md's tables."""
    found, chapters = [], []
    for line in notation.splitlines():
        if line.startswith("## "):
            chapters = re.findall(r"\d\d", line)
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not line.startswith("|") or len(cells) != 4 or cells[0] in ("Symbol", "---"):
            continue
        symbol, code, text, chinese = cells
        several = list(zip(text.split(";"), chinese.split("；"), strict=False))
        if text.count(";") != chinese.count("；"):  # one term, and what follows is its meaning
            several = [(text, chinese)]
        for one, translated in several:
            term, meaning = re.fullmatch(r"([^:;,(\[]+)[:;,]?\s*(.*)", one.strip()).groups()
            code = code if code != "–" else symbol
            found.append((term.strip(), meaning, code, translated.strip(), chapters))
    return found


def stem_of(term, chapters, texts):
    """Of the chapters named above the table, the first whose prose has the term."""
    word = re.compile(rf"\b{re.escape(term)}(s|es)?\b", re.I)
    named = [stem for stem in texts if stem[:2] in chapters]
    return next((stem for stem in named if word.search(texts[stem])), named[0])


def page(notation, texts):
    """GLOSSARY.md. notation: that page; texts: stem → prose of the chapter, in their order."""
    lines = {}
    for term, meaning, code, chinese, chapters in rows(notation):
        stem = stem_of(term, chapters, texts)
        where = f"[{stem[:2]}](chapters/{stem}.ipynb)"
        line = f"| {term} | {meaning or '–'} | {code} | {chinese} | {where} |\n"
        lines.setdefault((term.lower(), chinese), line)  # two tables may have the same term
    return HEAD + "".join(line for _, line in sorted(lines.items()))


def prose(text):
    """The prose of a chapter's text on one line, without comment marks."""
    cells = (cell.source for cell in rules.from_text(text).cells if cell.cell_type == "markdown")
    return re.sub(r"\s+", " ", " ".join(cells))


def current():
    """GLOSSARY.md as it should be now."""
    texts = {stem: prose(rules.read_text(stem)) for stem in rules.stems()}
    return page((rules.ROOT / "NOTATION.md").read_text(encoding="utf-8"), texts)


def problems():
    """Sentences about a page that is missing or stale."""
    if not GLOSSARY.exists() or GLOSSARY.read_text(encoding="utf-8") != current():
        return ["GLOSSARY.md is not what NOTATION.md says: run `python tools/build.py sync`."]
    return []
