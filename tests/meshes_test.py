"""Devices of several slices: each slice at one place of the axes across."""

import types

import jax
import numpy as np
import pytest

from t5x_lite import errors, meshes, partitioning


def devices(count, slices=1, hosts=1, platform="tpu"):
  """Stand-ins, of which as many as that are in a slice or host."""
  return [
    types.SimpleNamespace(
      id=i,
      platform=platform,
      device_kind="a kind",
      slice_index=i * slices // count,
      process_index=i * hosts // count,
    )
    for i in range(count)
  ]


def ids(array):
  return np.vectorize(lambda device: device.id)(array)


@pytest.mark.parametrize(
  "given",
  [
    devices(8, slices=2, hosts=4, platform="gpu"),
    devices(8, hosts=2, platform="gpu"),
    devices(8, hosts=4, platform="cpu"),
  ],
)
def test_an_axis_across_goes_from_slice_to_slice(given):
  shape = {"slice": 2, "data": 4}
  np.random.default_rng(0).shuffle(given[1:])
  if given[0].platform == "cpu":
    given.sort(key=lambda device: device.id)
  found = ids(meshes.arranged(shape, given, ("slice",)))
  assert [set(row) for row in found.tolist()] == [{0, 1, 2, 3}, {4, 5, 6, 7}]
  inner = {"model": 2, "slice": 2, "data": 2}
  found = ids(meshes.arranged(inner, given, ("slice",)))
  assert {int(i) for i in found[:, 0].flat} == {0, 1, 2, 3}


def test_axes_need_not_be_those_of_the_torus():
  """Of 4 x 4 x 4 chips, two by two: neighbours, each pair another one."""
  given = devices(64)
  places = [(x, y, z) for z in range(4) for y in range(4) for x in range(4)]
  for device, place in zip(given, places, strict=True):
    device.coords, device.core_on_chip = place, 0
    device.device_kind = "TPU v4"
  found = ids(meshes.arranged({"data": 32, "model": 2}, given, ()))
  assert sorted(found.flat) == list(range(64))
  first, second = np.array(places)[found[:, 0]], np.array(places)[found[:, 1]]
  assert (np.abs(first - second).sum(axis=1) == 1).all()


def test_virtual_devices_make_slices_in_their_order():
  partitioner = partitioning.Partitioner(
    {"slice": 2, "data": -1}, {"batch": ("slice", "data")}, across=("slice",)
  )
  assert ids(partitioner.mesh.devices).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
  assert partitioner.mesh.devices.flat[0] in jax.devices()


@pytest.mark.parametrize(
  "shape, across, given, message",
  [
    (
      {"data": 8},
      (),
      devices(8, slices=2),
      "8 devices are in 2 slices, and no .*: use meshes/multislice.gin",
    ),
    (
      {"slice": 4, "data": 2},
      ("slice",),
      devices(8, slices=2),
      r"\('slice': 4\) make 4, but the 8 .* are in 2: .*NUM_SLICES.* make 2",
    ),
    (
      {"slice": 2, "data": 4},
      ("slice",),
      devices(8),
      "make 2, but .* are in 1",
    ),
  ],
)
def test_slices_that_are_not_there_are_refused(shape, across, given, message):
  with pytest.raises(errors.ConfigError, match=message):
    meshes.make(shape, given, across)


def test_axes_across_are_axes_of_the_mesh():
  with pytest.raises(errors.ConfigError, match="'across', 'slices'.*'slice'"):
    partitioning.Partitioner({"slice": 2, "data": 4}, {}, across=("slices",))
