"""Synthetic tasks that ask what a model can select, and how long it keeps it.

Selective copying and induction heads, as Gu and Dao (2023) pose them in section
4.1 and appendix E.1.  An example is `length` ids, and labels at the tokens
where the model has to answer; 0 and 9 stand for noise and a marker here, S for
the special token:

    selective copying   0 0 5 0 2 0 0 3 9 9 9   ->  5 2 3 at the three 9
    induction heads     4 7 S 3 1 6 2 2 5 1 S   ->  3 at the last S

An answer does not depend on where noise stands, so that a model whose memory
fades at a rate of its own, and not of the tokens', has to know all of it.

    from tasks import synthetic

    MIXTURE = @synthetic.SelectiveCopying()
    synthetic.SelectiveCopying.length = 128

Features are `inputs` and `labels`, 1 + the answer and 0 where there is none
(see `objectives.CausalLabelling`).  Every epoch has examples of its own, drawn
from SeqIO's seeds.

This module is light: a misspelt setting is told before TensorFlow loads.
"""

import dataclasses
import functools

from t5x_lite import errors

NOISE = 0


@dataclasses.dataclass(frozen=True)
class SelectiveCopying:
  """Tokens among noise are to be told again, in their order.

  The row ends in as many markers as there are tokens; the answer to each is
  the token of its rank.  Chance is 1 / (vocab_size - 2).

  Attributes:
    length: ids of a row, markers included; the paper's is 4,096.
    tokens: how many are to be copied.
    vocab_size: ids in all: 0 is noise, the last one the marker.
  """

  length: int = 4096
  tokens: int = 16
  vocab_size: int = 16

  def __post_init__(self) -> None:
    if self.tokens < 1:
      raise errors.ConfigError(
        f"SelectiveCopying.tokens is {self.tokens}; use 1 or more"
      )
    if self.length < 2 * self.tokens:
      raise errors.ConfigError(
        f"SelectiveCopying.length is {self.length}, but {self.tokens} tokens"
        f" and as many markers need {2 * self.tokens} or more: raise it, or"
        " lower SelectiveCopying.tokens"
      )
    if self.vocab_size < 4:
      raise errors.ConfigError(
        f"SelectiveCopying.vocab_size is {self.vocab_size}; use 4 or more:"
        " noise, a marker and two tokens to tell apart"
      )

  def register(self) -> str:
    """Registers the task once with SeqIO; returns its name."""
    from tasks import synthetic_rows

    name = f"selective_copying_{self.length}_{self.tokens}_{self.vocab_size}"
    make = functools.partial(synthetic_rows.selective_copying, self)
    return synthetic_rows.add(
      name, make, length=self.length, vocab_size=self.vocab_size
    )


@dataclasses.dataclass(frozen=True)
class InductionHeads:
  """What followed the special token is to be told when it comes again.

  It stands at a random place and at the end, nowhere else.  Chance is
  1 / (vocab_size - 1).

  Attributes:
    length: ids of a row; the paper trains on 256 and measures up to 2**20.
    vocab_size: ids in all; the last one is the special token.
  """

  length: int = 256
  vocab_size: int = 16

  def __post_init__(self) -> None:
    if self.length < 3:
      raise errors.ConfigError(
        f"InductionHeads.length is {self.length}; use 3 or more: the special"
        " token, what follows it, and the special token again"
      )
    if self.vocab_size < 3:
      raise errors.ConfigError(
        f"InductionHeads.vocab_size is {self.vocab_size}; use 3 or more: the"
        " special token and two to tell apart"
      )

  def register(self) -> str:
    """Registers the task once with SeqIO; returns its name."""
    from tasks import synthetic_rows

    name = f"induction_heads_{self.length}_{self.vocab_size}"
    make = functools.partial(synthetic_rows.induction_heads, self)
    return synthetic_rows.add(
      name, make, length=self.length, vocab_size=self.vocab_size
    )
