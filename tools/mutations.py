"""The small mistakes that are put into a definition: operators on its tree, and where they apply.

Nothing here knows exercises or gencourse. `mutants(tree, …)` gives each mutant of a function, class
or assignment; `probed(tree, …)` finds out which of its parts are executed; `written_out(trees)`
puts the defaults of options in their place.

cosmic-ray's and mutmut's operators know no term, axis, detach or eval, and work on other trees:
they would stand beside ours, not in their place.
"""

import ast
import copy
from typing import NamedTuple

# --- operators: a node → what may stand in its place ----------------------------------------------

SWAPS = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
PAIRS = (
    "sum mean, min max, amin amax, argmin argmax, minimum maximum, std var, any all, rand randn, "
    "rand_like randn_like, zeros ones, zeros_like ones_like, normal_ uniform_, zeros_ ones_, "
    "eval train, softmax log_softmax, floor ceil, sin cos, square abs"
)
RENAMED = {a: b for pair in PAIRS.split(", ") for a, b in [pair.split(), pair.split()[::-1]]}
RENAMED |= {"median": "mean", "log": "log2", "softplus": "relu", "isfinite": "isnan"}
BUILTINS = {"min", "max", "any", "all"}
DROPPED = set(
    "abs ceil clamp clip clone copy cos cosh deepcopy detach double exp expm1 float "
    "floor half log log1p log_softmax long mean normalize relu round sigmoid sin sinc sort sorted "
    "softmax softplus sqrt square sum tanh".split()
)
SYMMETRIC = {"transpose", "swapaxes", "promote_types", "maximum", "minimum", "max", "min", "cdist"}
EVEN = {"abs", "square", "norm", "cos"}
LIBRARIES = ("torch", "F", "math", "copy")
REDUCTIONS = {"none": ["mean"], "mean": ["sum"], "sum": ["mean"], "batchmean": ["mean", "sum"]}
DIMENSIONS = ("dim", "axis", "dims")
DIMMED = set(
    "all amax amin any argmax argmin argsort chunk cumsum diff flatten log_softmax logsumexp max "
    "mean median min norm prod softmax sort split std sum unbind unsqueeze squeeze var".split()
)


def changed(node, **fields):
    """A shallow copy of a node with other fields: the parts it shares are never changed."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def replaced(items, i, *new):
    return [*items[:i], *new, *items[i + 1 :]]


def exchanged(items):
    """The list with one pair of neighbours exchanged, in every way; starred ones stay."""
    for i, (a, b) in enumerate(zip(items, items[1:], strict=False)):
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred):
            yield [*items[:i], b, a, *items[i + 2 :]]


def called(node):
    """The name under which a call's function or method is known."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def is_no_grad(node):
    return isinstance(node, ast.Call) and called(node) in ("no_grad", "inference_mode")


def is_stored(name):
    return isinstance(name.ctx, ast.Store)


def swap_operator(node):
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op):
            yield from (changed(node, op=new()) for new in SWAPS.get(type(op), ()))
        case ast.Compare(ops=[op]):
            yield from (changed(node, ops=[new()]) for new in SWAPS[type(op)])
        case ast.AugAssign(op=op):
            yield from (changed(node, op=new()) for new in SWAPS.get(type(op), ()))
            yield ast.copy_location(ast.Assign([node.target], node.value), node)


def swap_sides(node):
    match node:
        case ast.BinOp(op=ast.Sub()) if node.even:  # |a − b| is |b − a|
            pass
        case ast.BinOp(a, ast.Sub() | ast.Div() | ast.FloorDiv() | ast.MatMult() | ast.Pow(), b):
            yield changed(node, left=b, right=a)


def drop_part(node):
    """A term of a sum, a factor of a product, one side of an and/or, a `not`."""
    match node:
        case ast.BinOp(a, ast.Add() | ast.Mult(), b):
            yield from (a, b)
        case ast.BinOp(a, ast.Sub() | ast.Div() | ast.FloorDiv() | ast.Pow() | ast.Mod(), _):
            yield a
            if isinstance(node.op, ast.Sub):
                yield ast.UnaryOp(ast.USub(), node.right)
        case ast.BoolOp(values=parts):
            for i in range(len(parts)):
                left = replaced(parts, i)
                yield left[0] if len(left) == 1 else changed(node, values=left)
        case ast.UnaryOp(ast.Not(), inside):
            yield inside


def flip_sign(node):
    match node:
        case ast.UnaryOp(ast.USub(), inside) if not _is_axis(inside):  # −1 and 1 are often one axis
            yield inside
        case ast.Return(ast.BinOp() | ast.Call() | ast.Name() as value):
            yield changed(node, value=ast.UnaryOp(ast.USub(), value))


def change_constant(node):
    match node:
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from map(ast.Constant, [1] if value == 0 else [value + 1, value - 1])
        case ast.Constant(float(value)):
            others = [value * 10, 0.0] if 0 < abs(value) < 1e-2 else [value * 2 or 1.0]
            yield from map(ast.Constant, others)


def swap_arguments(node):
    match node:
        case ast.Call(args=[_, _, *_] as given) if called(node) not in SYMMETRIC:
            yield from (changed(node, args=new) for new in exchanged(given))
        case ast.Return(ast.Tuple(parts)) | ast.Assign(value=ast.Tuple(parts)):
            for new in exchanged(parts):
                yield changed(node, value=changed(node.value, elts=new))


def change_axis(node):
    """No axis at all; another one is another constant."""
    match node:
        case ast.Call(args=given, keywords=named):
            for i, keyword in enumerate(named):
                if keyword.arg in DIMENSIONS:
                    yield changed(node, keywords=replaced(named, i))
            method = isinstance(node.func, ast.Attribute)
            if method and called(node) in DIMMED:
                for i, value in enumerate(given):
                    if _is_axis(value):
                        yield changed(node, args=replaced(given, i))


def _is_axis(node):
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return False
    return isinstance(value, (int, tuple))


def change_function(node):
    """sum for mean, min for max, eval for train, rand for randn, no transposition …"""
    match node:
        case ast.Call(ast.Attribute(attr=name) as func) if name in RENAMED:
            yield changed(node, func=changed(func, attr=RENAMED[name]))
        case ast.Call(ast.Name(name) as func) if name in BUILTINS:
            yield changed(node, func=changed(func, id=RENAMED[name]))
        case ast.Attribute(of, "T" | "mT"):
            yield of


def drop_call(node):
    """x for x.detach(), x.clone(), x.clamp(…), torch.exp(x), copy.deepcopy(x), sorted(x) …"""
    match node:
        case ast.Call(function, [only]) if is_no_grad(function):
            yield only
        case ast.Call(func=func, args=given) if called(node) in DROPPED:
            of = getattr(func, "value", ast.Name("torch"))
            yield from given[:1] if ast.unparse(of) in LIBRARIES else [of]


def change_keyword(node):
    """reduction="sum" for "mean"; keepdim, correction, create_graph, retain_graph … left out."""
    match node:
        case ast.Call(keywords=named):
            for i, keyword in enumerate(named):
                match keyword:
                    case ast.keyword(arg="strict" | "dim" | "axis" | "dims" | None):
                        pass
                    case ast.keyword(arg="reduction", value=ast.Constant(value)):
                        for other in REDUCTIONS[value]:
                            new = changed(keyword, value=ast.Constant(other))
                            yield changed(node, keywords=replaced(named, i, new))
                    case _:
                        yield changed(node, keywords=replaced(named, i))


def off_by_one(node):
    """A slice's or a range's end one further or less; a slice without its start or its end."""

    def moved(bound, by):
        return ast.BinOp(bound, ast.Add() if by > 0 else ast.Sub(), ast.Constant(1))

    match node:
        case ast.Slice(lower, upper):
            for name, bound in (("lower", lower), ("upper", upper)):
                if bound:
                    yield changed(node, **{name: None})
                    if not _is_axis(bound):  # a constant is changed by the other operator
                        yield from (changed(node, **{name: moved(bound, by)}) for by in (1, -1))
        case ast.Call(ast.Name("range"), given):
            end = min(len(given), 2) - 1
            for by in (1, -1):
                yield changed(node, args=replaced(given, end, moved(given[end], by)))
            if len(given) == 1:
                yield changed(node, args=[ast.Constant(1), *given])


def change_branch(node):
    """A condition negated, a filter of a comprehension dropped, `continue` for `break`."""
    match node:
        case ast.If(test) | ast.IfExp(test) | ast.While(test):
            yield changed(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[_, *_]):
            yield changed(node, ifs=[])
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def drop_statement(node):
    """What others don't need in order to run: calls, `+=`, `return`, a name that had a value."""
    match node:
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Delete():
            yield ast.Pass()
        case ast.Return(ast.AST() as value):
            yield ast.copy_location(ast.Expr(value), node)
        case ast.Assign(targets=[target]):
            stored = [n for n in ast.walk(target) if isinstance(n, ast.Name)]
            if all(n.id in node.bound or not is_stored(n) for n in stored):
                yield ast.Pass()
        case ast.With(items, body) if any(is_no_grad(item.context_expr) for item in items):
            yield ast.If(ast.Constant(True), body, [])
        case ast.FunctionDef(decorator_list=[*_, last]) if is_no_grad(last):
            yield changed(node, decorator_list=node.decorator_list[:-1])


OPERATORS = (
    swap_operator, swap_sides, drop_part, flip_sign, change_constant, swap_arguments, change_axis,
    change_function, drop_call, change_keyword, off_by_one, change_branch, drop_statement,
)


# --- options written out --------------------------------------------------------------------------


def written_out(trees):
    """Numbered copies of definitions; an option that no call among them gives is its default.

    The options of the references' helpers are there for the wrong answers. `read * inputs` with
    read=True is `inputs`, and to drop the factor would be no mistake.
    """
    trees = copy.deepcopy(trees)
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    for tree in trees:
        if isinstance(tree, ast.FunctionDef):
            options = _options(tree, [call for call in calls if called(call) == tree.name])
            tree.body = [WrittenOut(options).visit(statement) for statement in tree.body]
            tree.body = [s for one in tree.body for s in (one if isinstance(one, list) else [one])]
    return [numbered(tree) for tree in trees]


def set_in(tree):
    """The names that a definition's body sets."""
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and is_stored(n)}


def _options(function, calls):
    """Name → default of the arguments that none of the calls gives and the body doesn't set."""
    given, arguments = set_in(function), function.args
    for call in calls:
        given |= {k.arg for k in call.keywords} | {a.arg for a in arguments.args[: len(call.args)]}
    defaults = dict(zip(arguments.args[::-1], arguments.defaults[::-1], strict=False))
    defaults |= dict(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    return {a.arg: value for a, value in defaults.items() if value and a.arg not in given}


class WrittenOut(ast.NodeTransformer):
    """Puts values in the place of names, and leaves out what then makes no difference."""

    NEUTRAL = {ast.Add: 0, ast.Sub: 0, ast.Mult: 1, ast.Div: 1, ast.Pow: 1}

    def __init__(self, options):
        self.options = options

    def visit_Name(self, node):
        return copy.deepcopy(self.options.get(node.id, node))

    def visit_Assign(self, node):
        self.generic_visit(node)
        same = [ast.unparse(t) for t in node.targets] == [ast.unparse(node.value)]
        return ast.copy_location(ast.Pass(), node) if same else node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        left, right = (getattr(n, "value", None) if isinstance(n, ast.Constant) else None
                       for n in (node.left, node.right))
        if isinstance(node.op, ast.Mult) and 0 in (left, right):
            return ast.Constant(0)
        neutral = self.NEUTRAL.get(type(node.op), ...)
        if left == neutral and isinstance(node.op, (ast.Add, ast.Mult)):
            return node.right
        return node.left if right == neutral else node

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        is_and = isinstance(node.op, ast.And)
        if any(isinstance(v, ast.Constant) and v.value is not is_and and isinstance(v.value, bool)
               for v in node.values):
            return ast.Constant(not is_and)
        neutral = (True,) if is_and else (False, None)
        kept = [v for v in node.values if getattr(v, "value", ...) not in neutral]
        kept = kept or node.values[-1:]
        return kept[0] if len(kept) == 1 else changed(node, values=kept)

    def visit_Compare(self, node):
        self.generic_visit(node)
        constant = all(isinstance(n, ast.Constant) for n in (node.left, *node.comparators))
        return ast.Constant(eval(ast.unparse(node))) if constant else node

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        is_known_not = isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant)
        return ast.Constant(not node.operand.value) if is_known_not else node

    def visit_If(self, node):
        self.generic_visit(node)
        if not isinstance(node.test, ast.Constant):
            return node
        return (node.body if node.test.value else node.orelse) or ast.copy_location(
            ast.Pass(), node
        )

    visit_IfExp = visit_If


# --- the mutants of one definition ----------------------------------------------------------------


class Mutant(NamedTuple):
    """One mistake: where it is, and the whole definition with it."""

    place: str  # "losses.py:12"
    operator: str
    before: str  # the statement's source; of a compound one, its first line
    after: str
    tree: object = None  # None: a statement that no case executes


NOT_MUTATED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
NEITHER = ("decorator_list", "returns", "annotation", "defaults", "kw_defaults", "ctx")  # fields
BLOCKS = ("body", "orelse", "finalbody")
OPTIONAL = {ast.IfExp: ("body", "orelse"), ast.BoolOp: ("values",), ast.Lambda: ("body",),
            ast.ListComp: ("elt",), ast.GeneratorExp: ("elt",), ast.SetComp: ("elt",),
            ast.DictComp: ("key", "value")}  # parts of expressions that may not run


def numbered(tree):
    """Give each node a number, and each assignment the names that were bound before it."""
    for number, node in enumerate(ast.walk(tree)):
        node.number, node.bound, node.even = number, set(), getattr(node, "even", False)
        match node:
            case ast.Attribute(inside, attr) if attr in EVEN:
                inside.even = True
            case ast.BinOp(inside, ast.Pow(), ast.Constant(2)):
                inside.even = True
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            bound = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
            inside = [n for n in ast.walk(function) if isinstance(n, (ast.Assign, ast.Name))]
            for node in sorted(inside, key=lambda n: (n.lineno, n.col_offset)):
                if isinstance(node, ast.Assign):
                    node.bound = set(bound)
                elif is_stored(node):
                    bound.add(node.id)
    return tree


def probed(tree, name):
    """A copy of a numbered definition that calls `__seen__((name, number))` of all it executes."""
    return Probed(name).visit(copy.deepcopy(tree))


class Probed(ast.NodeTransformer):

    def __init__(self, name):
        self.name = name

    def report(self, node):
        key = ast.Constant((self.name, node.number))
        return ast.Call(ast.Name("__seen__", ast.Load()), [key], [])

    def reporting(self, part):
        both = ast.Tuple([self.report(part), part], ast.Load())
        return ast.Subscript(both, ast.Constant(1), ast.Load())

    def generic_visit(self, node):
        super().generic_visit(node)
        for field in OPTIONAL.get(type(node), ()):
            value = getattr(node, field)
            several = isinstance(value, list)
            setattr(node, field, [*map(self.reporting, value)] if several else
                    self.reporting(value))
        if not isinstance(node, (ast.Module, ast.ClassDef, *OPTIONAL)):
            for field in BLOCKS:
                block = getattr(node, field, None) or []
                shown = [[ast.Expr(self.report(s)), s] for s in block]
                setattr(node, field, [s for both in shown for s in both])
        return node


def is_guard(node, seen):
    """Whether a statement can only raise, and no case makes it do so."""
    match node:
        case ast.Raise():
            return node.number not in seen
        case ast.If(body=body, orelse=[]) | ast.For(body=body, orelse=[]):
            return all(is_guard(s, seen) for s in body)
    return False


def calls_one_of(names, part):
    call = part.value if isinstance(part, (ast.Expr, ast.Assign)) else part
    return isinstance(call, ast.Call) and called(call) in names


def is_beside(part, seen):
    """Whether a node is a text, `strict=True`, or a function that no case calls."""
    match part:
        case ast.Expr(ast.Constant()) | ast.keyword("strict"):
            return True
        case ast.FunctionDef(body=body):
            return not any(statement.number in seen for statement in body)
    return False


def places(node, seen, own, plumbing, statement=None):
    """(part, its statement, the field, its old value, its index) of what may be mutated.

    seen: numbers of what the cases execute; own: also the statements that they don't (part None).
    """
    for field, value in ast.iter_fields(node):
        for i, part in enumerate(value if isinstance(value, list) else [value]):
            if field in NEITHER or not isinstance(part, ast.AST) or isinstance(part, NOT_MUTATED):
                continue
            is_statement = isinstance(part, ast.stmt)
            may_be_skipped = field in OPTIONAL.get(type(node), ()) or (
                is_statement and not isinstance(node, (ast.Module, ast.ClassDef))
            )
            if is_guard(part, seen) or is_beside(part, seen):
                continue
            if may_be_skipped and part.number not in seen:
                if own and is_statement:
                    yield None, part, node, field, value, i
                continue
            its = part if is_statement else statement
            if not calls_one_of(plumbing, part):
                yield part, its, node, field, value, i
            yield from places(part, seen, own, plumbing, its)


def source(node):
    """A statement's source; of a compound one, its first line."""
    lines = [x.strip() for x in ast.unparse(node).splitlines()]
    if isinstance(getattr(node, "body", None), list):
        lines = lines[: [x.startswith("@") for x in lines].index(False) + 1]
    return " ".join(lines)


def mutants(tree, seen=None, own=False, file="", plumbing=()):
    """All mutants of a numbered definition, each with another text.

    seen: numbers of the nodes that are executed (None: all); own: whether a statement that is not
    executed is reported; file: its name, for the places; plumbing: functions whose calls stay
    as they are, but for their arguments' own parts.
    """
    seen = {n.number for n in ast.walk(tree)} if seen is None else seen
    module = ast.Module([tree], [])
    known = {ast.unparse(module)}
    for part, statement, node, field, value, i in places(module, seen, own, plumbing):
        where, before = f"{file}:{statement.lineno}", source(statement)
        if part is None:
            yield Mutant(where, "never reached", before, "")
            continue
        for operator in OPERATORS:
            for new in operator(part):
                setattr(node, field, replaced(value, i, new) if isinstance(value, list) else new)
                text, after = ast.unparse(module), source(new if part is statement else statement)
                setattr(node, field, value)
                if text not in known:
                    known.add(text)
                    yield Mutant(where, operator.__name__, before, after, ast.parse(text).body[0])
