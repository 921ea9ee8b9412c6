"""Positions in Python source with exact labels, from ``tokenize`` and ``ast``.

A position is the end of a word or sign: the text up to there is what a model reads, and the label
says something about that place. Each concept is a function from :class:`Source` to positions.
"""

import ast
import io
import keyword
import re
import tokenize
import warnings
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

__all__ = ["CONCEPTS", "Position", "Source"]


class Position(NamedTuple):
    """A labelled place in a text.

    Attributes
    ----------
    end : offset in characters; the text before it is read.
    label : the class.
    needs : offset that a window must reach back to, so that the label can be known from it.
    cue : what the surface gives away; the classes are balanced within each cue.
    """

    end: int
    label: int
    needs: int
    cue: Hashable


class Token(NamedTuple):
    """A token that is not layout: ``kind`` is a ``tokenize`` type, offsets are in characters."""

    kind: int
    string: str
    start: int
    end: int


class Source:
    """A parsed file: its text, its tokens and its tree.

    f-strings and what stands in them are left out of ``tokens``: up to Python 3.11 they are one
    token and later several, and they are text and code at once.

    Raises
    ------
    SyntaxError, tokenize.TokenError : the text is not Python.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tree = ast.parse(text)
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.tokens = list(self._tokens())

    def offset(self, line: int, column: int) -> int:
        """Offset in characters of a place as ``tokenize`` gives it (line from 1)."""
        return self._starts[line - 1] + column

    def offset_of_bytes(self, line: int, column: int) -> int:
        """Offset in characters of a place as ``ast`` gives it, whose columns are UTF-8 bytes."""
        start = self._starts[line - 1]
        if not self.text.isascii():
            column = len(self.text[start : start + column].encode()[:column].decode())
        return start + column

    def line_of(self, offset: int) -> int:
        """The line, from 1, that holds the character before an offset."""
        return bisect_left(self._starts, offset)

    def line_start_from(self, offset: int) -> int:
        """The first line start at or after an offset; the text's length where there is none."""
        index = bisect_left(self._starts, offset)
        return self._starts[index] if index < len(self._starts) else len(self.text)

    def _tokens(self) -> Iterator[Token]:
        layout = {
            tokenize.ENCODING,
            tokenize.ENDMARKER,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.NL,
            tokenize.NEWLINE,
        }
        inside = 0
        for kind, string, start, end, _ in tokenize.generate_tokens(
            io.StringIO(self.text).readline
        ):
            name = tokenize.tok_name[kind]
            if name in ("FSTRING_START", "TSTRING_START"):
                inside += 1
            elif name in ("FSTRING_END", "TSTRING_END"):
                inside -= 1
            elif inside or kind in layout or (kind == tokenize.STRING and _is_formatted(string)):
                continue
            else:
                yield Token(kind, string, self.offset(*start), self.offset(*end))


def _is_formatted(string: str) -> bool:
    prefix = string[: min(string.find(quote) % len(string) for quote in "'\"")]
    return "f" in prefix.lower()


def _cue(token: Token) -> str:
    """The sign or keyword itself; for all else the kind of token."""
    if token.kind == tokenize.OP or keyword.iskeyword(token.string):
        return token.string
    return tokenize.tok_name[token.kind]


def keyword_positions(source: Source) -> Iterator[Position]:
    """Lexical: 1 where the next token, on the same line, is a keyword. Cue: the token before."""
    for before, after in zip(source.tokens, source.tokens[1:], strict=False):
        between = source.text[before.end : after.start]
        if between.strip(" ") or tokenize.COMMENT in (before.kind, after.kind):
            continue
        label = int(after.kind == tokenize.NAME and keyword.iskeyword(after.string))
        yield Position(before.end, label, before.start, _cue(before))


_WORD = re.compile(r"(?<![\\\w])[A-Za-z_]\w*")
_QUOTES = re.compile(r"[A-Za-z]*('''|\"\"\"|'|\")")


def string_positions(source: Source) -> Iterator[Position]:
    """Syntactic: 1 inside a string or comment, 0 in code. Cue: the last word, and what opened.

    All end after a word. One in code has a string or comment of the same kind behind it, already
    closed, so that a quote in the window says nothing.
    """
    last: tuple[str, int] | None = None
    for token in source.tokens:
        if token.kind == tokenize.NAME and last is not None:
            yield Position(token.end, 0, last[1], (token.string, last[0]))
        if token.kind not in (tokenize.STRING, tokenize.COMMENT):
            continue
        kind, first, final = "comment", 1, len(token.string)
        if token.kind == tokenize.STRING and (opening := _QUOTES.match(token.string)):
            kind, first = opening[1], opening.end()
            final -= len(opening[1])
        last = (kind, token.start)
        for word in _WORD.finditer(token.string, first, final):
            yield Position(token.start + word.end(), 1, token.start, (word[0], kind))


def bracket_positions(source: Source) -> Iterator[Position]:
    """Syntactic: how many brackets are open after a token: 0, 1, or 2 for more. Cue: the token."""
    opened: list[int] = []
    for token in source.tokens:
        if token.kind == tokenize.COMMENT:
            continue
        if token.kind == tokenize.OP and token.string in "([{":
            opened.append(token.start)
        elif token.kind == tokenize.OP and token.string in ")]}":
            opened.pop()
        needs = opened[0] if opened else token.start
        yield Position(token.end, min(len(opened), 2), needs, _cue(token))


_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_INNER = (*_SCOPES, ast.Lambda, *_COMPREHENSIONS)


def loop_positions(source: Source) -> Iterator[Position]:
    """Semantic: 1 in the body of a ``for`` or ``while``, 0 after one. Cue: the indentation.

    All end after a name in a simple statement. One outside has a loop of the same scope behind it,
    already over, so that the word ``for`` says nothing. The ``else`` of a loop, what is defined
    inside one, and statements with a comprehension or lambda are left out.
    """
    names = [t for t in source.tokens if t.kind == tokenize.NAME and not _is_keyword(t)]
    ends = [token.end for token in names]

    def place(node: ast.stmt) -> int:
        return source.offset_of_bytes(node.lineno, node.col_offset)

    def walk(body: list[ast.stmt], loop: int | None, over: int | None) -> Iterator[Position]:
        for node in body:
            bodies = _bodies(node)
            if isinstance(node, _SCOPES):
                if loop is None:
                    yield from walk(node.body, None, None)
            elif isinstance(node, _LOOPS):
                yield from walk(node.body, place(node), None)
                over = place(node)
            elif bodies:
                for part in bodies:
                    yield from walk(part, loop, over)
                over = max([over or 0, *_loops_in(node, place)]) or None
            elif (known := loop if loop is not None else over) is not None:
                if any(isinstance(child, _INNER) for child in ast.walk(node)):
                    continue
                stop = source.offset_of_bytes(node.end_lineno or 0, node.end_col_offset or 0)
                for end in ends[bisect_left(ends, place(node) + 1) : bisect_left(ends, stop + 1)]:
                    yield Position(end, int(loop is not None), known, node.col_offset)

    yield from walk(source.tree.body, None, None)


def _is_keyword(token: Token) -> bool:
    return keyword.iskeyword(token.string)


def _bodies(node: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks of a compound statement: branches, handlers, cases."""
    lists = [value for _, value in ast.iter_fields(node) if isinstance(value, list) and value]
    blocks = [value for value in lists if isinstance(value[0], ast.stmt)]
    for value in lists:
        if isinstance(value[0], ast.ExceptHandler | ast.match_case):
            blocks += [part.body for part in value]
    return blocks


def _loops_in(node: ast.AST, place: Callable[[ast.stmt], int]) -> Iterator[int]:
    """Places of the loops inside a statement, those inside definitions left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _LOOPS):
            yield place(child)
        if not isinstance(child, _INNER):
            yield from _loops_in(child, place)


def argument_positions(source: Source) -> Iterator[Position]:
    """Semantic: 1 where the last name is an argument of its function, 0 a local. Cue: the name.

    All end after a name that is read. An argument that the function assigns to, ``self`` and
    ``cls``, globals, and names in inner functions, comprehensions and f-strings are left out.
    """
    for function in ast.walk(source.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = [n for statement in function.body for n in _own_names(statement)]
        given = function.args
        arguments = {
            argument.arg
            for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]
            + [extra for extra in (given.vararg, given.kwarg) if extra is not None]
        }
        outside = {
            name
            for node in ast.walk(function)
            if isinstance(node, ast.Global | ast.Nonlocal)
            for name in node.names
        }
        bound = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
        needs = source.offset_of_bytes(function.lineno, function.col_offset)
        for n in names:
            label = int(n.id in arguments)
            unclear = n.id in outside or n.id in ("self", "cls") or label == (n.id in bound)
            if isinstance(n.ctx, ast.Load) and not unclear:
                end = source.offset_of_bytes(n.end_lineno or 0, n.end_col_offset or 0)
                yield Position(end, label, needs, n.id)


def _own_names(node: ast.AST) -> Iterator[ast.Name]:
    if isinstance(node, ast.Name):
        yield node
    elif not isinstance(node, _INNER) and type(node).__name__ not in ("JoinedStr", "TemplateStr"):
        for child in ast.iter_child_nodes(node):
            yield from _own_names(child)


CONCEPTS = {
    "keyword": keyword_positions,
    "string": string_positions,
    "bracket_depth": bracket_positions,
    "loop": loop_positions,
    "argument": argument_positions,
}
