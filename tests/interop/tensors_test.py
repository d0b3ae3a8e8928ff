"""What is wrong with tensors is told, all of it, before they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t5x_lite import errors
from t5x_lite.interop import family, mapping, t5, tensors
from tests import tiny


class Quiet(tensors.InMemory):
  """A source that notes what is read of it."""

  def __init__(self, arrays):
    super().__init__(arrays)
    self.asked = []

  def read(self, name):
    self.asked.append(name)
    return super().read(name)


@pytest.fixture(scope="module")
def model():
  return tiny.fill(tiny.t5())


def table(model, **changes):
  names = mapping.Names(**{**vars(t5.FAMILY.names), **changes})
  return mapping.Table(model, names, "T5")


def arrays(model):
  return {
    name: np.zeros(tensor.shape, np.float32)
    for name, tensor in table(model).tensors.items()
  }


def test_nothing_is_read_of_tensors_without_copies(model):
  source = Quiet(arrays(model))
  assert tensors.check(table(model), source) == {}
  assert source.asked == []


@pytest.mark.parametrize("dtype", ["int8", "float64", "uint32", "bool"])
def test_other_dtypes(model, dtype):
  given = arrays(model)
  given["shared.weight"] = given["shared.weight"].astype(dtype)
  with pytest.raises(errors.CheckpointError, match=f"shared.weight is {dtype}"):
    tensors.check(table(model), tensors.InMemory(given))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_dtypes_are_taken_exactly(model, dtype):
  from t5x_lite.interop import weights

  rng = np.random.default_rng(0)
  given = {
    name: rng.standard_normal(array.shape).astype(jnp.dtype(dtype))
    for name, array in arrays(model).items()
  }
  made = table(model)
  tensors.check(made, tensors.InMemory(given))
  found = weights.OfTensors(made, tensors.InMemory(given))
  embedding = found.layer(("embedding", "tokens"), None)
  assert embedding.dtype == np.float32
  np.testing.assert_array_equal(embedding.astype(dtype), given["shared.weight"])


def test_constants_are_absent_or_as_they_must_be(model):
  zeros = np.zeros((1, 5), np.float32)
  made = table(model, constants=lambda model: {"bias": zeros})
  given = arrays(model)
  tensors.check(made, tensors.InMemory(given))
  tensors.check(made, tensors.InMemory(given | {"bias": zeros}))
  with pytest.raises(errors.CheckpointError, match="bias"):
    tensors.check(made, tensors.InMemory(given | {"bias": zeros + 1}))


def test_ignored_tensors_are_told_with_the_reason(model):
  made = table(model, ignored={r"x\.\d+": "of no use"})
  given = arrays(model) | {"x.3": np.zeros(2)}
  source = Quiet(given)
  assert tensors.check(made, source) == {"x.3": "of no use"}
  assert source.asked == []
  with pytest.raises(errors.CheckpointError, match=r"place for:\n  xx\.3"):
    tensors.check(made, tensors.InMemory(given | {"xx.3": np.zeros(2)}))


def test_two_names_of_one_tensor(model):
  given = tensors.InMemory({"a": np.zeros(1), "b": np.zeros(1)})
  with pytest.raises(errors.CheckpointError, match="holds both a and b"):
    tensors.Renamed(given, lambda name: "c")


def test_equality_in_parts(monkeypatch):
  monkeypatch.setattr(tensors, "_COMPARED", 8)
  first = np.arange(35.0).reshape(7, 5)
  assert tensors.equal(first, first.copy())
  for place in ((0, 0), (6, 4)):
    second = first.copy()
    second[place] += 1
    assert not tensors.equal(first, second)
  assert not tensors.equal(first, first[:6])
  assert tensors.equal(np.float32(1), np.ones(()))


def test_parts_that_leave_a_gap_are_a_defect():
  shapes = jax.eval_shape(lambda: tiny.t5()(rngs=nnx.Rngs(0)))

  def counterpart(model, path):
    if path[-2:] == ("query", "kernel"):
      return mapping.conv1d("{layer}." + ".".join(path), start=4, of=36)
    found = t5.FAMILY.names.counterpart(model, path)
    return found

  with pytest.raises(ValueError, match="is not filled by its parts"):
    table(shapes, counterpart=counterpart)


def test_layouts():
  rng = np.random.default_rng(0)
  ours = rng.standard_normal((6, 2, 4), np.float32)  # [D N H]

  def parameter(found):
    return mapping.Parameter(("p",), ours.shape, np.float32, None, found)

  flat = ours.reshape(6, 8)
  for found, theirs in (
    (mapping.same("p"), ours),
    (mapping.linear("p"), flat.T),
    (mapping.linear("p", inputs=2), ours.reshape(12, 4).T),
    (mapping.conv1d("p"), flat),
    (mapping.vector("p"), ours.reshape(-1)),
    (mapping.depthwise("p"), flat.T[:, None]),
  ):
    place = parameter(found)
    assert place.their_shape == theirs.shape
    np.testing.assert_array_equal(place.to_theirs(ours), theirs)
    np.testing.assert_array_equal(place.to_ours(theirs), ours)
  for found, index, shape in (
    (mapping.linear("p", start=3, of=20), np.s_[3:11], (20, 6)),
    (mapping.conv1d("p", start=3, of=20), np.s_[:, 3:11], (6, 20)),
    (mapping.vector("p", start=3, of=60), np.s_[3:51], (60,)),
    (mapping.depthwise("p", start=3, of=20), np.s_[3:11, 0], (20, 1, 6)),
  ):
    place, theirs = parameter(found), np.zeros(shape, np.float32)
    assert place.their_shape == shape
    place.put(ours, theirs)
    part = theirs[index]
    expected = {"linear": flat.T, "conv1d": flat, "vector": ours.reshape(-1)}
    expected["depthwise"] = flat.T
    np.testing.assert_array_equal(part, expected[found.layout])
    assert np.count_nonzero(theirs) == ours.size
    np.testing.assert_array_equal(place.to_ours(theirs), ours)


def test_fields_are_asked_for_strictly():
  values = {"model_type": "t5", "num_heads": 4, "odd": 1, "use_cache": True}
  fields = family.Fields(values, "config.json")
  assert fields.unknown() == ["num_heads", "odd"]
  assert fields.take("num_heads") == 4
  assert fields.take("absent", 3) == 3
  with pytest.raises(
    errors.ConfigError, match="'num_head'; did you mean 'num_h"
  ):
    fields.take("num_head")
  fields.harmless("odd")
  assert fields.unknown() == []
  assert fields.require("absent", "x", "y") == "x"
  with pytest.raises(errors.ConfigError, match="odd is 1, and only 2 or 3 can"):
    fields.require("odd", 2, 3)
