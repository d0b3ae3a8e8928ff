"""One training step of Mamba, against `transformers` on PyTorch.

The same work for both: a batch of 2 rows, float32, AdamW, the
width and mixers of the published 130M with fewer layers and a smaller
vocabulary, which leaves the step to the mixers.  `transformers` takes the way
it has where the CUDA kernels are not: for Mamba a loop over time, whose
backward pass grows with the square of the length.  Each arm runs in its own
process, in turns, so that a slow minute of the machine hits both; what counts
is the ratio of the medians.

  python benchmarks/mamba_train_step.py [--family mamba,mamba2]
      [--length 256] [--rounds 3] [--steps 3] [--json out.json]

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

BATCH, VOCAB, DIM, LAYERS = 2, 2048, 768, 2
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def ours(family: str, length: int, steps: int) -> dict[str, object]:
  """Our trainer, from the shipped gin files."""
  import gin

  from t5x_lite import metrics, objectives, optimizers, partitioning, trainer

  gin.add_config_file_search_path(os.path.join(ROOT, "gin_configs"))
  gin.parse_config_files_and_bindings(
    [os.path.join(ROOT, f"gin_configs/models/{family}/130m.gin")],
    ["DTYPE = 'float32'", f"VOCAB_SIZE = {VOCAB}", f"NUM_LAYERS = {LAYERS}"],
  )
  model = gin.query_parameter("MODEL/macro.value").scoped_configurable_fn
  run = trainer.Trainer(
    model,
    objectives.CausalLM(z_loss=0.0),
    optimizers.adamw(1e-4),
    partitioning.Partitioner({"data": 1}, {"batch": "data"}),
  )
  import jax
  import numpy as np

  count = sum(x.size for x in jax.tree.leaves(run.abstract.model))
  state = run.init()
  positions = np.arange(length, dtype=np.int32)
  batch = run.put(
    {
      "targets": _tokens(length),
      "targets_segment_ids": np.ones((BATCH, length), np.int32),
      "targets_positions": np.tile(positions, (BATCH, 1)),
    }
  )

  def step() -> float:
    nonlocal state
    state, values = run.step(state, batch)
    return metrics.values(values)["loss"]

  return {"parameters": count} | _measure(step, steps)


def theirs(family: str, length: int, steps: int) -> dict[str, object]:
  """`transformers`, eager."""
  import torch
  import transformers

  shape = {
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "num_hidden_layers": LAYERS,
    "tie_word_embeddings": True,
  }
  if family == "mamba":
    config = transformers.MambaConfig(**shape)
    model = transformers.MambaForCausalLM(config)
  else:
    shape |= {"num_heads": DIM // 32, "head_dim": 64, "n_groups": 1}
    config = transformers.Mamba2Config(**shape)
    model = transformers.Mamba2ForCausalLM(config)
  model.train()
  count = sum(p.numel() for p in model.parameters())
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
  tokens = torch.tensor(_tokens(length), dtype=torch.long)

  def step() -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss)

  return {"parameters": count} | _measure(step, steps)


def _tokens(length: int) -> "object":
  import numpy as np

  rng = np.random.default_rng(0)
  return rng.integers(2, VOCAB, (BATCH, length)).astype(np.int32)


def _measure(step: Callable[[], float], steps: int) -> dict[str, object]:
  start = time.perf_counter()
  loss = step()
  first = time.perf_counter() - start
  seconds, cpu_seconds = [], []
  for _ in range(steps):
    before, cpu_before = time.perf_counter(), time.process_time()
    step()
    seconds.append(time.perf_counter() - before)
    cpu_seconds.append(time.process_time() - cpu_before)
  return {
    "first_step_s": first,
    "step_s": seconds,
    "cpu_s": cpu_seconds,
    "first_loss": loss,
  }


ARMS = {"ours": ours, "transformers": theirs}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--family", default="mamba,mamba2")
  parser.add_argument("--length", type=int, default=256)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--json")
  parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.arm:
    result = ARMS[flags.arm](flags.family, flags.length, flags.steps)
    print("RESULT " + json.dumps(result))
    return
  results = {}
  for family in flags.family.split(","):
    rounds: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for _ in range(flags.rounds):
      for arm in ARMS:
        rounds[arm].append(_run(family, arm, flags.length, flags.steps))
    _print(family, rounds)
    results[family] = rounds
  if flags.json:
    with open(flags.json, "w") as file:
      json.dump(results, file, indent=1)


def _run(family: str, arm: str, length: int, steps: int) -> dict:
  path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
  command = [sys.executable, __file__, "--family", family, "--arm", arm]
  done = subprocess.run(
    [*command, "--length", str(length), "--steps", str(steps)],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
    check=True,
  )
  line = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")][-1]
  return json.loads(line.removeprefix("RESULT "))


def _print(family: str, rounds: dict[str, list[dict]]) -> None:
  def median(arm: str, what: str) -> float:
    return statistics.median(s for r in rounds[arm] for s in r[what])

  counts = {r["parameters"] for runs in rounds.values() for r in runs}
  assert len(counts) == 1, counts
  print(f"{family}, {counts.pop():,} parameters")
  print("arm            step s   cpu s  first step s  first loss")
  for arm, runs in rounds.items():
    first = statistics.median(r["first_step_s"] for r in runs)
    print(
      f"{arm:12s} {median(arm, 'step_s'):8.2f} {median(arm, 'cpu_s'):7.2f}"
      f" {first:13.1f} {runs[0]['first_loss']:11.3f}"
    )
  for what in ("step_s", "cpu_s"):
    ratio = median("transformers", what) / median("ours", what)
    print(f"transformers / ours, {what}: {ratio:.2f}")


if __name__ == "__main__":
  main()
