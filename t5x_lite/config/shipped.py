"""What the gin files that come with t5x_lite read and define, for hints."""

import re

from t5x_lite.config import reach, reader


def texts() -> dict[str, str]:
  """The shipped gin files, by name."""
  names = reader.shipped_files()
  return {n: (reader.SHIPPED / n).read_text(encoding="utf-8") for n in names}


def macros_read() -> set[str]:
  """All macros that some shipped file reads."""
  text = "\n".join(texts().values())
  return set(re.findall(r"%([A-Za-z_][\w/]*)", text))


def who_defines(macro: str) -> str:
  """Names files that define a macro with all that it needs, or nothing."""
  return _add_one_of([n for n in reader.shipped_files() if _gives(n, macro)])


def who_runs(root: str) -> str:
  """Names files that configure the function of a command, or nothing."""
  line = re.compile(rf"^{'.'.join(root.split('.')[-2:])}\b", re.MULTILINE)
  return _add_one_of([n for n, text in texts().items() if line.search(text)])


def _gives(file: str, macro: str) -> bool:
  source = reader.read([file])
  macros = source.macros()
  needed = reach.reach(source, (), [macro]).macros
  return all(name in macros or "." in name for name in needed)


def _add_one_of(files: list[str]) -> str:
  if not files:
    return ""
  files.sort(key=lambda name: ("small" not in name, name))
  more = f", or one of {len(files) - 3} more" if len(files) > 3 else ""
  named = " or ".join(f"--gin_file={name}" for name in files[:3])
  return f"; add {named}{more}"
