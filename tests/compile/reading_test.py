"""What is read off compiled programs, against XLA's analysis and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import chips
from t5x_lite.ahead import collectives, costs, hlo

V5E = chips.CHIPS["v5e"]


def places(sides=(1,), chip=V5E, slices=1):
  """A slice of a flat torus, or several."""
  coordinates = np.stack(
    [axis.ravel() for axis in np.indices(sides)], axis=1
  ).astype(int)
  domains = np.repeat(np.arange(slices), len(coordinates))
  return collectives.Places(
    chip,
    domains,
    np.tile(coordinates, (slices, 1)),
    tuple(n == 16 for n in sides),
  )


def reckoned(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  compiled = jax.jit(function).lower(*arguments).compile()
  program = hlo.read(compiled.as_text())
  cost = compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  return costs.Reckoner(program, places()).costs(), cost


def test_flops_and_bytes_of_a_product_are_those_of_xla():
  found, cost = reckoned(lambda a, b: a @ b, (64, 32), (32, 16))
  assert found.flops == 2 * 64 * 32 * 16 == cost["flops"]
  assert found.bytes == 4 * (64 * 32 + 32 * 16 + 64 * 16)
  assert found.bytes == cost["bytes accessed"]


def test_a_loop_counts_as_often_as_it_runs():
  def scanned(x, kernels):
    return jax.lax.scan(lambda x, k: (jnp.tanh(x @ k), None), x, kernels)[0]

  def unrolled(x, kernels):
    for kernel in kernels:
      x = jnp.tanh(x @ kernel)
    return x

  shapes = (64, 128), (5, 128, 128)
  loop, _ = reckoned(scanned, *shapes)
  apart, cost = reckoned(unrolled, *shapes)
  assert loop.unknown_loops == 0
  assert loop.flops == apart.flops == 5 * 2 * 64 * 128 * 128
  assert cost["flops"] >= apart.flops  # XLA counts tanh too
  # A turn reads its own part of the stacked kernels, not all of them.
  assert apart.bytes <= loop.bytes <= 1.7 * apart.bytes


def test_a_loop_of_unknown_length_is_told():
  found, _ = reckoned(
    lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x),
    (8, 8),
  )
  assert found.unknown_loops == 1 and found.flops == 2 * 8**3


# As the compiler for TPUs writes products.
CONVOLUTIONS = """\
HloModule m

ENTRY %main (a: bf16[16,512,256]) -> bf16[16,512,4,64] {
  %a = bf16[16,512,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[256,4,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %c = bf16[16,512,4,64]{3,2,1,0} parameter(2)
  %d = bf16[16,4,256,64]{3,2,1,0} parameter(3)
  %one = f32[16,256]{1,0} convolution(%a2, %b2), dim_labels=bf_io->bf
  %a2 = f32[16,512]{1,0} parameter(4)
  %b2 = f32[512,256]{1,0} parameter(5)
  %heads = bf16[16,512,4,64]{3,2,1,0} convolution(%a3, %b3), window={size=1x4 \
pad=0_0x3_3 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f
  %a3 = bf16[16,512,256,1]{3,2,1,0} parameter(6)
  %b3 = bf16[256,4,64,1]{3,2,1,0} parameter(7)
  %rows = bf16[48,512,512]{2,1,0} convolution(%a4, %b4), window={size=48 \
stride=47 pad=0_0 lhs_dilate=48}, dim_labels=0bf_0io->0bf
  %a4 = bf16[48,512,64]{2,1,0} parameter(8)
  ROOT %b4 = bf16[48,64,512]{2,1,0} parameter(9)
}
"""


def flops_of(name):
  program = hlo.read(CONVOLUTIONS)
  main = program.computations[program.entry]
  from t5x_lite.ahead import products

  return products.flops(main, main.instructions[name])


def test_products_as_convolutions():
  assert flops_of("one") == 2 * 16 * 512 * 256
  # The heads are a spatial dimension that reaches over the padding.
  assert flops_of("heads") == 2 * 16 * 512 * 256 * 4 * 64
  # Rows of a batch, each with its own kernel.
  assert flops_of("rows") == 2 * 48 * 512 * 64 * 512


def test_memory_spaces_are_read():
  main = hlo.read(CONVOLUTIONS).computations["main"]
  assert main.shape_of("a").space == 0 and main.shape_of("b").space == 1
  assert main.shape_of("b").size == 2 * 256 * 4 * 64


@pytest.mark.parametrize(
  "text, members",
  [
    ("{{0,2},{1,3}}", [0, 2]),
    ("[2,4]<=[8]", [0, 1, 2, 3]),
    ("[2,8]<=[8,2]T(1,0)", list(range(0, 16, 2))),
    ("mesh['data'=8,'model'=2] {'data'}", list(range(0, 16, 2))),
    ("mesh['data'=8,'model'=2] {'model'}", [0, 1]),
    ("mesh['a'=8] {'a':(2)4}", [0, 1, 2, 3]),
    ("mesh['a'=8] {'a':(1)2}", [0, 4]),
    ("{}", list(range(16))),
  ],
)
def test_groups(text, members):
  attributes = f", channel_id=1, replica_groups={text}, dimensions={{0}}"
  assert collectives.groups(attributes, 16) == members


def test_groups_in_an_unknown_form_are_refused():
  with pytest.raises(ValueError, match="unknown form: <odd>"):
    collectives.groups("replica_groups=<odd>", 4)


def exchange(line, where):
  text = f"HloModule m\n\nENTRY %e () -> f32[] {{\n{line}\n}}\n"
  program = hlo.read(text)
  return costs.Reckoner(program, where).costs().collectives


def test_bytes_of_collectives():
  where = places((4, 4))
  everything = "replica_groups=[1,16]<=[16]"
  whole = 16 * 1024 * 4
  line = f"  ROOT %x = f32[16,1024]{{1,0}} all-gather(%y), {everything}"
  assert exchange(line, where)["all-gather"].sent == whole * 15 / 16
  line = f"  ROOT %x = f32[1,1024]{{1,0}} reduce-scatter(%y), {everything}"
  assert exchange(line, where)["reduce-scatter"].sent == whole * 15 / 16
  line = f"  ROOT %x = f32[16,1024]{{1,0}} all-reduce(%y), {everything}"
  assert exchange(line, where)["all-reduce"].sent == 2 * whole * 15 / 16
  # Of the pair that starts and ends it, the first tells; inputs don't count.
  line = (
    "  ROOT %x = (f32[1,1024]{1,0}, f32[16,1024]{1,0}) all-gather-start(%y), "
    + everything
  )
  assert exchange(line, where)["all-gather"].sent == whole * 15 / 16


def test_a_ring_of_a_pod_is_twice_as_fast_as_a_line():
  line = (
    "  ROOT %x = f32[4096]{0} all-gather(%y), replica_groups=[{0},{1}]<=[{2}]"
  )
  pod = exchange(line.format(16, 16, 256), places((16, 16)))["all-gather"]
  row = exchange(line.format(4, 4, 16), places((4, 4)))["all-gather"]
  # One axis of two, both ways: half of the links; not closed: a quarter.
  assert pod.seconds == pytest.approx(pod.sent / (V5E.link / 2))
  assert row.seconds == pytest.approx(row.sent / (V5E.link / 4))


def test_between_slices_a_device_sends_its_share():
  line = "  ROOT %x = f32[4096]{0} all-reduce(%y), replica_groups=[1,32]<=[32]"
  found = exchange(line, places((4, 4), slices=2))["all-reduce"]
  assert found.sent == 2 * 4096 * 4 * 15 / 16
  assert found.sent_far == 2 * 4096 * 4 / 16 / 2


def test_between_slices_hosts_exchange_what_devices_send():
  line = (
    "  %x = (bf16[24,8]{1,0}, u32[]{:S(2)}, token[]) send(%y, %z),"
    " channel_id=4, is_host_transfer=true, frontend_attributes="
    '{_xla_host_transfer_handler_name="xla_megascale_runtime",'
    '_xla_megascale_target="{1,2}x{0:3}",'
    '_xla_megascale_transfer_type="ALL_REDUCE"}\n'
    "  ROOT %w = (bf16[24,8]{1,0}, u32[]{:S(2)}, token[]) recv(%z),"
    ' frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}'
  )
  found = exchange(line, places((2, 2), slices=2))["all-reduce"]
  assert (found.times, found.sent, found.sent_far) == (1, 0, 24 * 8 * 2)
  assert found.seconds == found.sent_far / V5E.network


def test_parts_of_one_exchange_count_once():
  lines = "\n".join(
    f"  {'ROOT ' * last}%x{last} = f32[16]{{0}} all-gather(%y), "
    "channel_id=7, replica_groups=[1,16]<=[16]"
    for last in (0, 1)
  )
  assert exchange(lines, places((4, 4)))["all-gather"].times == 1


def test_a_sum_of_which_a_part_is_kept_is_a_scatter():
  """As the compiler for TPUs writes it, with the whole sum inside."""
  text = """\
HloModule m

%all-reduce-scatter.1 (p: f32[4096]) -> f32[256] {
  %p = f32[4096]{0} parameter(0)
  %all = f32[4096]{0} all-reduce(%p), channel_id=1, replica_groups=[1,16]<=[16]
  %i = s32[] constant(0)
  ROOT %s = f32[256]{0} dynamic-slice(%all, %i), dynamic_slice_sizes={256}
}

ENTRY %e (p: f32[4096]) -> f32[256] {
  %p.1 = f32[4096]{0} parameter(0)
  ROOT %f = f32[256]{0} fusion(%p.1), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
  program = hlo.read(text)
  found = costs.Reckoner(program, places((4, 4))).costs().collectives
  assert list(found) == ["reduce-scatter"]
  assert found["reduce-scatter"].sent == 4096 * 4 * 15 / 16
