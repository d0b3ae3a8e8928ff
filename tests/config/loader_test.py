"""What runs, for configurations that are right."""

import importlib

import pytest

from t5x_lite import config, errors
from tests.config import toy as toy_lib


def test_files_and_flags_reach_the_function(toy):
  call = toy.run(*toy_lib.SETTINGS, "BATCH_SIZE=4")
  assert call["dataset"].mixture == "docs"
  assert call["dataset"].batch_size == 4
  assert call["dataset"].feature_lengths == {"inputs": 512, "targets": 114}
  assert call["num_steps"] == 5
  assert call["workdir"] == "w"
  assert call["optimizer"].name == "adafactor"


def test_scopes_flow_into_nested_calls(toy):
  model = toy.run(*toy_lib.SETTINGS)["model"]
  assert model.encoder.num_layers == 3
  assert model.decoder.num_layers == 4
  assert not model.encoder.block.causal
  assert model.decoder.block.causal
  assert model.encoder.block.heads == 2


def test_later_files_win(toy):
  files = (*toy_lib.FILES, "adamw.gin")
  call = toy.run(*toy_lib.SETTINGS, "LEARNING_RATE=0.5", files=files)
  assert (call["optimizer"].name, call["optimizer"].learning_rate) == (
    "adamw",
    0.5,
  )


def test_flags_set_parameters_with_and_without_scope(toy):
  call = toy.run(
    *toy_lib.SETTINGS,
    "TOY.Norm.epsilon=0.1",
    "encoder/TOY.Norm.epsilon=0.2",
    "Attention.heads=7",  # the module may be left out
  )
  assert call["model"].encoder.norm.epsilon == 0.2
  assert call["model"].decoder.norm.epsilon == 0.1
  assert call["model"].encoder.block.heads == 7


def test_flags_may_hold_references_and_macros(toy):
  call = toy.run(
    *toy_lib.SETTINGS,
    "OPTIMIZER=@TOY.adamw()",
    "TOY.adamw.learning_rate=%RATE",
    "RATE=0.25",
  )
  assert call["optimizer"].learning_rate == 0.25


def test_the_text_is_the_run(toy):
  first = toy.load(*toy_lib.SETTINGS, "BATCH_SIZE=4")
  (toy.directory / "again.gin").write_text(first.text)
  for name in ("model.gin", "run.gin", "adafactor.gin"):
    (toy.directory / name).unlink()
  again = toy.load(files=["again.gin"])
  assert _without_places(first.text) == _without_places(again.text)
  call = toy.run(files=["again.gin"])
  assert call["dataset"].batch_size == 4
  assert call["model"].decoder.num_layers == 4
  assert toy.run("BATCH_SIZE=6", files=["again.gin"])["dataset"].batch_size == 6


def _without_places(text):
  return [line.partition("  # ")[0] for line in text.splitlines()]


def test_the_text_names_places_and_defaults(toy):
  text = toy.load(*toy_lib.SETTINGS, "BATCH_SIZE=4").text.splitlines()
  assert "BATCH_SIZE = 4  # --gin.BATCH_SIZE=4" in text
  assert "MIXTURE = 'docs'  # --gin.MIXTURE=docs" in text
  assert "HEADS = 2  # model.gin:5" in text
  assert f"# {toy.name}.Norm.epsilon = 1e-06" in text
  name = f"decoder/{toy.name}.Stack.num_layers"
  assert f"{name} = 4  # model.gin:15" in text


def test_the_text_leaves_out_what_does_not_count(toy):
  files = (*toy_lib.FILES, "adamw.gin")
  text = toy.load(*toy_lib.SETTINGS, files=files).text
  assert "adamw" in text
  assert "adafactor." not in text
  assert "CLIP" not in text


def test_modules_of_one_name_are_told_apart(toy):
  for package in ("one", "two"):
    (toy.directory / f"{toy.name}_{package}").mkdir()
    toy.write(
      f"{toy.name}_{package}/parts.py", f"def make() -> str: return '{package}'"
    )
  toy.gin("from TOY_one import parts\nMIXTURE = @parts.make()", "one.gin")
  toy.gin("from TOY_two import parts\nMORE = @parts.make()", "two.gin")
  files = (*toy_lib.FILES, "one.gin", "two.gin")
  flags = ("TRAIN_STEPS=1", "TOY.Dataset.task_modules=[%MORE]")
  call = toy.run(*flags, files=files)
  assert call["dataset"].mixture == "one"
  assert call["dataset"].task_modules == ["two"]
  text = toy.load(*flags, files=files).text
  assert f"from {toy.name}_two import parts as parts_2" in text


def test_one_class_by_two_names(toy):
  toy.write("TOY_api.py".replace("TOY", toy.name), "from TOY import Norm")
  mine = toy.gin("import TOY_api\nTOY_api.Norm.epsilon = 0.5")
  call = toy.run(*toy_lib.SETTINGS, files=(*toy_lib.FILES, mine))
  assert call["model"].encoder.norm.epsilon == 0.5


def test_modules_are_imported_even_if_nothing_names_them(toy):
  toy.write(f"{toy.name}_tasks.py", "import TOY\nTOY.CALLS.append('tasks')")
  mine = toy.gin("import TOY_tasks")
  config_text = toy.load(*toy_lib.SETTINGS, files=(*toy_lib.FILES, mine)).text
  assert f"import {toy.name}_tasks" in config_text


def test_decorated_functions_are_bound_without_a_reference(toy):
  toy.write(
    f"{toy.name}_old.py",
    """
    import gin

    @gin.configurable
    def rate(value: float = 0.0) -> float:
      return value
    """,
  )
  mine = toy.gin("import TOY_old\nTOY_old.rate.value = 0.5")
  toy.load(*toy_lib.SETTINGS, files=(*toy_lib.FILES, mine))
  assert importlib.import_module(f"{toy.name}_old").rate() == 0.5


def test_singletons(toy):
  mine = toy.gin(
    """
    ONE = @one/gin.singleton()
    one/gin.singleton.constructor = @TOY.adamw
    OPTIMIZER = %ONE
    TOY.adamw.learning_rate = 0.5
    """
  )
  call = toy.run(*toy_lib.SETTINGS, files=(*toy_lib.FILES, mine))
  assert call["optimizer"].learning_rate == 0.5


def test_a_file_for_training_serves_evaluation(toy):
  files = ("model.gin", "run.gin", "evaluate.gin")
  call = toy.run(files=files, root="evaluate")
  assert call["dataset"].mixture == "dev"


def test_problems_come_together(toy):
  mine = toy.gin("TOY.train.seed = 'x'\nencodr/TOY.Norm.epsilon = 1.0")
  with pytest.raises(errors.ConfigError) as error:
    toy.load(*toy_lib.SETTINGS, "TRAIN_STEPS=x", files=(*toy_lib.FILES, mine))
  lines = str(error.value).splitlines()
  assert lines[0] == "3 problems in the configuration:"
  assert [line.split()[0] for line in lines[1:]] == [
    "mine.gin:4:",
    "--gin.TRAIN_STEPS=x:",
    "mine.gin:3:",
  ]


def test_many_problems_stay_on_one_screen(toy):
  mine = toy.gin("\n".join(f"M{i} = 1" for i in range(50)))
  with pytest.raises(errors.ConfigError) as error:
    toy.load(*toy_lib.SETTINGS, files=(*toy_lib.FILES, mine))
  assert len(str(error.value).splitlines()) == 14
  assert "and 38 more" in str(error.value)


def test_save_is_of_what_was_loaded(toy):
  loaded = toy.load(*toy_lib.SETTINGS)
  config.save(toy.directory / "w")
  saved = (toy.directory / "w" / "config.gin").read_text()
  assert saved.endswith(loaded.text)
