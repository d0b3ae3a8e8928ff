"""Values against annotations."""

import collections.abc
import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pytest

from t5x_lite.config import annotations

Steps = NewType("Steps", int)


@dataclasses.dataclass
class Data:
  size: int


class Plain:
  pass


class Shape(typing.Protocol):
  def area(self) -> float: ...


def make() -> Data: ...
def count() -> int: ...
def anything(): ...


def obj(target, called=False):
  return annotations.Object(target, called, f"@{target.__name__}")


@pytest.mark.parametrize(
  ("value", "hint"),
  [
    (1, int),
    (1, float),
    (1.5, float),
    (True, bool),
    ("a", str),
    (None, None),
    (None, Optional[int]),  # noqa: UP045
    (None, int | None),
    (3, Union[str, int]),  # noqa: UP007
    ("a", Literal["a", "b"]),
    ([1, 2], Sequence[int]),
    ((1, 2), list[int]),
    ([1, 2], tuple[int, ...]),
    ((1, "a"), tuple[int, str]),
    ([], Sequence[int]),
    ([None, "a"], Sequence[str | None]),
    ({"a": 1}, Mapping[str, int]),
    ({"a": [1]}, dict[str, Sequence[int]]),
    ({}, dict),
    ({"a": obj(Data)}, Mapping[str, Callable[..., Any]]),
    (3, Steps),
    (3, Annotated[int, "steps"]),
    ("x", Any),
    ("x", object),
    ("x", typing.TypeVar("T")),
    ("x", "forward reference"),
    ("x", Plain),  # not ours to judge
    ("x", Shape),
    (annotations.UNKNOWN, int),
    (obj(Data), Callable[..., Any]),
    (obj(Data), collections.abc.Callable),
    (obj(Data), type[Data]),
    (obj(Data), type),
    (obj(Data), Any),
    (obj(Data, True), Data),
    (obj(make, True), Data),
    (obj(anything, True), int),
    (obj(count, True), int),
    (obj(count, True), float),
    ([obj(Data, True)], Sequence[Data]),
  ],
)
def test_fits(value, hint):
  assert annotations.misfit(value, hint) is None


@pytest.mark.parametrize(
  ("value", "hint", "message"),
  [
    ("8", int, "must be int, got '8' (str); write 8"),
    (1.5, int, "must be int, got 1.5 (float)"),
    (2.0, int, "must be int, got 2.0 (float); write 2"),
    (True, int, "must be int, got True (bool)"),
    (1, bool, "must be bool, got 1 (int); write True"),
    ("False", bool, "must be bool, got 'False' (str); write False"),
    (None, int, "must be int, got None"),
    (3, str, "must be str, got 3 (int)"),
    ("x", int | None, "must be int or None, got 'x' (str)"),
    ("c", Literal["a", "b"], "must be one of 'a', 'b', got 'c' (str)"),
    ("a", Sequence[str], "must be a list of str, got 'a' (str); write ['a']"),
    (
      "a",
      tuple[str, ...] | None,
      "must be a tuple of str or None, got 'a' (str); write ['a']",
    ),
    ([1, "a"], Sequence[int], "[1] must be int, got 'a' (str)"),
    ((1,), tuple[int, int], "must be a tuple of int, int, got (1,) (tuple)"),
    ({"a": "b"}, Mapping[str, int], "['a'] must be int, got 'b' (str)"),
    ({1: 1}, Mapping[str, int], "[1] must be str, got 1 (int)"),
    (
      {"a": {"b": 1.5}},
      Mapping[str, Mapping[str, int]],
      "['a']['b'] must be int, got 1.5 (float)",
    ),
    ([1], Mapping[str, int], "must be a dict of str: int, got [1] (list)"),
    (
      "relu",
      Callable[..., Any],
      "must be a function or class (@module.name), got 'relu' (str)",
    ),
    ("x", Data, "must be of class Data, got 'x' (str)"),
    (
      obj(make),
      Data,
      "must be of class Data, got @make (uncalled); write @make()",
    ),
    (
      obj(Data, True),
      Callable[..., Any],
      "must be a function or class (@module.name), got @Data (its result); "
      "leave out the ()",
    ),
    (obj(Data, True), int, "must be int, got @Data (its result)"),
    (obj(count), int, "must be int, got @count (uncalled); write @count()"),
    (obj(count, True), str, "must be str, got @count (its result)"),
    (
      [obj(make)],
      Sequence[Data],
      "[0] must be of class Data, got @make (uncalled); write @make()",
    ),
  ],
)
def test_misfit(value, hint, message):
  assert annotations.misfit(value, hint) == message


def test_parameters_of_a_class():
  class Layer:
    def __init__(self, dim: int, *, heads: "int" = 2, rngs=None): ...

  found = annotations.parameters(Layer)
  assert found.hints == {"dim": int, "heads": int, "rngs": Any}
  assert found.defaults == {"heads": 2, "rngs": None}
  assert found.required == ("dim",)
  assert not found.anything


def test_parameters_that_cannot_be_evaluated():
  def f(a: "no_such_name", b: int): ...  # noqa: F821

  assert annotations.parameters(f).hints == {"a": Any, "b": int}


def test_parameters_of_odd_things():
  def f(*args, **kwargs): ...

  assert annotations.parameters(f).anything
  assert annotations.parameters(Plain).hints == {}
  assert annotations.parameters(dict).anything
  assert annotations.parameters(max).anything
