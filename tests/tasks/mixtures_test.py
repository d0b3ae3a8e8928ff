"""Rates of mixtures against the formulas of T5, section 3.5.2."""

import math

import pytest
import seqio
import tensorflow as tf

from t5x_lite import errors
from tasks import mixtures

SIZES = {"rates_small": 100, "rates_medium": 10_000, "rates_large": 1_000_000}


@pytest.fixture(autouse=True, scope="module")
def _registered():
  def read(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensors({"targets": [3]})

  for name, size in {**SIZES, "rates_unknown": None}.items():
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(
        read, ["train"], num_input_examples=size and {"train": size}
      ),
      preprocessors=[],
      output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )


def _shares(name):
  """Returns the probabilities with which SeqIO draws the tasks."""
  mixture = seqio.get_mixture_or_task(name)
  rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  return {task: rate / sum(rates.values()) for task, rate in rates.items()}


def test_proportional_to_sizes_up_to_a_limit():
  limit = 2**16
  name = mixtures.Mixture(list(SIZES), maximum=limit).register()
  total = 100 + 10_000 + limit
  assert _shares(name) == {
    "rates_small": pytest.approx(100 / total),
    "rates_medium": pytest.approx(10_000 / total),
    "rates_large": pytest.approx(limit / total),
  }
  unlimited = mixtures.Mixture(list(SIZES)).register()
  assert _shares(unlimited)["rates_large"] == pytest.approx(1e6 / 1_010_100)


def test_temperature_raises_shares_to_its_inverse_and_renormalizes():
  # r_m ** (1 / T), made to sum to one, with K = 2**21.
  name = mixtures.Mixture(
    list(SIZES), temperature=2.0, maximum=mixtures.TEMPERATURE_MAXIMUM
  ).register()
  total = sum(size for size in SIZES.values())
  scaled = {n: (size / total) ** 0.5 for n, size in SIZES.items()}
  norm = sum(scaled.values())
  assert _shares(name) == {
    n: pytest.approx(value / norm) for n, value in scaled.items()
  }


def test_an_infinite_temperature_makes_shares_equal():
  name = mixtures.Mixture(list(SIZES), temperature=math.inf).register()
  assert list(_shares(name).values()) == [pytest.approx(1 / 3)] * 3
  near = mixtures.temperature(1e9)
  task = seqio.get_mixture_or_task("rates_large")
  assert near(task) == pytest.approx(1.0, abs=1e-6)


def test_fixed_rates_and_functions_in_seqios_registry():
  name = mixtures.Mixture({"rates_small": 3.0, "rates_large": 1.0}).register()
  assert _shares(name) == {"rates_small": 0.75, "rates_large": 0.25}
  seqio.MixtureRegistry.add(
    "rates_by_hand", ["rates_small", "rates_medium"], mixtures.proportional(300)
  )
  assert _shares("rates_by_hand")["rates_small"] == pytest.approx(0.25)


def test_settings_give_a_name_and_one_registration():
  first = mixtures.Mixture(["rates_small", "rates_large"])
  assert first.register() == first.register()
  names = {
    mixture.register()
    for mixture in (
      first,
      mixtures.Mixture(["rates_small", "rates_large"], temperature=3.0),
      mixtures.Mixture({"rates_small": 1.0, "rates_large": 2.0}),
      mixtures.Mixture(["rates_small", "rates_large"], name="rates_mine"),
    )
  }
  assert len(names) == 4 and "rates_mine" in names


def test_objects_that_register_themselves_are_tasks_too():
  class Own:
    def register(self):
      return "rates_medium"

  name = mixtures.Mixture([Own(), "rates_small"]).register()
  assert set(_shares(name)) == {"rates_medium", "rates_small"}


@pytest.mark.parametrize(
  "settings, match",
  [
    ({"tasks": []}, "empty"),
    ({"tasks": ["a"], "temperature": 0.5}, "1 \\(proportional\\) or more"),
    ({"tasks": ["a"], "temperature": math.nan}, "temperature"),
    ({"tasks": ["a"], "maximum": 0}, "maximum 0"),
    ({"tasks": {"a": 0.0}}, "above 0"),
  ],
)
def test_settings_without_sense_are_refused(settings, match):
  with pytest.raises(errors.ConfigError, match=match):
    mixtures.Mixture(**settings)


def test_an_unknown_task_and_an_unknown_size_are_refused():
  with pytest.raises(errors.ConfigError, match="did you mean 'rates_small'"):
    mixtures.Mixture(["rates_smal"]).register()
  rate = mixtures.proportional()
  with pytest.raises(errors.ConfigError, match="fixed rate"):
    rate(seqio.get_mixture_or_task("rates_unknown"))
