"""How the answers to choose from are listed under a question."""

import string

import tensorflow as tf

# Of options, which may be more than the alphabet has.
LETTERS = tuple(
  f"({first}{second})"
  for first in ("", *string.ascii_uppercase)
  for second in string.ascii_uppercase
)


def listed(options: tf.Tensor, style: str = "dashes") -> tf.Tensor:
  """Returns the options as Flan lists them (Wei et al., 2021, figure 1).

  Letters are of its successor (Longpre et al., 2023).

  Args:
    options: [O] texts.
    style: one of `formats.STYLES`.
  """
  marks = letters(options) if style == "letters" else tf.constant("-")
  lines = tf.strings.join(["\n", marks, " ", options])
  return tf.strings.join(["OPTIONS:", tf.strings.reduce_join(lines)])


def letters(options: tf.Tensor) -> tf.Tensor:
  """Returns "(A)", "(B)" and so on, one for each option."""
  return tf.constant(LETTERS)[: tf.shape(options)[0]]
