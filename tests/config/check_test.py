"""What is refused, and what the message says."""

import pytest

from t5x_lite import errors
from t5x_lite.config import reader
from tests.config import toy as toy_lib


def refuse(toy, *settings, mine=None, files=toy_lib.FILES, **kwargs):
  """Returns the message with which the configuration is refused."""
  if mine is not None:
    files = (*files, toy.gin(mine))
  with pytest.raises(errors.ConfigError) as error:
    toy.load(*settings, files=files, **kwargs)
  assert error.value.exit_code == 2
  return str(error.value).replace(toy.name, "TOY")


def accept(toy, *settings, mine=None, files=toy_lib.FILES, **kwargs):
  if mine is not None:
    files = (*files, toy.gin(mine))
  return toy.load(*settings, files=files, **kwargs)


GOOD = toy_lib.SETTINGS


# Macros.


def test_flag_for_a_macro_that_nothing_reads(toy):
  assert refuse(toy, *GOOD, "BATCH_SZ=4") == (
    "--gin.BATCH_SZ=4: nothing reads a macro BATCH_SZ; "
    "did you mean 'BATCH_SIZE'?"
  )


def test_flag_for_a_macro_unlike_any_lists_those_of_the_run(toy):
  assert refuse(toy, *GOOD, "ZZZ=4") == (
    "--gin.ZZZ=4: nothing reads a macro ZZZ; this run reads BATCH_SIZE, CLIP, "
    "DIM, FEATURE_LENGTHS, HEADS, LEARNING_RATE, MIXTURE, MODEL, OPTIMIZER, "
    "TRAIN_STEPS"
  )


def test_file_that_misspells_a_macro(toy):
  message = refuse(toy, *GOOD, mine="BATCHSIZE = 4")
  assert message == (
    "mine.gin:3: nothing reads a macro BATCHSIZE; did you mean 'BATCH_SIZE'?"
  )


def test_flag_for_a_macro_that_this_run_does_not_feel(toy):
  files = (*toy_lib.FILES, "adamw.gin")
  assert refuse(toy, *GOOD, "CLIP=0.5", files=files) == (
    "--gin.CLIP=0.5: no effect: it is read by TOY.adafactor.clip "
    "(adafactor.gin:8) only, which this run does not use"
  )


def test_default_that_this_run_does_not_feel_is_no_error(toy):
  accept(toy, *GOOD, files=(*toy_lib.FILES, "adamw.gin"))
  mine = "CLIP = 0.5\nTOY.adafactor.clip = %CLIP"  # a file for both
  accept(toy, *GOOD, files=(*toy_lib.FILES, "adamw.gin"), mine=mine)


def test_file_may_set_a_macro_of_another_command(toy, monkeypatch, tmp_path):
  shipped = tmp_path / "shipped"
  shipped.mkdir()
  (shipped / "infer.gin").write_text("WIDTH = %BEAMS")
  monkeypatch.setattr(reader, "SHIPPED", shipped)
  accept(toy, *GOOD, mine="BEAMS = 4")
  assert "nothing reads a macro BEANS" in refuse(toy, *GOOD, mine="BEANS = 4")
  # A flag is for this run.
  assert "nothing reads a macro BEAMS" in refuse(toy, *GOOD, "BEAMS=4")


def test_replaced_definitions_are_no_error(toy):
  accept(toy, *GOOD, mine="BATCH_SIZE = 'eight'\nBATCH_SIZE = 8")


def test_undefined_macro(toy):
  assert refuse(toy, *GOOD, mine="TOY.train.seed = %OWN_SEED") == (
    "mine.gin:3: TOY.train.seed reads a macro OWN_SEED that no file defines; "
    "set it with --gin.OWN_SEED=..."
  )


def test_undefined_macro_that_shipped_files_define(toy, monkeypatch, tmp_path):
  monkeypatch.setattr(reader, "SHIPPED", tmp_path / "shipped")
  (tmp_path / "shipped").mkdir()
  toy.gin("MODEL = @TOY.Model\nTOY.Model.dim = %DIM", "shipped/family.gin")
  for size in ("base", "big", "huge", "small"):
    toy.write(f"shipped/{size}.gin", "include 'family.gin'\nDIM = 8")
  assert refuse(toy, *GOOD, files=["run.gin"]) == (
    "run.gin:14: TOY.train.model reads a macro MODEL that no file defines; "
    "add --gin_file=small.gin or --gin_file=base.gin or --gin_file=big.gin, "
    "or one of 1 more"
  )


def test_undefined_macro_with_a_near_name(toy):
  message = refuse(toy, *GOOD, mine="TOY.train.seed = %TRAIN_STEP")
  assert message == (
    "mine.gin:3: TOY.train.seed reads a macro TRAIN_STEP that no file defines"
    "; did you mean 'TRAIN_STEPS'?"
  )


def test_undefined_macro_that_does_not_count_is_no_error(toy):
  accept(toy, *GOOD, mine="TOY.evaluate.model = %NO_SUCH")


def test_all_required_values_are_named_with_their_meaning(toy):
  assert refuse(toy).splitlines() == [
    "2 problems in the configuration:",
    "  run.gin:7: MIXTURE is not set (The task to train on, by its name); "
    "set it with --gin.MIXTURE=...",
    "  run.gin:8: TRAIN_STEPS is not set (how long to train); "
    "set it with --gin.TRAIN_STEPS=...",
  ]


def test_required_parameter(toy):
  assert refuse(toy, *GOOD, mine="TOY.train.seed = %gin.REQUIRED") == (
    "mine.gin:3: TOY.train.seed is not set; "
    "set it with --gin.TOY.train.seed=..."
  )


def test_macro_defined_by_itself(toy):
  message = refuse(toy, *GOOD, mine="A = [%B]\nB = %A\nTOY.train.seed = %A")
  assert message == "mine.gin:3: the macro A is defined by itself"


# Names.


def test_misspelt_parameter(toy):
  assert refuse(toy, *GOOD, mine="TOY.train.num_step = 4") == (
    "mine.gin:3: TOY.train has no parameter 'num_step'; did you mean "
    "'num_steps'? (it has: workdir, model, dataset, optimizer, num_steps, "
    "seed, dry_run)"
  )


def test_misspelt_parameter_in_a_flag(toy):
  message = refuse(toy, *GOOD, "Attention.haeds=4")
  assert message.startswith(
    "--gin.Attention.haeds=4: Attention has no parameter 'haeds'; "
    "did you mean 'heads'?"
  )


def test_unknown_function(toy):
  assert refuse(toy, *GOOD, mine="OPTIMIZER = @TOY.adm()") == (
    "mine.gin:3: TOY has no 'adm'; did you mean 'adamw'?"
  )


def test_unknown_function_in_a_flag(toy):
  message = refuse(toy, *GOOD, "Atention.heads=4")
  assert message == (
    "--gin.Atention.heads=4: no gin file names 'Atention'; "
    "did you mean 'Attention'?"
  )


def test_module_that_the_file_does_not_import(toy):
  assert refuse(toy, *GOOD, mine="OPTIMIZER = @optax.adamw()") == (
    "mine.gin:3: 'optax' (of optax.adamw) is not imported in this file; each "
    "gin file imports the modules it names"
  )


def test_something_that_is_no_function(toy):
  message = refuse(toy, *GOOD, mine="OPTIMIZER = @TOY.CALLS")
  assert message == (
    "mine.gin:3: TOY.CALLS is a list; gin can name functions and classes only"
  )


def test_missing_module(toy):
  message = refuse(toy, *GOOD, mine="from t5x_lite import layer")
  assert message.startswith(
    "mine.gin:3: there is no module 't5x_lite.layer'; "
    "did you mean 't5x_lite.layers'"
  )
  message = refuse(toy, *GOOD, mine="import my_tasks_of_today")
  assert message == (
    "mine.gin:3: there is no module 'my_tasks_of_today'; is it installed, or "
    "in the working directory?"
  )


def test_import_of_a_name_within_a_module(toy):
  message = refuse(toy, *GOOD, mine="from TOY import Norm")
  assert message == (
    "mine.gin:3: there is no module 'TOY.Norm'; gin imports modules only: "
    "import TOY"
  )


@pytest.mark.parametrize(
  ("text", "what", "line"),
  [
    ("x = 1\nraise ValueError('no luck')", "ValueError: no luck", 2),
    ("import no_such_thing", "ModuleNotFoundError: No module named", 1),
    ("def f(:", "SyntaxError", 1),
    ("import sys\n\nsys.exit(3)", "SystemExit: 3", 3),
  ],
)
def test_module_that_fails(toy, text, what, line):
  toy.write(f"{toy.name}_bad.py", text)
  message = refuse(toy, *GOOD, mine="import TOY_bad")
  assert message.startswith(f"mine.gin:3: importing 'TOY_bad' failed: {what}")
  assert f"TOY_bad.py:{line})" in message


# Effects.


def test_scope_that_nothing_enters(toy):
  problem = "no effect: no reference enters the scope"
  message = refuse(toy, *GOOD, mine="encodr/TOY.Norm.epsilon = 1.0")
  assert message.startswith(
    f"mine.gin:3: {problem} 'encodr'; did you mean 'encoder'"
  )
  message = refuse(toy, *GOOD, "dcoder/Norm.epsilon=1.0")
  assert message.startswith(
    f"--gin.dcoder/Norm.epsilon=1.0: {problem} 'dcoder'; did you mean 'decoder'"
  )


def test_function_that_nothing_refers_to(toy):
  message = refuse(toy, *GOOD, mine="TOY.adamw.decay = 0.5")
  assert message.startswith(
    "mine.gin:3: no effect: nothing refers to @TOY.adamw"
  )


def test_python_default_must_be_named(toy):
  plain = toy_lib.MODEL.replace("  norm = @TOY.Norm\n", "")
  toy.write("model.gin", plain)
  assert refuse(toy, *GOOD, mine="TOY.Norm.epsilon = 0.5") == (
    "mine.gin:3: no effect: nothing refers to @TOY.Norm; to configure the "
    "default of TOY.Stack.norm, bind it: norm = @TOY.Norm"
  )


def test_flag_for_a_function_that_the_run_does_not_use(toy):
  files = (*toy_lib.FILES, "adamw.gin")
  message = refuse(toy, *GOOD, "adafactor.clip=0.5", files=files)
  assert message.startswith(
    "--gin.adafactor.clip=0.5: no effect: nothing refers to @adafactor"
  )


# Values.


@pytest.mark.parametrize(
  ("setting", "problem"),
  [
    (
      "TRAIN_STEPS=many",
      "TRAIN_STEPS (read by TOY.train.num_steps) must be int, got 'many' (str)",
    ),
    (
      "TRAIN_STEPS=1e3",
      "TRAIN_STEPS (read by TOY.train.num_steps) must be int, got 1000.0 "
      "(float); write 1000",
    ),
    (
      "train.seed='3'",
      "train.seed must be int or None, got '3' (str); write 3",
    ),
    (
      "Dataset.task_modules=my_tasks",
      "Dataset.task_modules must be a list of str, got 'my_tasks' (str); "
      "write ['my_tasks']",
    ),
    (
      "FEATURE_LENGTHS={'inputs': 512, 'targets': 1.5}",
      "FEATURE_LENGTHS (read by TOY.Dataset.feature_lengths)['targets'] must "
      "be int, got 1.5 (float)",
    ),
    (
      "OPTIMIZER=@TOY.adafactor",
      "OPTIMIZER (read by TOY.train.optimizer) must be of class Optimizer, "
      "got @adafactor (uncalled); write @adafactor()",
    ),
    (
      "OPTIMIZER=adafactor",
      "OPTIMIZER (read by TOY.train.optimizer) must be of class Optimizer, "
      "got 'adafactor' (str)",
    ),
    (
      "Attention.heads=@TOY.Norm",
      "Attention.heads must be int, got @Norm (uncalled)",
    ),
    (
      "Attention.causal=1",
      "Attention.causal must be bool, got 1 (int); write True",
    ),
  ],
)
def test_wrong_type(toy, setting, problem):
  message = refuse(toy, *GOOD, setting)
  setting = setting.replace(toy.name, "TOY")
  assert message.splitlines()[-1].strip() == f"--gin.{setting}: {problem}"


def test_types_that_fit(toy):
  accept(
    toy,
    *GOOD,
    "LEARNING_RATE=1",  # an int is a float
    "train.seed=None",
    "Dataset.task_modules=('a', 'b')",
    "Attention.causal=False",
  )


def test_wrong_macro_is_told_once_where_it_is_defined(toy):
  mine = """
    SIZE = 'big'
    BATCH_SIZE = %SIZE
    TRAIN_STEPS = %SIZE
  """
  assert refuse(toy, "MIXTURE=x", mine=mine) == (
    "mine.gin:4: SIZE (read by TOY.train.num_steps) must be int, "
    "got 'big' (str)"
  )


# What the function needs.


def test_run_file_is_missing(toy):
  message = refuse(toy, files=["model.gin"])
  assert message == "no gin file says how to run TOY.train"
  toy.write("nothing.gin", "")
  message = refuse(toy, files=["nothing.gin"])
  assert message == "no gin file says how to run TOY.train"
  mine = toy.gin("TOY.train.seed = 1")
  assert refuse(toy, files=[mine]) == (
    "TOY.train has no value for model, dataset, optimizer, num_steps"
  )


def test_workdir_is_missing(toy):
  assert refuse(toy, *GOOD, workdir=None) == (
    "--workdir=DIR is missing: where the run keeps its files"
  )
  accept(toy, *GOOD, "train.workdir=/tmp/x", workdir=None)


def test_workdir_given_twice(toy):
  assert refuse(toy, *GOOD, "train.workdir=/tmp/x") == (
    "--gin.train.workdir=/tmp/x: no effect: --workdir sets this"
  )
  accept(toy, *GOOD, mine="TOY.train.workdir = '/tmp/x'")  # a default


def test_parameters_of_a_wrapped_function_are_not_judged(toy):
  toy.write(
    f"{toy.name}_wrapped.py",
    """
    import functools

    def seeded(function):
      @functools.wraps(function)
      def call():
        return function(seed=3)
      return call

    @seeded
    def number(seed: int) -> int:
      return seed
    """,
  )
  mine = "import TOY_wrapped\nTRAIN_STEPS = @TOY_wrapped.number()"
  assert (
    toy.run("MIXTURE=x", files=(*toy_lib.FILES, toy.gin(mine)))["num_steps"]
    == 3
  )


def test_what_gin_itself_refuses(toy):
  toy.write(
    f"{toy.name}_old.py",
    """
    import gin

    @gin.configurable(denylist=["value"])
    def rate(value: float = 0.0) -> float:
      return value
    """,
  )
  mine = "import TOY_old\nTOY_old.rate.value = 1.0"
  message = refuse(toy, *GOOD, mine=mine)
  assert message.startswith("gin refuses this: Configurable 'TOY_old.rate' has")


def test_called_where_the_class_itself_is_meant(toy):
  message = refuse(toy, *GOOD, mine="MODEL = @TOY.Stack()")
  assert (
    "mine.gin:3: @TOY.Stack() is called without dim, num_layers; bind it, or "
    "leave out the () to hand over the function or class itself"
  ) in message
