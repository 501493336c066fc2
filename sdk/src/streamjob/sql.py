"""The syntax of SQL expressions, read by sqlglot with functions left as they are written."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError

_MAX_LENGTH = 10_000
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


class ExpressionError(ValueError):
    """An expression that cannot be used; `fix` says what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@cache
def _dialect() -> type[Postgres]:
    base: Any = Postgres.Parser if hasattr(Postgres, "Parser") else Postgres.parser_class

    class StreamJobSql(Postgres):
        """PostgreSQL's expressions without its functions.

        sqlglot folds functions that mean nearly the same in other databases into one node (var_samp and variance).
        Here each call keeps its name, so that the lowering alone decides what exists.
        """

        class Tokenizer(Postgres.Tokenizer):
            # A word that begins a statement elsewhere is a field's name here.
            COMMANDS = set()

        class Parser(base):  # type: ignore[misc]
            STATEMENT_PARSERS = {TokenType.SEMICOLON: base.STATEMENT_PARSERS[TokenType.SEMICOLON]}
            FUNCTIONS: dict[str, Any] = {}
            FUNCTION_PARSERS = {"CAST": base.FUNCTION_PARSERS["CAST"]}
            NO_PAREN_FUNCTIONS: dict[Any, Any] = {}
            NO_PAREN_FUNCTION_PARSERS = {"CASE": base.NO_PAREN_FUNCTION_PARSERS["CASE"]}

    return StreamJobSql


def parse_sql(text: str) -> exp.Expr:
    """The syntax tree of one expression. Raises ExpressionError with the column of a syntax error."""
    if not text.strip():
        raise ExpressionError("is empty", "write an SQL expression")
    if len(text) > _MAX_LENGTH:
        raise ExpressionError("is too long", f"use at most {_MAX_LENGTH} characters, or a UDF")
    try:
        trees = sqlglot.parse(text, dialect=_dialect())
    except SqlglotError as error:
        if ";" in _QUOTED.sub("", text):
            raise _several() from None
        raise _syntax_error(text, error) from None
    except RecursionError:
        raise ExpressionError("is nested too deeply", "simplify it, or use a UDF") from None
    if len(trees) != 1 or trees[0] is None or isinstance(trees[0], exp.Block):
        raise _several()
    return trees[0]


def _several() -> ExpressionError:
    return ExpressionError("must be one expression", "remove the semicolon and what follows it")


def _syntax_error(text: str, error: SqlglotError) -> ExpressionError:
    details = getattr(error, "errors", None) or [{}]
    highlight, before = details[0].get("highlight"), details[0].get("start_context")
    if not highlight:
        quote = " A text or a quoted name is not closed." if text.count("'") % 2 or text.count('"') % 2 else ""
        return ExpressionError(f"is no SQL expression.{quote}", "check quotes and brackets")
    after = "" if before is None else f", character {len(before) + 1}"
    return ExpressionError(f"is no SQL expression near {highlight}{after}", "check operators, commas and brackets")
