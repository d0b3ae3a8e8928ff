"""Reading files: every format, and what is said of what cannot be read."""

import gzip
import json

import pytest

from t5x_lite import errors
from tasks import reading


def _read(path, keys=("text",), **kwargs):
  files = reading.find(str(path))
  return list(reading.Reader(keys, **kwargs).read(files))


def _texts(path, **kwargs):
  return [d["text"].decode() for d in _read(path, **kwargs)]


def _examples(path, *examples):
  import tensorflow as tf

  def feature(value):
    if isinstance(value, bytes):
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      if isinstance(example, dict):
        fields = {key: feature(value) for key, value in example.items()}
        example = tf.train.Example(features=tf.train.Features(feature=fields))
        example = example.SerializeToString()
      writer.write(example)


def test_a_text_file_is_one_document_or_one_a_line(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes("\ufeffé one\r\n\n two\n".encode())
  assert _texts(path) == ["é one\r\n\n two\n"]
  assert _texts(path, format="lines") == ["é one", " two"]


def test_json_lines_and_records_give_the_texts_of_their_keys(tmp_path):
  rows = [{"text": 'a "q"\n\u00e9', "n": 1}, {"n": 2, "text": "b"}]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "a.jsonl").write_text(lines + "\n")
  assert _texts(tmp_path / "a.jsonl") == ['a "q"\né', "b"]
  _examples(tmp_path / "b.tfrecord", {"text": "é".encode(), "image": b"\xff"})
  assert _texts(tmp_path / "b.tfrecord") == ["é"]
  pairs = '{"target": "y", "source": "x"}'
  (tmp_path / "c.ndjson").write_text(pairs)
  found = _read(tmp_path / "c.ndjson", ("source", "target"))
  assert found == [{"source": b"x", "target": b"y"}]
  assert list(found[0]) == ["source", "target"]


def test_a_folder_holds_files_of_all_formats_some_compressed(tmp_path):
  (tmp_path / "deep").mkdir()
  (tmp_path / "deep" / "b.txt.gz").write_bytes(gzip.compress(b"two"))
  (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}'))
  (tmp_path / "notes.pdf").write_bytes(b"not read")
  assert _texts(tmp_path) == ["one", "two"]
  assert _texts(tmp_path / "**" / "*.txt.gz") == ["two"]


def test_long_texts_are_cut_at_ends_of_lines_words_or_characters(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(reading, "MAX_BYTES", 10)
  for text in ("one\ntwo\nthree four five six", "é" * 33, "€" * 20, "a " * 9):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = _texts(tmp_path / "a.txt")
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= 10 for piece in pieces)
  (tmp_path / "a.txt").write_text("one\ntwo\nthree four five six")
  assert _texts(tmp_path / "a.txt") == [
    "one\ntwo\n",
    "three ",
    "four five ",
    "six",
  ]


GOOD = b'{"text": "fine"}\n'

BAD_LINES = [
  (b'{"text": "cut', "not JSON: Unterminated string .* at column 10"),
  (b'{"text": "\xff"}', r"line 2 \(byte 27\): not UTF-8 \(invalid start"),
  (b'{"txt": "a"}', r"no key 'text' among \['txt'\]; did you mean 'txt'"),
  (b'{"text": 3}', "'text' is of type int, not a text"),
  (b"[1]", "list where {'text': ...} should be"),
  (b'{"text": "\\ud800"}', "not UTF-8"),
]


@pytest.mark.parametrize("line, match", BAD_LINES)
def test_a_bad_line_is_named_by_file_line_and_byte(tmp_path, line, match):
  path = tmp_path / "a.jsonl"
  path.write_bytes(GOOD + line + b"\n" + GOOD)
  with pytest.raises(errors.DataError, match=match) as error:
    _read(path)
  assert str(error.value).startswith(f"{path}, line 2 (byte ")
  assert "max_bad_records" in str(error.value)


def test_bad_lines_up_to_a_number_are_skipped_and_counted(tmp_path, caplog):
  path = tmp_path / "a.jsonl"
  path.write_bytes(GOOD + b"".join(b + b"\n" + GOOD for b, _ in BAD_LINES))
  reader = reading.Reader(max_bad_records=6)
  assert len(list(reader.read([path]))) == 7 and reader.bad_records == 6
  assert len(caplog.records) == 5 and "line 4" in caplog.text
  with pytest.raises(errors.DataError, match="line 12 .* bad record 6, "):
    _read(path, max_bad_records=5)


def test_bad_text_is_named_by_line_and_byte(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(b"one\ntwo\nth\xe9ree\n")
  for form in ("txt", "lines"):
    with pytest.raises(errors.DataError, match=r"line 3 \(byte 10\)"):
      _read(path, format=form)


def test_damaged_records_are_named_by_number_and_byte(tmp_path):
  path = tmp_path / "a.tfrecord"
  _examples(path, {"text": b"one"}, {"text": b"two"}, {"text": b"three"})
  data = path.read_bytes()
  size = len(data) // 3
  path.write_bytes(data[:-4])
  with pytest.raises(errors.DataError, match=r"record 2 \(byte \d+\): damaged"):
    _read(path)
  path.write_bytes(data[: size + 14] + b"?" + data[size + 15 :])
  with pytest.raises(errors.DataError, match="record 1 .*complete"):
    _read(path, max_bad_records=9)


@pytest.mark.parametrize(
  "record, match",
  [
    ({"body": b"x"}, r"record 1 \(byte \d+\): no key 'text' among \['body'\]"),
    ({"text": 7}, "is of type list, not a text"),
    ({"text": b"\xff"}, "not UTF-8"),
    (b"\xff\xff", "record 1"),
  ],
)
def test_a_record_without_text_is_named(tmp_path, record, match):
  path = tmp_path / "a.tfrecord"
  _examples(path, {"text": b"fine"}, record, {"text": b"fine"})
  with pytest.raises(errors.DataError, match=match):
    _read(path)
  assert len(_read(path, max_bad_records=1)) == 2


@pytest.mark.parametrize(
  "name, data, match",
  [
    ("a.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:-9], "complete"),
    ("a.txt.gz", b"not compressed", "Not a gzipped file"),
    ("a.dat", b"", "give `format`, one of txt, lines"),
  ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, data, match):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(errors.DataError, match=match) as error:
    _read(tmp_path / name)
  assert name in str(error.value)


def test_corrupt_compressed_data_is_named(tmp_path):
  data = bytearray(gzip.compress(bytes(range(256)) * 99))
  data[40:60] = b"\0" * 20
  (tmp_path / "a.txt.gz").write_bytes(data)
  with pytest.raises(errors.DataError, match=r"a\.txt\.gz"):
    _read(tmp_path / "a.txt.gz")


def test_text_has_no_pairs(tmp_path):
  (tmp_path / "a.txt").write_text("x")
  with pytest.raises(errors.DataError, match="'inputs' and 'targets'"):
    _read(tmp_path / "a.txt", ("inputs", "targets"))


def test_no_files_is_an_error(tmp_path):
  for pattern in (tmp_path / "*.txt", tmp_path):
    with pytest.raises(errors.DataError, match=r"no file"):
      reading.find(str(pattern))
