#include "reward/code/judge_scripts.h"

namespace grouper::code {

const char kPythonCandidate[] = R"PY(
import json, os, sys
from decimal import Decimal
from fractions import Fraction

requests, answers = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
os.dup2(2, 1)  # what the program prints is not an answer
sys.setrecursionlimit(5000)
refs = []


def encode(x):
    t = type(x)
    if x is None or t is bool or t is str:
        return x
    if t is int:
        return x if -2**53 < x < 2**53 else {"t": "int", "v": hex(x)}
    if t is float:
        return {"t": "float", "v": x.hex()}
    if t is list:
        return [encode(v) for v in x]
    if t in (tuple, set, frozenset):
        return {"t": t.__name__, "v": [encode(v) for v in x]}
    if isinstance(x, dict):
        return {"t": "dict", "v": [[encode(k), encode(v)] for k, v in x.items()]}
    if t in (bytes, bytearray):
        return {"t": "bytes", "v": x.hex()}
    if t is complex:
        return {"t": "complex", "v": [x.real.hex(), x.imag.hex()]}
    if t is Decimal:
        return {"t": "Decimal", "v": str(x)}
    if t is Fraction:
        return {"t": "Fraction", "v": [hex(x.numerator), hex(x.denominator)]}
    if t is type(sys):
        return {"t": "module", "v": x.__name__}
    if t.__module__ == "numpy" and hasattr(x, "tolist"):
        return encode(x.tolist())
    if isinstance(x, int):
        return encode(int(x))
    if isinstance(x, tuple):
        return encode(tuple(x))
    refs.append(x)
    return {"t": "ref", "v": len(refs) - 1, "call": callable(x)}


def decode(x):
    if isinstance(x, list):
        return [decode(v) for v in x]
    if not isinstance(x, dict):
        return x
    t, v = x["t"], x["v"]
    if t == "int":
        return int(v, 16)
    if t == "float":
        return float.fromhex(v)
    if t in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[t](decode(e) for e in v)
    if t == "dict":
        return {decode(k): decode(e) for k, e in v}
    if t == "bytes":
        return bytes.fromhex(v)
    if t == "complex":
        return complex(float.fromhex(v[0]), float.fromhex(v[1]))
    if t == "Decimal":
        return Decimal(v)
    if t == "Fraction":
        return Fraction(int(v[0], 16), int(v[1], 16))
    return refs[v]


def do(q, space):
    op = q["op"]
    if op == "get":
        if q["name"] not in space:
            raise NameError("name %r is not defined" % q["name"])
        return encode(space[q["name"]]), []
    target = refs[q["ref"]]
    args = [decode(a) for a in q.get("args", [])]
    if op == "call":
        value = target(*args, **{k: decode(v) for k, v in q["kwargs"].items()})
        return encode(value), [encode(a) if type(a) in (list, dict, set) else None for a in args]
    if op == "attr":
        return encode(getattr(target, q["name"])), []
    value = {"len": lambda: len(target), "iter": lambda: [v for v, _ in zip(target, range(1000000))], "item": lambda: target[args[0]],
             "set": lambda: target.__setitem__(args[0], args[1]), "in": lambda: bool(args[0] in target), "str": lambda: str(target),
             "repr": lambda: repr(target), "bool": lambda: bool(target), "eq": lambda: bool(target == args[0])}[op]()
    return encode(value), []


space = {"__name__": "solution"}
with open("/code/main.py", encoding="utf-8", errors="replace") as f:
    source = f.read()
exec(compile(source, "main.py", "exec"), space)
for line in requests:
    try:
        value, changed = do(json.loads(line), space)
        answer = {"v": value, "m": changed}
    except BaseException as error:
        answer = {"raise": [type(error).__name__, str(error)[:500]]}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
)PY";

const char kPythonJudge[] = R"PY(
import ast, builtins, importlib, json, os, sys, types
from decimal import Decimal
from fractions import Fraction

answers, requests = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open("/dev/null", os.O_RDWR), 1)
MAX_ANSWER = 16 << 20


class Gone(BaseException):
    pass


class Unjudgeable(BaseException):
    pass


def ask(**q):
    try:
        requests.write(json.dumps(q) + "\n")
        requests.flush()
        line = answers.readline(MAX_ANSWER)
        answer = json.loads(line)
        failure = answer.get("raise")
        if failure is None:
            return decode(answer["v"]), answer["m"]
        name, text = str(failure[0]), str(failure[1])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError, ArithmeticError):
        raise Gone() from None
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind, text = RuntimeError, name + ": " + text
    try:
        error = kind(text)
    except TypeError:  # UnicodeDecodeError wants five arguments
        error = RuntimeError(name + ": " + text)
    error.from_program = True
    raise error


class Remote:
    def __init__(self, ref):
        object.__setattr__(self, "_ref", ref)

    def __call__(self, *args, **kwargs):
        value, changed = ask(op="call", ref=self._ref, args=[encode(a) for a in args], kwargs={k: encode(v) for k, v in kwargs.items()})
        for old, new in zip(args, changed):  # what the call did to its arguments
            if new is None:
                continue
            new = decode(new)
            if type(old) is list and type(new) is list:
                old[:] = new
            elif type(old) in (dict, set) and type(new) is type(old):
                old.clear()
                old.update(new)
        return value

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return ask(op="attr", ref=self._ref, name=name)[0]

    def plain(self, kind, **q):
        value = ask(ref=self._ref, **q)[0]
        if type(value) is not kind:
            raise Gone()
        return value

    def __len__(self):
        return self.plain(int, op="len")

    def __iter__(self):
        return iter(self.plain(list, op="iter"))

    def __getitem__(self, key):
        return ask(op="item", ref=self._ref, args=[encode(key)])[0]

    def __setitem__(self, key, value):
        ask(op="set", ref=self._ref, args=[encode(key), encode(value)])

    def __contains__(self, key):
        return self.plain(bool, op="in", args=[encode(key)])

    def __str__(self):
        return self.plain(str, op="str")

    def __repr__(self):
        return self.plain(str, op="repr")

    def __bool__(self):
        return self.plain(bool, op="bool")

    # An object of the program's equals no value of the test's.
    def __eq__(self, other):
        return type(other) is Remote and self.plain(bool, op="eq", args=[encode(other)])

    def __ne__(self, other):
        return not self == other

    __hash__ = object.__hash__


def encode(x):
    t = type(x)
    if x is None or t is bool or t is str:
        return x
    if t is int:
        return x if -2**53 < x < 2**53 else {"t": "int", "v": hex(x)}
    if t is float:
        return {"t": "float", "v": x.hex()}
    if t is list:
        return [encode(v) for v in x]
    if t in (tuple, set, frozenset):
        return {"t": t.__name__, "v": [encode(v) for v in x]}
    if isinstance(x, dict):
        return {"t": "dict", "v": [[encode(k), encode(v)] for k, v in x.items()]}
    if t in (bytes, bytearray):
        return {"t": "bytes", "v": x.hex()}
    if t is complex:
        return {"t": "complex", "v": [x.real.hex(), x.imag.hex()]}
    if t is Decimal:
        return {"t": "Decimal", "v": str(x)}
    if t is Fraction:
        return {"t": "Fraction", "v": [hex(x.numerator), hex(x.denominator)]}
    if t is Remote:
        return {"t": "ref", "v": x._ref}
    if isinstance(x, (range, types.GeneratorType, map, filter, zip)):
        return [encode(v) for v in x]
    raise Unjudgeable("a test passes a value of type %s, which cannot cross to the program" % t.__name__)


def decode(x):
    if isinstance(x, list):
        return [decode(v) for v in x]
    if not isinstance(x, dict):
        return x
    t, v = x["t"], x["v"]
    if t == "int":
        return int(v, 16)
    if t == "float":
        return float.fromhex(v)
    if t in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[t](decode(e) for e in v)
    if t == "dict":
        return {decode(k): decode(e) for k, e in v}
    if t == "bytes":
        return bytes.fromhex(v)
    if t == "complex":
        return complex(float.fromhex(v[0]), float.fromhex(v[1]))
    if t == "Decimal":
        return Decimal(v)
    if t == "Fraction":
        return Fraction(int(v[0], 16), int(v[1], 16))
    if t == "module" and v.split(".")[0] in sys.stdlib_module_names:
        return importlib.import_module(v)
    return Remote(int(x["v"]))


def names(tree):
    loaded, bound = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound.update((a.asname or a.name).split(".")[0] for a in node.names)
    return loaded - bound


def judge(test, space):
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "4", "the test is no Python: %s" % error
    try:
        for name in sorted(names(tree)):
            if name in space or hasattr(builtins, name):
                continue
            try:
                space[name] = ask(op="get", name=name)[0]
            except NameError:
                if name in sys.stdlib_module_names:
                    space[name] = importlib.import_module(name)
        exec(compile(tree, "test", "exec"), space)
        return "0", ""
    except AssertionError as error:
        return ("2" if hasattr(error, "from_program") else "1"), "AssertionError: %s" % str(error)[:200]
    except Gone:
        return "3", "the program ended or gave no readable answer"
    except Unjudgeable as error:
        return "4", str(error)
    except BaseException as error:
        return "2", "%s: %s" % (type(error).__name__, str(error)[:200])


with open("/code/tests.json", encoding="utf-8") as f:
    tests = json.load(f)
os.write(2, b"\x01")
first, gone = "", False
space = {"__name__": "tests"}
for number, test in enumerate(tests):
    verdict, words = ("3", "") if gone else judge(test, space)
    gone = gone or verdict == "3"
    if verdict != "0" and not first:
        first = "test %d: %s" % (number + 1, words)
    os.write(2, verdict.encode())
    if verdict != "0" and "stop" in sys.argv[1:]:
        break
os.write(2, ("\n" + first).encode("utf-8", "replace"))
os._exit(0)
)PY";

const char kCppBefore[] = R"CPP(#include <bits/stdc++.h>
#define main candidate_main
#line 1 "main.cc"
)CPP";

const char kCppShow[] = R"CPP(
#undef main
#undef assert
namespace grouper_judge {
template <class T, class = void> struct IsRange : std::false_type {};
template <class T> struct IsRange<T, std::void_t<decltype(std::begin(std::declval<const T&>())), typename T::value_type>> : std::true_type {};
template <class T, class = void> struct IsHashed : std::false_type {};
template <class T> struct IsHashed<T, std::void_t<typename T::hasher>> : std::true_type {};
template <class T> struct IsPair : std::false_type {};
template <class A, class B> struct IsPair<std::pair<A, B>> : std::true_type {};
template <class T> struct IsTuple : std::false_type {};
template <class... A> struct IsTuple<std::tuple<A...>> : std::true_type {};
template <class T> struct IsOptional : std::false_type {};
template <class A> struct IsOptional<std::optional<A>> : std::true_type {};
template <class T> struct Never : std::false_type {};

template <class T> std::string Show(const T& x) {
  if constexpr (std::is_integral_v<T>) {
    return std::to_string(+x);
  } else if constexpr (std::is_floating_point_v<T>) {
    char text[64];
    std::snprintf(text, sizeof text, "%.17g", static_cast<double>(x));
    return text;
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    const std::string_view view = x;
    return "\"" + std::to_string(view.size()) + ":" + std::string(view) + "\"";
  } else if constexpr (IsPair<T>::value) {
    return "(" + Show(x.first) + "," + Show(x.second) + ")";
  } else if constexpr (IsTuple<T>::value) {
    std::string text = "(";
    std::apply([&](const auto&... item) { ((text += Show(item) + ","), ...); }, x);
    return text + ")";
  } else if constexpr (IsOptional<T>::value) {
    return x ? "some " + Show(*x) : std::string("none");
  } else if constexpr (IsRange<T>::value) {
    std::vector<std::string> items;
    for (const typename T::value_type& item : x) items.push_back(Show(item));
    if constexpr (IsHashed<T>::value) std::sort(items.begin(), items.end());
    std::string text = "[";
    for (const std::string& item : items) text += item + ",";
    return text + "]";
  } else {
    static_assert(Never<T>::value, "an assertion compares a value that is no number, string, pair, tuple, optional or container");
    return "";
  }
}
}  // namespace grouper_judge
)CPP";

}  // namespace grouper::code
