"""Whether a value of a gin file fits the annotation of a parameter.

Only what is surely wrong is refused: an annotation that is not understood
accepts everything, and so does a value that is known only when the run starts
(the result of a function without a return annotation, a gin constant).
"""

import ast
import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

UNKNOWN = object()  # a value that nobody knows yet
_NUMBERS = (int, float, complex)
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_LISTS = (list, tuple, set, frozenset)


@dataclasses.dataclass(frozen=True)
class Object:
  """A function or class named in a gin file (`@target` or `@target()`)."""

  target: Callable[..., Any]
  called: bool
  text: str

  def product(self) -> Any:
    """The class of what a call gives, or `UNKNOWN`."""
    if inspect.isclass(self.target):
      return self.target
    hint = parameters(self.target).returns
    return hint if inspect.isclass(hint) else UNKNOWN


@dataclasses.dataclass(frozen=True)
class Parameters:
  """What a function, or the constructor of a class, can be given."""

  hints: dict[str, Any]
  defaults: dict[str, Any]
  required: tuple[str, ...]
  returns: Any
  anything: bool  # has **kwargs


def parameters(target: Callable[..., Any]) -> Parameters:
  """Returns the parameters that gin can bind, with evaluated annotations."""
  function = _constructor(target) if inspect.isclass(target) else target
  if function in (None, object.__init__):
    return Parameters({}, {}, (), UNKNOWN, False)
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):  # written in C, without a signature
    return Parameters({}, {}, (), UNKNOWN, True)
  named = list(signature.parameters.values())
  if inspect.isclass(target):
    named = named[1:]
  variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
  hints = _hints(function)
  plain = [p for p in named if p.kind not in variable]
  empty = inspect.Parameter.empty
  return Parameters(
    hints={p.name: hints.get(p.name, Any) for p in plain},
    defaults={p.name: p.default for p in plain if p.default is not empty},
    required=tuple(p.name for p in plain if p.default is empty),
    returns=hints.get("return", UNKNOWN),
    anything=any(p.kind is inspect.Parameter.VAR_KEYWORD for p in named),
  )


def _constructor(cls: type) -> Callable[..., Any] | None:
  for base in inspect.getmro(cls):  # the order in which gin looks
    for name in ("__init__", "__new__"):
      if name in base.__dict__:
        return getattr(base, name)
  return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
  try:
    return typing.get_type_hints(function)
  except Exception:  # names that exist for type checkers only, and the like
    raw = getattr(function, "__annotations__", {})
    return {k: v for k, v in raw.items() if not isinstance(v, str)}


def misfit(value: Any, hint: Any) -> str | None:
  """Says what is wrong, such as "must be int, got '8' (str)"; None if nothing.

  A wrong item of a list or dict is named: "['inputs'] must be int, got ...".
  """
  try:
    if fits(value, hint):
      return None
  except (AttributeError, TypeError, ValueError):
    return None  # an annotation of a kind that nobody foresaw
  for key, item, item_hint in _items(value, _bare(hint)):
    inner = misfit(item, item_hint)
    if inner:
      return f"[{key!r}]{'' if inner.startswith('[') else ' '}{inner}"
  return f"must be {describe(hint)}, got {_got(value)}{_remedy(value, hint)}"


def fits(value: Any, hint: Any) -> bool:
  """True unless `value` is surely wrong for the annotation `hint`."""
  hint = _bare(hint)
  origin = typing.get_origin(hint) or hint
  if value is UNKNOWN or hint in (Any, object):
    return True
  if _is_union(hint):
    return any(fits(value, member) for member in typing.get_args(hint))
  if isinstance(value, Object):
    return _object_fits(value, origin)
  if origin is typing.Literal:
    return value in typing.get_args(hint)
  if origin in _SCALARS or hint is None:
    return _scalar_fits(value, type(None) if hint is None else origin)
  if origin in (collections.abc.Callable, type):
    return False
  if _is_list(origin):
    return isinstance(value, (list, tuple)) and _items_fit(value, hint)
  if _is_dict(origin):
    return isinstance(value, dict) and _items_fit(value, hint)
  return not _is_strict(origin) or isinstance(value, origin)


def _bare(hint: Any) -> Any:
  """Takes off `Annotated`, `NewType`, `Final` and `type X = ...`."""
  if typing.get_origin(hint) in (typing.Annotated, typing.Final):
    return _bare(typing.get_args(hint)[0])
  for name in ("__supertype__", "__value__"):
    if hasattr(hint, name) and not inspect.isclass(hint):
      return _bare(getattr(hint, name))
  return hint


def _is_union(hint: Any) -> bool:
  return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_list(origin: Any) -> bool:
  kinds = (*_LISTS, collections.abc.Sequence, collections.abc.Set)
  loose = (collections.abc.Collection, collections.abc.Iterable)
  return origin in (*kinds, *loose, collections.abc.MutableSequence)


def _is_dict(origin: Any) -> bool:
  abstract = (collections.abc.Mapping, collections.abc.MutableMapping)
  return origin in (dict, *abstract)


def _is_strict(origin: Any) -> bool:
  """Classes of which no literal can be an instance: our own, dataclasses."""
  if not inspect.isclass(origin):
    return False
  ours = origin.__module__.split(".")[0] == "t5x_lite"
  return dataclasses.is_dataclass(origin) or (ours and not _is_abstract(origin))


def _is_abstract(origin: type) -> bool:
  return getattr(origin, "_is_protocol", False)


def _scalar_fits(value: Any, kind: type) -> bool:
  if kind in _NUMBERS:  # an int is a float too; a bool is no number
    return isinstance(value, _NUMBERS[: _NUMBERS.index(kind) + 1]) and (
      not isinstance(value, bool)
    )
  return isinstance(value, kind)


def _object_fits(value: Object, origin: Any) -> bool:
  expects_class = origin in (collections.abc.Callable, type)
  plain = origin in _SCALARS or _is_list(origin) or _is_dict(origin)
  if not value.called:
    if plain or origin is None:
      return False
    return (
      expects_class
      or not _is_strict(origin)
      or isinstance(value.target, origin)
    )
  product = value.product()
  if product is UNKNOWN:
    return True
  if expects_class:
    return any("__call__" in base.__dict__ for base in product.__mro__)
  if plain:
    return issubclass(product, origin) or (origin is float and product is int)
  return True


def _items(value: Any, hint: Any) -> list[tuple[Any, Any, Any]]:
  """Pairs each item of a list or dict with its annotation."""
  if _is_union(hint):  # the first member of the same kind
    members = [_bare(m) for m in typing.get_args(hint)]
    pairs = [_items(value, m) for m in members]
    return next((p for p in pairs if p), [])
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if isinstance(value, dict) and _is_dict(origin) and len(args) == 2:
    keys = [(key, key, args[0]) for key in value]
    return keys + [(key, item, args[1]) for key, item in value.items()]
  if not isinstance(value, (list, tuple)) or not _is_list(origin) or not args:
    return []
  if origin is tuple and args[-1] is not Ellipsis:
    return [
      (i, v, h) for i, (v, h) in enumerate(zip(value, args, strict=False))
    ]
  return [(i, item, args[0]) for i, item in enumerate(value)]


def _items_fit(value: Any, hint: Any) -> bool:
  args = typing.get_args(hint)
  if typing.get_origin(hint) is tuple and args and args[-1] is not Ellipsis:
    if len(value) != len(args):
      return False
  return all(
    fits(item, item_hint) for _, item, item_hint in _items(value, hint)
  )


def describe(hint: Any) -> str:
  """An annotation in words: "int or None", "a list of str"."""
  hint = _bare(hint)
  origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
  if _is_union(hint):
    return " or ".join(describe(member) for member in args)
  if origin is typing.Literal:
    return "one of " + ", ".join(map(repr, args))
  if origin in (None, type(None)):
    return "None"
  if origin in (collections.abc.Callable, type):
    return "a function or class (@module.name)"
  if _is_dict(origin):
    return "a dict" + (
      f" of {describe(args[0])}: {describe(args[1])}" if args else ""
    )
  if _is_list(origin):
    kind = "tuple" if origin is tuple else "list"
    items = ", ".join(describe(a) for a in args if a is not Ellipsis)
    return f"a {kind}" + (f" of {items}" if items else "")
  if inspect.isclass(origin):
    scalar = origin in _SCALARS
    return origin.__name__ if scalar else f"of class {origin.__name__}"
  return str(hint).replace("typing.", "")


def _got(value: Any) -> str:
  if not isinstance(value, Object):
    return "None" if value is None else f"{value!r} ({type(value).__name__})"
  return f"{value.text} ({'its result' if value.called else 'uncalled'})"


def _remedy(value: Any, hint: Any) -> str:
  """What to write instead, where that is plain."""
  if isinstance(value, Object):
    other = dataclasses.replace(value, called=not value.called)
    if fits(other, hint):
      return "; leave out the ()" if value.called else f"; write {value.text}()"
    return ""
  candidates: list[Any] = [[value]]
  if isinstance(value, float) and value.is_integer():
    candidates.append(int(value))
  if isinstance(value, int):
    candidates.append(bool(value))
  if isinstance(value, str):
    try:
      candidates.append(ast.literal_eval(value))
    except (SyntaxError, ValueError):
      pass
  good = next((c for c in candidates if fits(c, hint)), UNKNOWN)
  return "" if good is UNKNOWN else f"; write {good!r}"
