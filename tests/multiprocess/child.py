"""One of several processes, with no model: what is left are the meetings.

Each puts its rows of a batch and prints their sum.  Then, by the argument,
"late": process 1 does not come to a barrier; "fail": it raises an error;
"kill": it dies, or "kill first": process 0 does, and the others wait in
collectives; "hang": so they do anyhow, under a watchdog.
"""

import argparse
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import cluster, errors, hosts, partitioning


def _check_rows():
  """Devices get their rows, also where processes hold the same ones."""
  batch = np.arange(36, dtype=np.float32).reshape(12, 3)
  count = jax.process_count()
  for shape in ({"data": -1}, {"model": count, "data": -1}, {"model": -1}):
    rules = {"batch": "data"} if "data" in shape else {}
    made = partitioning.Partitioner(shape, rules)
    rows = made.rows(12)[jax.process_index()]
    assert len(rows) == (12 // count if len(shape) == 1 and rules else 12)
    value = made.put({"x": batch[rows]})["x"]
    assert value.shape == batch.shape
    for shard in value.addressable_shards:
      np.testing.assert_array_equal(shard.data, batch[shard.index])


def main(what: str) -> int:
  own = jax.process_index()
  _check_rows()
  made = partitioning.Partitioner({"data": -1}, {"batch": "data"})
  batch = np.arange(36, dtype=np.float32).reshape(12, 3)
  rows = made.rows(12)[own]
  value = made.put({"x": batch[rows]})["x"]
  assert value.shape == batch.shape
  with made.activate():
    total = jax.jit(lambda x: jnp.sum(x * x, axis=0))
    found = jax.device_get(total(value)).tolist()
    said = hosts.on_first(lambda: {"pid": os.getpid()})
    report = f"rows {rows} sum {found} first {said['pid']}"
    print(report, file=sys.stderr, flush=True)
    if what == "late" and own == 1:
      time.sleep(8)
    if what == "late":
      hosts.barrier("the late one", seconds=3)
    if what == "fail" and own == 1:
      raise errors.DataError("the data of process 1 are bad")
    if what == "kill" and own == 1:
      os.kill(os.getpid(), signal.SIGKILL)
    if what == "kill first" and own == 0:
      os.kill(os.getpid(), signal.SIGKILL)
    while what != "sum":
      jax.device_get(total(value))
      time.sleep(0.01)
  return 0


if __name__ == "__main__":
  parser = argparse.ArgumentParser()
  parser.add_argument("what")
  parser.add_argument("--coordinator_address")
  parser.add_argument("--num_processes", type=int)
  parser.add_argument("--process_id", type=int)
  options = parser.parse_args()
  member = cluster.Member()
  code, message = 0, ""
  try:
    place = cluster.place(
      options.coordinator_address, options.num_processes, options.process_id
    )
    if place is not None:
      member.join(
        place, seconds=float(os.environ.get("WAIT", 60)), preemptible=False
      )
    main(options.what)
  except Exception as error:
    member.settle(error)
    message = f"{member.prefix}{error}"
    print(message, file=sys.stderr, flush=True)
    code = getattr(error, "exit_code", 1)
  member.leave(code, message)
  sys.exit(code)
