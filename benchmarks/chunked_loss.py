"""Memory of a loss over a large vocabulary, by the size of its chunks.

Compiles the loss and its gradients by the last activations and the head, for
one device of this machine, and prints what XLA says that its temporaries
need.  Nothing is allocated, and nothing runs:

  python benchmarks/chunked_loss.py
"""

import argparse

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_lite import layers
from t5x_lite.objectives import chunked


def compiled(
  chunk: int | None, rows: int, length: int, dim: int, vocab: int
) -> jax.stages.Compiled:
  """Loss and gradients of bfloat16 activations [rows length dim]."""

  def loss(head: layers.LogitsHead, x: jax.Array, targets: jax.Array):
    readout = layers.readout(head, head)
    token = chunked.cross_entropy(readout, x, targets, chunk=chunk, z_loss=1e-4)
    return jnp.sum(token.cross_entropy + token.z_loss)

  head = jax.eval_shape(lambda: layers.LogitsHead(vocab, dim, rngs=nnx.Rngs(0)))
  x = jax.ShapeDtypeStruct((rows, length, dim), jnp.bfloat16)
  targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  step = jax.jit(jax.value_and_grad(loss, (0, 1)))
  return step.lower(head, x, targets).compile()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", type=int, default=8)
  parser.add_argument("--length", type=int, default=2048)
  parser.add_argument("--dim", type=int, default=512)
  parser.add_argument("--vocab", type=int, default=256 * 1024)
  parser.add_argument(
    "--chunks",
    type=int,
    nargs="*",
    default=[512, 128, 32, 8],
    help="positions of each row; all of them come first",
  )
  args = parser.parse_args()
  shape = args.rows, args.length, args.dim, args.vocab
  print(
    "| LOGITS_CHUNK | positions of the batch at a time | temporaries, GiB |"
  )
  print("|--:|--:|--:|")
  for chunk in (None, *args.chunks):
    found = compiled(chunk, *shape).memory_analysis().temp_size_in_bytes
    positions = args.rows * (chunk or args.length)
    print(f"| {chunk} | {positions:,} | {found / 2**30:.2f} |", flush=True)


if __name__ == "__main__":
  main()
