"""What a log point says of time and memory, and the run as a whole.

Names and units are in docs/metrics.md.
"""

from t5x_lite import device_memory, step_times, stopwatch

# Parts of the run by the names that they are logged under.
_SHARES = {
  stopwatch.STEP: "goodput",
  stopwatch.DATA: "input_wait_share",
  stopwatch.COMPILE: "compile_share",
  stopwatch.START: "start_share",
  stopwatch.RESTORE: "restore_share",
  stopwatch.EVALUATION: "evaluation_share",
  stopwatch.CHECKPOINT: "checkpoint_share",
  stopwatch.OTHER: "other_share",
}


class Telemetry:
  """Watches a training loop from its first step on.

  Args:
    watch: times the parts of the run.
  """

  def __init__(self, watch: stopwatch.Stopwatch):
    self._watch = watch
    self._times = step_times.StepTimes(watch.training())
    self._waited = self._data_wait()

  def step_done(self) -> None:
    """Tells that a step's metrics have been read."""
    self._times.done(self._watch.training())

  def log_point(self, steps: int) -> dict[str, float]:
    """Numbers of so many steps since the last log point, and of the run."""
    waited, before = self._data_wait(), self._waited
    self._waited = waited
    percentiles = self._times.recent()
    return {
      **{f"speed/step_seconds_{p}": x for p, x in percentiles.items()},
      "speed/input_wait_seconds": (waited - before) / max(steps, 1),
      **{f"time/{name}": share for name, share in self.shares().items()},
      **{f"memory/{k}": size for k, size in device_memory.measure().items()},
    }

  def shares(self) -> dict[str, float]:
    """Parts of the time since the start; together 1."""
    seconds = self._watch.seconds()
    total = sum(seconds.values())
    return {
      name: seconds.get(part, 0.0) / total if total > 0 else 0.0
      for part, name in _SHARES.items()
    }

  def facts(self) -> dict[str, str]:
    """What the report says of all steps since the start, for people."""
    found = {}
    if percentiles := self._times.overall():
      found["step time"] = ", ".join(
        f"{p} {step_times.written(x)}" for p, x in percentiles.items()
      )
    memory = device_memory.measure()
    if "peak_gib" in memory:
      limit = memory.get("limit_gib")
      of = "" if limit is None else f" of {limit:.2f}"
      found["device memory, peak"] = f"{memory['peak_gib']:.2f}{of} GiB"
    return found

  def _data_wait(self) -> float:
    return self._watch.seconds().get(stopwatch.DATA, 0.0)
