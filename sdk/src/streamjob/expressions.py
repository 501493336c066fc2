"""SQL expressions of a job: read, checked against column types and lowered to the engine's typed tree.

An expression is a JSON-ready dict, one of `{"kind": "column", "name": …}`, `{"kind": "literal", "value": …}` and
`{"kind": "call", "function": …, "args": […]}`. Everything is decided here, so that the engine has few functions and
no syntax to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlglot import exp

from streamjob.problems import suggest
from streamjob.sql import ExpressionError, parse_sql

Expression = dict[str, Any]
Columns = Mapping[str, str]

ANY: Final = "unknown"
"""The type of a column whose own declaration is wrong, which was reported there already."""
NULL: Final = "null"
_NUMERIC = ("int64", "float64", ANY)
_MAX_DEPTH = 40  # each level is two of JSON, whose readers stop at 128
_MAX_NODES = 10_000  # columns, literals and calls of one expression
_INT_RANGE = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Typed:
    """A lowered expression and its type: string, float64, int64, bool, or null for a bare NULL."""

    expression: Expression
    type: str


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A lowered aggregate: the engine's function, its argument (None: count of rows) and the result's type."""

    function: str
    argument: Expression | None
    type: str


AGGREGATES: Final = {
    "count": "count",
    "sum": "sum",
    "mean": "mean",
    "avg": "mean",
    "min": "min",
    "max": "max",
    "variance": "variance",
    "var_pop": "variance",
    "stddev": "stddev",
    "stddev_pop": "stddev",
    "first": "first",
    "last": "last",
}
_SAMPLE = {
    "var_samp": "variance",
    "stddev_samp": "stddev",
    "var": "variance",
    "std": "stddev",
    "first_value": "first",
    "last_value": "last",
    "average": "mean",
    "any_value": "first",
}
_FLOAT_RESULT = ("mean", "variance", "stddev")


def lower_where(text: str, columns: Columns) -> Expression:
    """A condition such as `abs(score) > 3 and device_id <> 'x'`, lowered.

    `columns` maps the names it may use to their types. Raises ExpressionError if it is no condition on them.
    """
    typed = _lower(parse_sql(text), columns)
    if typed.type not in ("bool", ANY):
        raise ExpressionError(f"must be a condition, this is {_a(typed.type)}", "compare it, for example x > 3")
    return typed.expression


def lower_aggregate(text: str, columns: Columns) -> Aggregate:
    """An aggregate such as `count()`, `mean(temperature)` or `stddev(abs(x))`, lowered.

    `columns` maps the names its argument may use to their types. Raises ExpressionError for anything else.
    """
    node = parse_sql(text)
    if not isinstance(node, exp.Anonymous):
        raise ExpressionError(
            "must be one aggregate function" if not _holds_aggregate(node) else "an aggregate must stand alone",
            "write for example mean(temperature); calculate inside of the brackets",
        )
    name = str(node.this).lower()
    function = AGGREGATES.get(name)
    if function is None:
        if name in _SAMPLE:
            raise ExpressionError(f"has no aggregate {name}", f"use {_SAMPLE[name]}{_population(name)}")
        raise ExpressionError(f"has no aggregate {name}", suggest(name, sorted(set(AGGREGATES.values())), "aggregates"))
    argument = _argument(function, node.expressions, columns)
    if argument is None:
        return Aggregate(function, None, "int64")
    if function == "count":
        return Aggregate(function, argument.expression, "int64")
    if argument.type not in _NUMERIC:
        raise ExpressionError(f"{name} needs a number, this is {_a(argument.type)}", "use a float64 or int64 field")
    result = "float64" if function in _FLOAT_RESULT else argument.type
    return Aggregate(function, argument.expression, result)


def _argument(function: str, arguments: Sequence[exp.Expr], columns: Columns) -> Typed | None:
    if function == "count" and (not arguments or (len(arguments) == 1 and isinstance(arguments[0], exp.Star))):
        return None
    if len(arguments) != 1:
        raise ExpressionError(f"{function} takes one argument, not {len(arguments)}", f"write {function}(column)")
    if isinstance(arguments[0], exp.Distinct):
        raise ExpressionError("DISTINCT is not supported", "remove it")
    if _holds_aggregate(arguments[0]):
        raise ExpressionError("an aggregate cannot hold another one", "use one aggregate for each name")
    return _lower(arguments[0], columns)


def _lower(node: exp.Expr, columns: Columns) -> Typed:
    too_deep = ExpressionError("is nested too deeply", "simplify it, or use a UDF")
    try:
        typed = _Lowering(columns).lower(node)
    except RecursionError:
        raise too_deep from None
    depth, nodes = _measure(typed.expression, {})
    if depth > _MAX_DEPTH:
        raise too_deep
    if nodes > _MAX_NODES:
        raise ExpressionError(f"grows to more than {_MAX_NODES:,} columns, literals and calls", "use a UDF")
    return typed


def size(expression: Expression) -> int:
    """The number of its columns, literals and calls."""
    return _measure(expression, {})[1]


def _measure(expression: Expression, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Depth and size of a tree in which one object may stand at several places, each of which is looked at once.

    BETWEEN, CASE and nullif use an argument more than once: nested in each other they would be followed without end.
    """
    found = known.get(id(expression))
    if found is None:
        parts = [_measure(arg, known) for arg in expression.get("args", ())]
        found = 1 + max((part[0] for part in parts), default=0), 1 + sum(part[1] for part in parts)
        known[id(expression)] = found
    return found


def _population(name: str) -> str:
    return ", which is that of the population" if name in ("var_samp", "stddev_samp", "var", "std") else ""


def _holds_aggregate(node: exp.Expr) -> bool:
    return any(str(call.this).lower() in AGGREGATES for call in node.find_all(exp.Anonymous))


def _a(kind: str) -> str:
    names = {"int64": "an int64", "float64": "a float64", "bool": "a bool", "string": "a string", NULL: "null"}
    return names.get(kind, kind)


def _call(function: str, *args: Typed) -> Expression:
    return {"kind": "call", "function": function, "args": [arg.expression for arg in args]}


def _literal(value: Any, kind: str) -> Typed:
    return Typed({"kind": "literal", "value": value}, kind)


def _common(types: Sequence[str], what: str) -> str:
    """The one type that all of `types` can be, where int64 becomes float64 beside a float64."""
    known = {kind for kind in types if kind not in (NULL, ANY)}
    if known == {"int64", "float64"}:
        return "float64"
    if len(known) > 1:
        raise ExpressionError(
            f"{what} needs values of one type, these are {' and '.join(sorted(known))}", "make them the same type"
        )
    if known:
        return known.pop()
    return ANY if ANY in types else NULL


_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "eq",
    exp.NEQ: "ne",
    exp.LT: "lt",
    exp.LTE: "le",
    exp.GT: "gt",
    exp.GTE: "ge",
}
_ARITHMETIC: dict[type[exp.Expr], str] = {
    exp.Add: "add",
    exp.Sub: "sub",
    exp.Mul: "mul",
    exp.Div: "div",
    exp.Mod: "mod",
    exp.Pow: "power",
}
_CASTS = {
    exp.DType.DOUBLE: "float64",
    exp.DType.FLOAT: "float64",
    exp.DType.BIGINT: "int64",
    exp.DType.INT: "int64",
}
_NOT_SUPPORTED: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Subquery: ("subqueries are", "compare with values of the same row"),
    exp.Select: ("subqueries are", "compare with values of the same row"),
    exp.Exists: ("subqueries are", "compare with values of the same row"),
    exp.Window: ("window functions (OVER) are", "use the aggregates of spec.windows"),
    exp.Filter: ("FILTER is", "aggregate a case expression, for example sum(case when x > 0 then x end)"),
    exp.Like: ("LIKE is", "compare with = or in (…)"),
    exp.ILike: ("ILIKE is", "compare lower(x) with ="),
    exp.DPipe: ("|| is", "use a UDF to build texts"),
    exp.Star: ("* is only within count(*)", "name a column"),
    exp.Alias: ("a name for the result is", "remove it, or add the operator that is missing"),
    exp.Interval: ("INTERVAL is", "write microseconds as a number"),
}


class _Lowering:
    """Lowers one expression against known columns."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def lower(self, node: exp.Expr) -> Typed:
        """The typed tree of `node`; raises ExpressionError."""
        kind = type(node)
        if kind in _COMPARISONS:
            return self._comparison(_COMPARISONS[kind], self.lower(node.this), self.lower(node.expression))
        if kind in _ARITHMETIC:
            return self._arithmetic(_ARITHMETIC[kind], self.lower(node.this), self.lower(node.expression))
        handler = self._HANDLERS.get(kind)
        if handler is None:
            message, fix = _NOT_SUPPORTED.get(
                kind, (f"{kind.__name__} is", "use comparisons, arithmetic and functions")
            )
            only = "" if "only" in message else " not supported"
            raise ExpressionError(f"{message}{only}", fix)
        return handler(self, node)

    def _column(self, node: exp.Expr) -> Typed:
        name = ".".join(part.name for part in node.parts) if isinstance(node, exp.Column) else node.name
        kind = self._columns.get(name)
        if kind is None:
            raise ExpressionError(f"has no column {name}", suggest(name, self._columns, "columns"))
        return Typed({"kind": "column", "name": name}, kind)

    def _number(self, node: exp.Expr) -> Typed:
        text = str(node.this)
        if node.args.get("is_string"):
            return _literal(text, "string")
        if text.isdigit():
            return self._integer(int(text))
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ExpressionError(f"{text} does not fit into a float64", "use a smaller number")
        return _literal(number, "float64")

    def _integer(self, value: int) -> Typed:
        if value not in _INT_RANGE:
            raise ExpressionError(f"{value} does not fit into an int64", f"write {value}.0 for a float64")
        return _literal(value, "int64")

    def _boolean(self, node: exp.Expr) -> Typed:
        return _literal(bool(node.this), "bool")

    def _null(self, _: exp.Expr) -> Typed:
        return _literal(None, NULL)

    def _paren(self, node: exp.Expr) -> Typed:
        return self.lower(node.this)

    def _negative(self, node: exp.Expr) -> Typed:
        # The sign belongs to the number: without it the smallest int64 would not fit.
        if isinstance(node.this, exp.Literal) and not node.this.args.get("is_string") and str(node.this.this).isdigit():
            return self._integer(-int(str(node.this.this)))
        value = self.lower(node.this)
        if value.expression["kind"] == "literal" and value.type in ("int64", "float64"):
            return _literal(-value.expression["value"], value.type)
        self._need_numbers("-", value)
        return Typed(_call("neg", value), value.type)

    def _arithmetic(self, function: str, left: Typed, right: Typed) -> Typed:
        self._need_numbers(function, left, right)
        common = _common([left.type, right.type], function)
        return Typed(_call(function, left, right), "float64" if function in ("div", "power") else common)

    def _comparison(self, function: str, left: Typed, right: Typed) -> Typed:
        if NULL in (left.type, right.type):
            raise ExpressionError("a comparison with null is never true", "use IS NULL or IS NOT NULL")
        _common([left.type, right.type], "a comparison")
        return Typed(_call(function, left, right), "bool")

    def _need_numbers(self, what: str, *values: Typed) -> None:
        for value in values:
            if value.type not in _NUMERIC:
                raise ExpressionError(f"{what} needs numbers, this is {_a(value.type)}", "use float64 or int64 columns")

    def _conditions(self, function: str, *values: Typed) -> Typed:
        for value in values:
            if value.type not in ("bool", ANY):
                raise ExpressionError(
                    f"{function} needs conditions, this is {_a(value.type)}", "compare it, for example x > 3"
                )
        return Typed(_call(function, *values), "bool")

    def _chain(self, node: exp.Expr) -> Typed:
        """AND and OR as a balanced tree: a list of a hundred conditions is not nested a hundred deep."""
        kind = type(node)
        terms: list[exp.Expr] = []
        pending = [node]
        while pending:
            term = pending.pop()
            if isinstance(term, kind):
                pending += [term.expression, term.this]
            else:
                terms.append(term)
        return self._balanced("and" if kind is exp.And else "or", [self.lower(term) for term in terms])

    def _balanced(self, function: str, terms: list[Typed]) -> Typed:
        if len(terms) == 1:
            return terms[0]
        half = (len(terms) + 1) // 2
        return self._conditions(
            function, self._balanced(function, terms[:half]), self._balanced(function, terms[half:])
        )

    def _not(self, node: exp.Expr) -> Typed:
        return self._conditions("not", self.lower(node.this))

    def _is(self, node: exp.Expr) -> Typed:
        value = self.lower(node.this)
        if isinstance(node.expression, exp.Null):
            return Typed(_call("is_not_null" if node.args.get("negate") else "is_null", value), "bool")
        if not isinstance(node.expression, exp.Boolean):
            raise ExpressionError("IS takes null, true or false", "use = to compare values")
        # IS TRUE and IS FALSE are never null, unlike the value itself.
        wanted = value if node.expression.this else self._conditions("not", value)
        known = self._conditions("coalesce", wanted, _literal(False, "bool"))
        return self._conditions("not", known) if node.args.get("negate") else known

    def _between(self, node: exp.Expr) -> Typed:
        if node.args.get("symmetric"):
            raise ExpressionError("BETWEEN SYMMETRIC is not supported", "put the smaller value first")
        value, low, high = (self.lower(node.args[part]) for part in ("this", "low", "high"))
        both = (self._comparison("ge", value, low), self._comparison("le", value, high))
        return self._conditions("and", *both)

    def _in(self, node: exp.Expr) -> Typed:
        if node.args.get("query") or node.args.get("field") or node.args.get("unnest"):
            raise ExpressionError("IN takes a list of values", "write x in (1, 2, 3)")
        values = [self.lower(node.this), *(self.lower(item) for item in node.expressions)]
        if len(values) == 1:
            raise ExpressionError("IN has no values", "write x in (1, 2, 3)")
        if any(value.type == NULL for value in values):
            raise ExpressionError("null within IN is never equal", "use IS NULL beside it")
        _common([value.type for value in values], "IN")
        return Typed(_call("in", *values), "bool")

    def _case(self, node: exp.Expr) -> Typed:
        operand = self.lower(node.this) if node.this is not None else None
        pairs: list[tuple[Typed, Typed]] = []
        for branch in node.args["ifs"]:
            when = self.lower(branch.this)
            condition = self._comparison("eq", operand, when) if operand else when
            pairs.append((condition, self.lower(branch.args["true"])))
        default = node.args.get("default")
        return self._choice(pairs, self.lower(default) if default is not None else _literal(None, NULL))

    def _choice(self, pairs: Sequence[tuple[Typed, Typed]], otherwise: Typed) -> Typed:
        for condition, _ in pairs:
            self._conditions("case", condition)
        common = _common([*(value.type for _, value in pairs), otherwise.type], "CASE")
        flat = [part for pair in pairs for part in pair]
        return Typed(_call("case", *flat, otherwise), common)

    def _cast(self, node: exp.Expr) -> Typed:
        target = _CASTS.get(node.args["to"].this)
        if target is None:
            raise ExpressionError(
                f"CAST to {node.args['to'].sql()} is not supported", "cast to DOUBLE or BIGINT, or use a UDF"
            )
        value = self.lower(node.this)
        self._need_numbers("CAST", value)
        return Typed(_call(f"cast_{target}", value), target)

    def _function(self, node: exp.Expr) -> Typed:
        name = str(node.this).lower()
        if name in AGGREGATES:
            raise ExpressionError(f"the aggregate {name} cannot be used here", "aggregate in spec.windows")
        signature = _FUNCTIONS.get(name)
        if signature is None:
            fix = "use ln(x), or ln(x) / ln(10)" if name in ("log", "log10", "log2") else None
            raise ExpressionError(f"has no function {name}", fix or suggest(name, sorted(_FUNCTIONS), "functions"))
        args = [self.lower(arg) for arg in node.expressions]
        least, most = signature.arity
        if len(args) < least or (most is not None and len(args) > most):
            wanted = str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            raise ExpressionError(f"{name} takes {wanted} arguments, not {len(args)}", "add or remove arguments")
        return signature.lower(self, signature.name, args)

    def _numeric(self, function: str, args: list[Typed]) -> Typed:
        self._need_numbers(function, *args)
        return Typed(_call(function, *args), args[0].type)

    def _float(self, function: str, args: list[Typed]) -> Typed:
        self._need_numbers(function, *args)
        return Typed(_call(function, *args), "float64")

    def _binary(self, function: str, args: list[Typed]) -> Typed:
        return self._arithmetic(function, args[0], args[1])

    def _round(self, function: str, args: list[Typed]) -> Typed:
        self._need_numbers(function, *args)
        if len(args) == 1:
            return Typed(_call(function, args[0]), args[0].type)
        digits = args[1].expression.get("value")
        if not isinstance(digits, int) or isinstance(digits, bool) or not 0 <= digits <= 15:
            raise ExpressionError("round takes a number of digits from 0 to 15", "write for example round(x, 2)")
        factor = _literal(10.0**digits, "float64")
        scaled = Typed(_call("mul", args[0], factor), "float64")
        return Typed(_call("div", Typed(_call("round", scaled), "float64"), factor), "float64")

    def _same(self, function: str, args: list[Typed]) -> Typed:
        return Typed(_call(function, *args), _common([arg.type for arg in args], function))

    def _ordered(self, function: str, args: list[Typed]) -> Typed:
        self._need_numbers(function, *args)
        return self._same(function, args)

    def _text(self, function: str, args: list[Typed]) -> Typed:
        if args[0].type not in ("string", ANY):
            raise ExpressionError(f"{function} needs a string, this is {_a(args[0].type)}", "use a string field")
        return Typed(_call(function, *args), "int64" if function == "length" else "string")

    def _if(self, _: str, args: list[Typed]) -> Typed:
        otherwise = args[2] if len(args) == 3 else _literal(None, NULL)
        return self._choice([(args[0], args[1])], otherwise)

    def _null_if(self, _: str, args: list[Typed]) -> Typed:
        return self._choice([(self._comparison("eq", args[0], args[1]), _literal(None, NULL))], args[0])

    _HANDLERS: Final[dict[type[exp.Expr], Callable[[_Lowering, exp.Expr], Typed]]] = {
        exp.Column: _column,
        exp.Literal: _number,
        exp.Boolean: _boolean,
        exp.Null: _null,
        exp.Paren: _paren,
        exp.Neg: _negative,
        exp.And: _chain,
        exp.Or: _chain,
        exp.Not: _not,
        exp.Is: _is,
        exp.Between: _between,
        exp.In: _in,
        exp.Case: _case,
        exp.Cast: _cast,
        exp.Anonymous: _function,
    }


@dataclass(frozen=True, slots=True)
class _Signature:
    """A function: the engine's name, how many arguments it takes (most None: any number) and how it is lowered."""

    name: str
    arity: tuple[int, int | None]
    lower: Callable[[_Lowering, str, list[Typed]], Typed]


_L = _Lowering
_FUNCTIONS: Final = {
    "abs": _Signature("abs", (1, 1), _L._numeric),
    "floor": _Signature("floor", (1, 1), _L._numeric),
    "ceil": _Signature("ceil", (1, 1), _L._numeric),
    "ceiling": _Signature("ceil", (1, 1), _L._numeric),
    "sign": _Signature("sign", (1, 1), _L._numeric),
    "round": _Signature("round", (1, 2), _L._round),
    "sqrt": _Signature("sqrt", (1, 1), _L._float),
    "ln": _Signature("ln", (1, 1), _L._float),
    "exp": _Signature("exp", (1, 1), _L._float),
    "power": _Signature("power", (2, 2), _L._binary),
    "pow": _Signature("power", (2, 2), _L._binary),
    "mod": _Signature("mod", (2, 2), _L._binary),
    "greatest": _Signature("greatest", (1, None), _L._ordered),
    "least": _Signature("least", (1, None), _L._ordered),
    "coalesce": _Signature("coalesce", (1, None), _L._same),
    "nullif": _Signature("case", (2, 2), _L._null_if),
    "if": _Signature("case", (2, 3), _L._if),
    "lower": _Signature("lower", (1, 1), _L._text),
    "upper": _Signature("upper", (1, 1), _L._text),
    "length": _Signature("length", (1, 1), _L._text),
}
