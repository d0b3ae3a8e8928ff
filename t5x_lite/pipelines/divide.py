"""Which data shards a host reads, and which of their rows it yields."""

import dataclasses
from collections.abc import Sequence

from t5x_lite import errors


@dataclasses.dataclass(frozen=True)
class Share:
  """What is one host's of the data.

  Attributes:
    visible: shards that have rows of this host.
    saved: those of them whose state this host saves: a shard may be read by
      several hosts, and is saved by the first.
    taken: the host's rows among those of its shards, one shard after the
      other; None is all.
  """

  visible: Sequence[int]
  saved: Sequence[int]
  taken: Sequence[int] | None = None


def share(
  batch_size: int,
  num_shards: int,
  host_index: int,
  num_hosts: int,
  rows: Sequence[Sequence[int]] | None = None,
) -> Share:
  """The share of one host; args as in `datasets.Dataset.iterator`.

  Raises:
    errors.ConfigError: there are not as many shards, or a multiple, as hosts
      with different rows.
  """
  if rows is None:
    groups, size = num_hosts, batch_size // num_hosts
    rows = [range(i * size, (i + 1) * size) for i in range(num_hosts)]
  else:
    groups = len({tuple(part) for part in rows})
  if num_shards % groups:
    raise errors.ConfigError(
      f"{num_shards} data shards cannot be divided among {groups} hosts: set"
      " Dataset.num_shards to a multiple of the number of hosts"
    )
  size = batch_size // num_shards
  shards = [sorted({row // size for row in part}) for part in rows]
  visible = shards[host_index]
  before = {shard for part in shards[:host_index] for shard in part}
  places = {shard: place * size for place, shard in enumerate(visible)}
  taken = [places[row // size] + row % size for row in rows[host_index]]
  return Share(
    visible=visible,
    saved=[shard for shard in visible if shard not in before],
    taken=None if taken == list(range(len(visible) * size)) else taken,
  )
