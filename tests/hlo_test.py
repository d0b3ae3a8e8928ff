"""The reader of collectives, on lines as compilers write them."""

import pytest

from tests import hlo

LINES = {
  "replica_groups={{0,1},{2,3}}": ((0, 1), (2, 3)),
  "replica_groups=[2,2]<=[4]": ((0, 1), (2, 3)),
  "replica_groups=[2,2]<=[2,2]T(1,0)": ((0, 2), (1, 3)),
  "replica_groups=mesh['a'=2,'b'=2] {'a'}": ((0, 2), (1, 3)),
  "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}": (
    (0, 1),
    (2, 3),
  ),
}
MODULE = """
%region_0.1 (param: (f32[4])) -> (f32[4]) {{
  %a.1 = (f32[8]{{0}}, bf16[]) all-gather(%x, %y), channel_id=1, {groups}, dims
}}
ENTRY %main.1 (param: f32[4]) -> f32[4] {{
  %w = (f32[4]) while(%t), condition=%c, body=%region_0.1
  %r = f32[] all-reduce-start(%w), to_apply=%add
}}
"""


@pytest.mark.parametrize("groups", LINES)
def test_reads_what_devices_exchange(groups):
  gather, reduce = hlo.collectives(MODULE.format(groups=groups))
  expected = "all-gather", ((8,), ()), ("f32", "bf16"), LINES[groups], True
  assert gather == expected
  assert reduce == ("all-reduce", ((),), ("f32",), (), False)
