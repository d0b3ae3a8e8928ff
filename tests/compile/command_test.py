"""`t5x_lite compile` without a compiler: names, messages, search, texts."""

import ast
import dataclasses
import json

import pytest

from t5x_lite import chips, commands, config, errors, main
from t5x_lite.ahead import (
  command,
  launch,
  report,
  search,
  text,
  topology,
  worker,
)
from t5x_lite.ahead.costs import Exchange

GIB = 2**30
FILES = (
  "--gin_file=models/llama3/tiny.gin",
  "--gin_file=objectives/causal_lm.gin",
)


def step(temporaries=4 * GIB, name="train", busy=0.5):
  memory = report.Memory(
    parameters=2 * GIB,
    optimizer=1 * GIB,
    carried=0,
    batch=2**20,
    host=0,
    arguments=3 * GIB + 2**20,
    outputs=0,
    temporaries=temporaries,
    code=0,
    available=chips.CHIPS["v5e"].memory,
  )
  return report.Step(
    name=name,
    num_devices=4,
    memory=memory,
    flops=60e12,
    model_flops=40e12,
    model_flops_full=50e12,
    bytes=1e11,
    collectives={"all-gather": Exchange(8, 2 * GIB, 0.0, 0.25)},
    kernels={"attention_forward": 4.0},
    unknown_kernels=0.0,
    unknown_loops=0,
    busy=busy,
    exchanging=0.25,
    peak=197e12,
    compile_seconds=3.0,
  )


def answer(*steps, too_large=()):
  return launch.Answer({"data": 4}, steps, tuple(too_large))


V5E = topology.named("v5e:2x2")


@pytest.mark.parametrize(
  "name, sides, chips_",
  [
    ("v5e:16x16", (16, 16), 256),
    ("V5P:4x4x8", (4, 4, 8), 128),
    ("h100:64", (64,), 64),
    ("B200:4", (4,), 4),
  ],
)
def test_names_of_machines(name, sides, chips_):
  found = topology.named(name)
  assert (found.sides, found.num_chips) == (sides, chips_)


@pytest.mark.parametrize(
  "name, slices, message",
  [
    ("v5f:2x2", 1, "no chip 'v5f' among v4,.*did you mean"),
    ("v5e", 1, "has no size: write it as in v5e:16x16"),
    ("v5e:4x0", 1, "has no size"),
    ("v5e:4x4x4", 1, "a slice of v5e has 2 sides, as in v5e:4x4"),
    ("v5p:16x16", 1, "3 sides"),
    ("H100:4x4", 1, "GPUs have a number alone, 1 to 256"),
    ("H100:512", 1, "1 to 256"),
    ("H100:12", 1, "hosts have 8 GPUs each, so use a multiple of 8"),
    ("H100:8", 2, "--num_slices 2 is for TPUs"),
    ("v5e:2x2", 0, "use 1 or more"),
  ],
)
def test_wrong_names_are_told(name, slices, message):
  with pytest.raises(errors.ConfigError, match=message):
    topology.named(name, slices)


def test_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setattr(
    topology.Topology, "missing", lambda self: "needs libtpu: pip install X"
  )
  assert main.main(["compile", "--topology=v5e:2x2", *FILES]) == 2
  assert capsys.readouterr().err == (
    "t5x_lite: error: needs libtpu: pip install X\n"
  )


def test_the_extra_is_named(monkeypatch):
  monkeypatch.setattr(topology.tpu, "missing", lambda chip: "it needs libtpu")
  assert "pip install 't5x_lite[compile]'" in V5E.missing()


@pytest.fixture
def compiled(monkeypatch):
  """Runs the command, with what the compiler is to answer."""

  def run(given, *flags):
    asked = []

    def compile_steps(gin, where, steps, **options):
      asked.append((gin, where, tuple(steps), options))
      if callable(given):
        return given(**options)
      return given

    monkeypatch.setattr(topology.Topology, "missing", lambda self: None)
    monkeypatch.setattr(launch, "compile_steps", compile_steps)
    code = main.main(["compile", "--topology=v5e:2x2", *FILES, *flags])
    return code, asked

  return run


def test_hands_on_the_whole_configuration(compiled, capsys):
  code, asked = compiled(answer(step()), "--gin.BATCH_SIZE=64")
  ((gin, where, steps, _),) = asked
  assert code == 0 and where == V5E and steps == ("train", "eval", "decode")
  assert "BATCH_SIZE = 64" in gin and "ahead.Run" in gin
  out = capsys.readouterr().out
  assert "train step, per device" in out and "Predicted, nothing was run" in out
  assert "7.00 GiB   44.5% of 15.75 GiB, free 8.75 GiB" in out
  assert "500 ms if they are hidden, 750 ms if not" in out


def test_takes_the_files_of_a_training_run(compiled):
  flags = (
    "--gin_file=runs/pretrain.gin",
    "--gin_file=optimizers/adamw.gin",
    "--gin.TRAIN_STEPS=5",
    "--gin_file=meshes/fsdp.gin",
  )
  assert compiled(answer(step()), *flags)[0] == 0


def test_what_does_not_fit_ends_with_8(compiled, capsys):
  assert compiled(answer(step(temporaries=14 * GIB)))[0] == 8
  out, err = capsys.readouterr()
  assert "TOO MUCH BY 1.25 GiB" in out
  assert "does not fit on v5e:2x2" in err and "--gin.REMAT=full" in err
  refused = launch.TooLarge(
    "train", 20 * GIB, GIB, 30 * GIB, V5E.chip.memory, "OOM"
  )
  assert compiled(answer(too_large=[refused]))[0] == 8
  out, err = capsys.readouterr()
  assert "does NOT fit into 15.75 GiB, 30.00 GiB wanted" in out
  assert "meshes/fsdp.gin" in err


def test_json_holds_all_of_it(compiled, capsys):
  assert compiled(answer(step()), "--json")[0] == 0
  found = json.loads(capsys.readouterr().out)
  assert found["fits"] and found["chip"] == "v5e"
  (train,) = found["steps"]
  assert train["predicted_mfu"]["exchanges_hidden"] == pytest.approx(
    40 / (0.5 * 197)
  )
  assert report.Step.from_json(train) == step()


def test_unknown_steps_are_refused(compiled, capsys):
  assert compiled(answer(), "--gin.STEPS=('tain',)")[0] == 2
  assert "STEPS ('tain',): give some of" in capsys.readouterr().err


def test_search_tries_until_nothing_can_be_faster(compiled, capsys):
  """Nothing fits but with full recomputation, or in 2 parts with "minimal"."""
  fitting = {("full", 1): 0.9, ("minimal", 2): 0.8, ("none", 4): 0.7}
  tried = []

  def found(files, settings, timeout):
    setting = dict(settings)
    key = ast.literal_eval(setting["REMAT"]), int(setting["NUM_MICROBATCHES"])
    tried.append((*files, *key))
    if files:
      raise errors.ConfigError("does not divide")
    if key in fitting:
      return answer(step(busy=fitting[key]))
    return answer(step(temporaries=14 * GIB))

  assert compiled(found, "--search", "--gin.SEARCH_TRIALS=20")[0] == 0
  assert tried == [
    ("none", 1),
    ("minimal", 1),
    ("full", 1),
    ("none", 2),
    ("minimal", 2),
    ("none", 4),
    ("meshes/fsdp.gin", "none", 1),
    ("meshes/two_d.gin", "none", 1),
  ]
  rows = capsys.readouterr().out.splitlines()
  assert rows[1].endswith("--gin.REMAT=\"'none'\" --gin.NUM_MICROBATCHES=4")
  assert rows[2].endswith("--gin.REMAT=minimal --gin.NUM_MICROBATCHES=2")
  assert rows[3].endswith("--gin.REMAT=full --gin.NUM_MICROBATCHES=1")


@pytest.mark.parametrize("remat", search.Search().remat)
def test_trials_are_settings_that_gin_reads(remat):
  names = [flag.removeprefix("--gin_file=") for flag in FILES]
  roots = [one.root for one in commands.COMMANDS.values()]
  settings = search.Trial("", remat, 2).settings
  files = ["runs/compile.gin", *names]
  run = config.load(worker.ROOT, files, settings, commands=roots).call()
  assert run.num_microbatches == 2
  assert run.trainer.abstract.model.decoder.remat == remat


def test_a_search_of_which_nothing_fits_ends_with_8(compiled, capsys):
  too_large = answer(step(temporaries=14 * GIB))
  assert compiled(too_large, "--search", "--gin.SEARCH_TRIALS=2")[0] == 8
  assert "none of 2 trials fits" in capsys.readouterr().err


def test_a_search_of_nothing_is_refused():
  with pytest.raises(errors.ConfigError, match=r"Search.remat is empty"):
    search.Search(remat=())


def test_gpus_have_limits_of_their_own():
  gpu = topology.named("H100:8")
  assert "default tiles" in text.describe(gpu, answer(step()))
  assert "default tiles" not in text.describe(V5E, answer(step()))


def test_a_program_without_exchanges_has_one_time():
  alone = dataclasses.replace(step(), collectives={}, exchanging=0.0)
  out = text.describe(V5E, answer(alone))
  assert "500 ms at least" in out and "if they are hidden" not in out


def test_the_command_needs_its_machine(capsys):
  assert main.main(["compile", *FILES]) == 2
  assert "TOPOLOGY is not set" in capsys.readouterr().err
  assert command.compile_run.__doc__
