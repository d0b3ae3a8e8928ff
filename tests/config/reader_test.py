"""Files and flags as statements."""

import pytest

from t5x_lite import errors
from t5x_lite.config import reader, statements


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  return str(path)


def flag(name, text):
  return reader.read([], [(name, text)]).bindings[-1].value


def refuse(files=(), flags=()):
  with pytest.raises(errors.ConfigError) as error:
    reader.read(files, flags)
  return str(error.value)


def test_statements_have_names_values_and_places(here):
  write(
    here / "a.gin",
    "import optax\n"
    "from t5x_lite import layers as l\n"
    "RATE = 1e-3\n"
    "enc/l.Norm:\n"
    "  epsilon = %RATE\n"
    "  parts = {'a': [@l.Norm, @x/y/optax.adamw()]}\n",
  )
  rate, epsilon, parts = reader.read(["a.gin"]).bindings
  assert (rate.name, rate.value, str(rate.place)) == ("RATE", 1e-3, "a.gin:3")
  assert rate.is_macro
  assert epsilon.target == "t5x_lite.layers.Norm"
  assert epsilon.scope == ("enc",)
  assert epsilon.name == "enc/l.Norm.epsilon"
  assert epsilon.value == statements.Macro("RATE")
  assert str(parts.place) == "a.gin:6"
  norm, adamw = parts.value["a"]
  assert norm == statements.Reference("t5x_lite.layers.Norm")
  assert adamw == statements.Reference("optax.adamw", ("x", "y"), True)


def test_plain_import_of_a_submodule(here):
  write(here / "a.gin", "import os.path\nA = @os.path.join\nB = @os.getcwd()")
  a, b = reader.read(["a.gin"]).bindings
  assert (a.value.target, b.value.target) == ("os.path.join", "os.getcwd")


def test_comments_explain_settings(here):
  write(
    here / "a.gin",
    "# Header.\n\n# Above,\n# and more.\nA = 1\nB = 2  # beside\nC = '  # x'\n",
  )
  comments = [b.place.comment for b in reader.read(["a.gin"]).bindings]
  assert comments[:2] == ["Above, and more.", "beside"]


def test_includes_stand_where_they_are(here):
  write(here / "in/part.gin", "A = 1\nB = 1")
  write(here / "in/whole.gin", "A = 0\ninclude 'part.gin'\nB = 2")
  source = reader.read(["in/whole.gin"])
  assert [b.value for b in source.bindings] == [0, 1, 1, 2]
  assert str(source.bindings[1].place) == "in/part.gin:1"
  assert {k: b.value for k, b in source.macros().items()} == {"A": 1, "B": 2}


def test_shipped_files_are_found_after_local_ones(here, monkeypatch):
  shipped = here / "elsewhere"
  write(shipped / "runs/a.gin", "A = 'shipped'")
  monkeypatch.setattr(reader, "SHIPPED", shipped)
  (binding,) = reader.read(["runs/a.gin"]).bindings
  assert str(binding.place) == "gin_configs/runs/a.gin:1"
  assert binding.place.shipped
  write(here / "runs/a.gin", "A = 'local'")
  (binding,) = reader.read(["runs/a.gin"]).bindings
  assert (binding.value, binding.place.shipped) == ("local", False)


def test_shipped_files_can_all_be_read():
  for name in reader.shipped_files():
    reader.read([name])
  assert "models/t5_1_1/small.gin" in reader.shipped_files()


def test_missing_file_names_near_ones():
  message = refuse(["models/t5_1_1/smal.gin"])
  assert message.startswith(
    "there is no gin file 'models/t5_1_1/smal.gin'; did you mean "
    "models/t5_1_1/small.gin or "
  )
  assert "models/t5_1_1/small.gin" in refuse(["t5_1_1/small.gin"])


def test_missing_include_names_its_place(here):
  write(here / "a.gin", "\ninclude 'b.gin'")
  assert refuse(["a.gin"]).startswith("a.gin:2: there is no gin file 'b.gin'")


def test_include_of_itself(here):
  write(here / "a.gin", "include 'b.gin'")
  write(here / "b.gin", "include 'a.gin'")
  assert refuse(["a.gin"]) == "b.gin:1: 'a.gin' includes itself"


def test_directories_and_other_files(here):
  assert refuse([str(here)]).startswith("there is no gin file")
  (here / "a.gin").write_bytes(b"\xff\xfe\x00")
  assert refuse(["a.gin"]).startswith(f"cannot read {here}/a.gin: 'utf-8'")


@pytest.mark.parametrize(
  ("text", "line", "message"),
  [
    ("A = 1\nB = [1,\n", None, "EOF in multi-line statement"),
    ("A = 1\nB = 1 2\n", 2, "Expected newline."),
    ("A = 1\n\nB = word\n", 3, "word is no value: a string needs quotes"),
    ("A = true\n", 1, "true is no value; did you mean True?"),
    ("A = 1\nB 2\n", 2, "Couldn't parse statement, expected ':' or '='."),
    ("A = 'x\n", 1, ""),
    ("A:\nb = 1\n", 2, "Expected indentation"),
    ("A =\n", 1, "Unable to parse value."),
  ],
)
def test_syntax_errors_have_a_place(here, text, line, message):
  write(here / "a.gin", text)
  found = refuse(["a.gin"])
  assert found.startswith(f"a.gin:{line or ''}")
  assert message in found


def test_error_in_an_included_file_has_its_place(here):
  write(here / "b.gin", "A = word")
  write(here / "a.gin", "\ninclude 'b.gin'")
  assert refuse(["a.gin"]).startswith("b.gin:1: word is no value")


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("8", 8),
    ("-1", -1),
    ("1e-3", 1e-3),
    ("True", True),
    ("None", None),
    ("'8'", "8"),
    ('"a b"', "a b"),
    ("[1, 2]", [1, 2]),
    ("('a',)", ("a",)),
    ("{'inputs': 512}", {"inputs": 512}),
    ("%DIM", statements.Macro("DIM")),
    ("my_task", "my_task"),
    ("2024_tasks", "2024_tasks"),
    ("/data/*.txt", "/data/*.txt"),
    ("gs://bucket/x-1", "gs://bucket/x-1"),
    ("~/a file.txt", "~/a file.txt"),
    ("a=b#c", "a=b#c"),
    ("nested.name", "nested.name"),
  ],
)
def test_values_of_flags(text, value):
  found = flag("X", text)
  assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("true", "true is no value; did you mean True?"),
    ("none", "none is no value; did you mean None?"),
    ("", "the value is missing"),
    ("[1, 2", ""),
    ("'open", ""),
    ("@", ""),
    ("adamw()", ""),
    ("1\nY = 2", "more than one value"),
  ],
)
def test_values_of_flags_that_are_refused(text, message):
  found = refuse(flags=[("X", text)])
  assert found.startswith(f"--gin.X={text}: ")
  assert message in found


def test_flags_know_the_symbols_of_all_files(here):
  write(here / "a.gin", "from t5x_lite import layers\nA = @layers.Attention")
  source = reader.read(
    ["a.gin"],
    [
      ("layers.Norm.epsilon", "1"),
      ("Attention.heads", "2"),
      ("enc/t5x_lite.layers.Attention.heads", "3"),
    ],
  )
  assert [b.target for b in source.bindings[1:]] == [
    "t5x_lite.layers.Norm",
    "t5x_lite.layers.Attention",
    "t5x_lite.layers.Attention",
  ]
  assert source.bindings[-1].scope == ("enc",)


def test_ambiguous_name_in_a_flag(here):
  write(here / "a.gin", "import a\nimport b\nX = [@a.Norm, @b.Norm]")
  assert refuse(["a.gin"], [("Norm.epsilon", "1")]) == (
    "--gin.Norm.epsilon=1: 'Norm' may be a.Norm or b.Norm; say which"
  )
