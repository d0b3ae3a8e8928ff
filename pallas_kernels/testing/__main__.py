"""Compiles for a chip that is absent and prints what it costs.

    python -m pallas_kernels.testing v5e my_kernels.py:attention length=2048

A value is JSON, or text if it is not: `dtype=bfloat16 causal=true`.
"""

import argparse
import json
import sys
from typing import Any

from pallas_kernels import testing
from pallas_kernels.testing import text


def _argument(given: str) -> tuple[str, Any]:
  name, equals, value = given.partition("=")
  if not equals:
    raise argparse.ArgumentTypeError(f"{given!r} is not name=value")
  try:
    return name, json.loads(value)
  except json.JSONDecodeError:
    return name, value


def main() -> int:
  """Returns the exit code: 1 if it does not compile, 2 without a compiler."""
  parser = argparse.ArgumentParser(
    prog="python -m pallas_kernels.testing",
    description="Compile for a chip that is absent and print what it costs.",
  )
  parser.add_argument("chip", choices=list(testing.CHIPS), metavar="CHIP")
  parser.add_argument("target", help="package.module:name or file.py:name")
  parser.add_argument("arguments", nargs="*", type=_argument, metavar="N=V")
  parser.add_argument("--keep", help="directory for the compiler's dumps")
  given = parser.parse_args()
  try:
    found = testing.compile_for(
      given.chip, given.target, dict(given.arguments), keep=given.keep
    )
  except testing.MissingCompiler as error:
    print(error, file=sys.stderr)
    return 2
  except testing.CompileError as error:
    print(error, file=sys.stderr)
    return 1
  print(text.describe(found))
  return 0


if __name__ == "__main__":
  sys.exit(main())
