"""Starting from parts of another checkpoint, chosen and renamed by regex."""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite import errors
from t5x_lite.checkpoints import arrays, steps, tree

_SHOWN = 5  # arrays named in a message
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class InitializeFrom:
  r"""Where a new run takes its parameters from.

    InitializeFrom("/runs/pretrain", map=(
      ("head/.*", None),                            # stays freshly initialized
      (r"encoder/(.*)/mixer/(.*)", r"encoder/\1/attention/\2"),
    ))

  Attributes:
    path: a workdir, its checkpoints directory, or a directory of a step.
    step: which step; by default the newest.
    map: (pattern, replacement) pairs.  The first pattern that matches the
      whole name of one of our arrays ("encoder/layers/.../kernel") gives the
      name to look for; None leaves the array as initialized.  A name that
      no pattern matches is looked for as it is.
    strict: every array of ours must be found, in its shape, and every pattern
      must match something.  Otherwise these are warnings.
    optimizer: take the optimizer's state and the step counter too, under
      their names "opt_state/..." and "step"; by default both start anew.
  """

  path: str
  step: int | None = None
  map: Sequence[tuple[str, str | None]] = ()
  strict: bool = True
  optimizer: bool = False

  def __post_init__(self) -> None:
    for pattern, _ in self.map:
      try:
        re.compile(pattern)
      except re.error as error:
        raise errors.ConfigError(
          f"InitializeFrom.map: {pattern!r} is no regular expression: {error}"
        ) from None

  def load(self, abstract: Any, init: Callable[[], Any] | None) -> Any:
    """A fresh state with the arrays of the checkpoint in their places.

    Args:
      abstract: a TrainState of ShapeDtypeStructs with shardings, into which
        the arrays are read; other floating dtypes are cast.
      init: makes the fresh state.

    Raises:
      CheckpointError: see `strict`; the message lists the arrays.
    """
    if init is None:
      raise ValueError("initialize_from needs restore(..., init=...)")
    items = [arrays.MODEL] + [arrays.OPTIMIZER] * self.optimizer
    directory = steps.resolve(self.path, self.step)
    steps.verify(directory, items)
    wanted = {
      item: tree.flatten(arrays.split(abstract)[item]) for item in items
    }
    plan = self._plan(directory, wanted)
    state = arrays.split(init())
    for item, sources in plan.items():
      loaded = _load(directory / item, sources, wanted[item])
      fresh = tree.flatten(state[item])
      state[item] = tree.unflatten({**fresh, **loaded})
      kept = sorted(set(fresh) - set(loaded))
      _log.info(
        "%d of %d arrays from %s%s",
        len(loaded),
        len(fresh),
        directory,
        f"; freshly initialized: {_listed(kept)}" if kept else "",
      )
    return arrays.join(state, abstract)

  def _plan(
    self, directory: pathlib.Path, wanted: Mapping[str, Mapping[str, Any]]
  ) -> dict[str, dict[str, str]]:
    """Item -> our name -> their name, of the arrays to load."""
    plan, misfits, hint = {}, [], ""
    used: set[str] = set()
    for item, ours in wanted.items():
      saved = arrays.saved_specs(directory / item)
      sources = self._sources(ours, used)
      bad = _misfits(sources, ours, saved)
      misfits += bad
      for name, theirs, *_ in bad:
        if theirs not in saved and theirs != name:  # a pattern's doing
          near = errors.suggest(theirs, saved)
          hint = hint or (near and f"\n  {theirs}{near}")
        del sources[name]
      plan[item] = sources
      left = sorted(set(saved) - set(sources.values()))
      if left and not bad:
        _log.warning(
          "%d arrays of %s are not used: %s",
          len(left),
          directory / item,
          _listed(left),
        )
    idle = [pattern for pattern, _ in self.map if pattern not in used]
    self._report(directory, misfits, hint, idle)
    return plan

  def _sources(self, ours: Iterable[str], used: set[str]) -> dict[str, str]:
    """Our name -> their name; adds the patterns that matched to `used`."""
    sources = {}
    for name in ours:
      for pattern, replacement in self.map:
        match = re.fullmatch(pattern, name)
        if match:
          used.add(pattern)
          if replacement is not None:
            sources[name] = _expand(match, replacement)
          break
      else:
        sources[name] = name
    return sources

  def _report(
    self,
    directory: pathlib.Path,
    misfits: Sequence[tuple[str, str, str, str]],
    hint: str,
    idle: Sequence[str],
  ) -> None:
    """Raises or warns if arrays are not found or patterns match nothing."""
    found = []
    if misfits:
      header = ("array", "looked for", "saved", "wanted")
      found.append(
        f"{len(misfits)} arrays have no counterpart:\n"
        + tree.table(misfits, header)
        + hint
      )
    if idle:
      listed = ", ".join(map(repr, idle))
      found.append(f"these patterns match none of our arrays: {listed}")
    if not found:
      return
    message = f"InitializeFrom({directory}): " + "\n".join(found)
    if not self.strict:
      _log.warning("%s\nThey stay as initialized.", message)
      return
    raise errors.CheckpointError(
      f"{message}\nMap each to its name in the checkpoint, or to None to leave"
      " it as initialized (InitializeFrom.map), or set strict=False"
    )


def _listed(names: Sequence[str]) -> str:
  return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)


def _expand(match: re.Match[str], replacement: str) -> str:
  try:
    return match.expand(replacement)
  except (re.error, IndexError) as error:
    raise errors.ConfigError(
      f"InitializeFrom.map: the replacement {replacement!r} does not go with"
      f" {match.re.pattern!r}: {error}"
    ) from None


def _misfits(
  sources: Mapping[str, str],
  wanted: Mapping[str, Any],
  saved: Mapping[str, tree.Spec],
) -> list[tuple[str, str, str, str]]:
  """Rows (our name, their name, saved, wanted) of what cannot be loaded."""
  specs = {ours: tree.spec(wanted[ours]) for ours in sources}
  return [
    (ours, theirs, str(saved.get(theirs, "-")), str(specs[ours]))
    for ours, theirs in sources.items()
    if theirs not in saved or not _fits(saved[theirs], specs[ours])
  ]


def _fits(saved: tree.Spec, wanted: tree.Spec) -> bool:
  floating = all(
    jnp.issubdtype(jnp.dtype(spec.dtype), jnp.floating)
    for spec in (saved, wanted)
  )
  same = saved.dtype == wanted.dtype
  return saved.shape == wanted.shape and (same or floating)


def _load(
  item: pathlib.Path, sources: Mapping[str, str], wanted: Mapping[str, Any]
) -> dict[str, Any]:
  """The arrays by our names; each source is read once."""
  readers: dict[str, str] = {}
  for ours, theirs in sources.items():
    readers.setdefault(theirs, ours)
  if not readers:
    return {}
  abstract = {theirs: wanted[ours] for theirs, ours in readers.items()}
  loaded = tree.flatten(arrays.load(item, tree.unflatten(abstract)))

  def place(ours: str, theirs: str) -> jax.Array:
    if readers[theirs] == ours:
      return loaded[theirs]
    # A copy: training donates its state, and no buffer may be in it twice.
    copy = jnp.array(loaded[theirs], dtype=wanted[ours].dtype, copy=True)
    return jax.device_put(copy, wanted[ours].sharding)

  return {ours: place(ours, theirs) for ours, theirs in sources.items()}
