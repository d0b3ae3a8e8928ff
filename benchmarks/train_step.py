"""One training step of T5 1.1 small, against `transformers` on PyTorch.

The same work for both: batch 8, 512 input and 114 target tokens, float32,
no dropout, cross-entropy, Adafactor of T5 (parameter-scaled, factored).  Each
arm runs in its own process, in turns, so that a slow minute of the machine
hits both; what counts is the ratio of the medians.

  python benchmarks/train_step.py [--arms ours,torch,torch_compile]
      [--rounds 3] [--steps 4] [--json out.json]

The torch arms need `pip install torch transformers`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

BATCH, INPUTS, TARGETS, VOCAB = 8, 512, 114, 32128


def ours(steps: int, unroll: int) -> dict[str, object]:
  """Our trainer, from the shipped gin files."""
  start = time.perf_counter()
  import gin

  from t5x_lite import metrics, objectives, optimizers, partitioning, trainer

  imported = time.perf_counter()
  here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  gin.add_config_file_search_path(os.path.join(here, "gin_configs"))
  gin.parse_config_files_and_bindings(
    [os.path.join(here, "gin_configs/models/t5_1_1/small.gin")],
    ["DTYPE = 'float32'", f"UNROLL = {unroll}"],
  )
  model = gin.query_parameter("MODEL/macro.value").scoped_configurable_fn
  run = trainer.Trainer(
    model,
    objectives.Seq2Seq(z_loss=0.0),
    optimizers.adafactor(1e-3),
    partitioning.Partitioner({"data": 1}, {"batch": "data"}),
  )
  state = run.init()
  batch = run.put(_batch())

  def step() -> float:
    nonlocal state
    state, values = run.step(state, batch)
    return metrics.values(values)["loss"]

  return _measure(step, steps, start, imported)


def torch(steps: int, compiled: bool) -> dict[str, object]:
  """`transformers`, eager or through torch.compile."""
  start = time.perf_counter()
  import torch as th
  import transformers

  imported = time.perf_counter()
  config = transformers.T5Config(
    vocab_size=VOCAB,
    d_model=512,
    d_kv=64,
    d_ff=1024,
    num_layers=8,
    num_heads=6,
    dropout_rate=0.0,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    decoder_start_token_id=0,
  )
  model = transformers.T5ForConditionalGeneration(config)
  # transformers 5 ties the logits whatever it is told: give them their own
  # matrix.  Of variance one, as ours: from the default initialization they
  # have hundreds, and denormal softmaxes would slow PyTorch several times over.
  head = model.lm_head.weight.detach() * config.d_model**-0.5
  model.lm_head.weight = th.nn.Parameter(head.clone())
  model.config.tie_word_embeddings = False
  count = sum(p.numel() for p in model.parameters())
  assert count == 76_961_152, count
  optimizer = transformers.optimization.Adafactor(
    model.parameters(), lr=1e-3, relative_step=False, warmup_init=False
  )
  arrays = {k: th.tensor(v, dtype=th.long) for k, v in _batch().items()}
  forward = th.compile(model) if compiled else model

  def step() -> float:
    optimizer.zero_grad(set_to_none=True)
    out = forward(
      input_ids=arrays["inputs"],
      attention_mask=arrays["inputs_segment_ids"],
      labels=arrays["targets"],
    )
    out.loss.backward()
    optimizer.step()
    return float(out.loss)

  return _measure(step, steps, start, imported)


def _batch() -> dict[str, object]:
  import numpy as np

  rng = np.random.default_rng(0)
  batch = {}
  for name, length in (("inputs", INPUTS), ("targets", TARGETS)):
    shape = (BATCH, length)
    batch[name] = rng.integers(2, 32000, shape).astype(np.int32)
    batch[f"{name}_segment_ids"] = np.ones(shape, np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
    batch[f"{name}_positions"] = positions.copy()
  return batch


def _measure(
  step: Callable[[], float], steps: int, start: float, imported: float
) -> dict[str, object]:
  loss = step()
  first = time.perf_counter()
  seconds, cpu_seconds = [], []
  for _ in range(steps):
    before, cpu_before = time.perf_counter(), time.process_time()
    step()
    seconds.append(time.perf_counter() - before)
    cpu_seconds.append(time.process_time() - cpu_before)
  return {
    "import_s": imported - start,
    "first_step_s": first - start,
    "step_s": seconds,
    "cpu_s": cpu_seconds,
    "first_loss": loss,
  }


ARMS = {
  "ours": lambda steps: ours(steps, unroll=1),
  "ours_unrolled": lambda steps: ours(steps, unroll=8),
  "torch": lambda steps: torch(steps, compiled=False),
  "torch_compile": lambda steps: torch(steps, compiled=True),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--arms", default="ours,torch")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=4)
  parser.add_argument("--json")
  parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.arm:
    print("RESULT " + json.dumps(ARMS[flags.arm](flags.steps)))
    return
  arms = flags.arms.split(",")
  results: dict[str, list[dict]] = {arm: [] for arm in arms}
  for _ in range(flags.rounds):
    for arm in arms:
      results[arm].append(_run(arm, flags.steps))
  _print(results, reference="torch" if "torch" in arms else arms[0])
  if flags.json:
    with open(flags.json, "w") as file:
      json.dump(results, file, indent=1)


def _run(arm: str, steps: int) -> dict:
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
  done = subprocess.run(
    [sys.executable, __file__, "--arm", arm, "--steps", str(steps)],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
    check=True,
  )
  line = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")][-1]
  return json.loads(line.removeprefix("RESULT "))


def _print(results: dict[str, list[dict]], reference: str) -> None:
  def median(arm: str, what: str) -> float:
    return statistics.median(s for r in results[arm] for s in r[what])

  print(
    "arm            step s  ratio   cpu s  ratio  first step s  import s"
    "  first loss"
  )
  for arm, rounds in results.items():
    step, cpu = median(arm, "step_s"), median(arm, "cpu_s")
    print(
      f"{arm:14s} {step:6.2f} {step / median(reference, 'step_s'):6.2f}"
      f" {cpu:7.2f} {cpu / median(reference, 'cpu_s'):6.2f}"
      f" {statistics.median(r['first_step_s'] for r in rounds):13.1f}"
      f" {statistics.median(r['import_s'] for r in rounds):9.1f}"
      f" {rounds[0]['first_loss']:11.3f}"
    )


if __name__ == "__main__":
  main()
