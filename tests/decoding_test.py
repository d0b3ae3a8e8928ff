"""Decoding: tokens, scores, stopping, padding, meshes, batching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import decoding, errors, models, objectives, partitioning
from tests import tiny

VOCAB, LENGTH, SOURCE = tiny.VOCAB, 12, 10


def _model() -> models.EncoderDecoder:
  """A small T5 1.1 whose greedy output ends early in some rows."""
  model = tiny.fill(tiny.t5(vocab=VOCAB))
  # A stronger end of sequence, so that rows end at different steps.
  kernel = model.head.kernel[...].at[:, decoding.decoder.EOS].multiply(2.0)
  model.head.kernel = model.head.kernel.replace(kernel)
  return model


def _inputs(rows: int = 8) -> np.ndarray:
  rng = np.random.default_rng(1)
  tokens = rng.integers(2, VOCAB, (rows, SOURCE)).astype(np.int32)
  lengths = rng.integers(3, SOURCE + 1, rows)
  return np.where(np.arange(SOURCE) < lengths[:, None], tokens, 0)


def _batch(inputs: np.ndarray) -> dict[str, jax.Array]:
  return {"encoder_input_tokens": jnp.asarray(inputs)}


def _rollout(model, inputs, max_length):
  """Greedy by the definition: the full forward pass for every token."""
  rows, scores = [], []
  forward = jax.jit(lambda model, batch: jax.nn.log_softmax(model(batch)))
  for row in inputs:
    tokens, score = [], 0.0
    while len(tokens) < max_length and 1 not in tokens:
      decoder = np.zeros((1, max_length), np.int32)
      decoder[0, 1 : len(tokens) + 1] = tokens[: max_length - 1]
      batch = _batch(row[None]) | {"decoder_input_tokens": jnp.asarray(decoder)}
      log_probs = np.asarray(forward(model, batch))[0, len(tokens)]
      tokens.append(int(log_probs.argmax()))
      score += float(log_probs.max())
    rows.append(tokens + [0] * (max_length - len(tokens)))
    scores.append(score)
  return np.array(rows), np.array(scores)


def test_greedy_equals_the_rollout_of_the_forward_pass():
  model, inputs = _model(), _inputs()
  expected, scores = _rollout(model, inputs, LENGTH)
  decoded = jax.jit(decoding.Decoder(LENGTH))(model, _batch(inputs))
  ends = (expected == 1).any(axis=1)
  assert ends.any() and not ends.all(), "the example must show both cases"
  assert len({tuple(row) for row in expected}) > 4, "rows must differ"
  np.testing.assert_array_equal(decoded.tokens, expected)
  np.testing.assert_allclose(decoded.scores, scores, atol=1e-4)
  assert decoded.tokens.dtype == jnp.int32
  assert decoded.scores.dtype == jnp.float32


def test_scores_are_the_log_likelihoods_of_the_tokens():
  model, inputs = _model(), _inputs()
  predictor = _predictor(batch_size=4)
  examples = [{"inputs": row[row != 0]} for row in inputs]
  predictions = list(predictor.predict(model, examples))
  for example, prediction in zip(examples, predictions, strict=True):
    example["targets"] = prediction.tokens[prediction.tokens != 0]
  scores = list(predictor.score(model, examples))
  np.testing.assert_allclose(
    [prediction.score for prediction in predictions], scores, atol=1e-4
  )


class _Scripted:
  """A model that emits given rows, and counts its steps."""

  vocab_size = VOCAB

  def __init__(self, rows):
    self.rows, self.steps = np.asarray(rows), 0

  def prefill(self, batch, length):
    return jnp.zeros((), jnp.int32)

  def step(self, tokens, index):
    def count():
      self.steps += 1

    jax.debug.callback(count)
    script = jnp.asarray(self.rows)
    column = jnp.minimum(index, script.shape[1] - 1)
    return 9.0 * jax.nn.one_hot(script[:, column], VOCAB), index + 1


def _steps(rows, inputs, max_length=20):
  model = _Scripted(rows)
  batch = _batch(np.asarray(inputs))
  decoded = jax.jit(lambda batch: decoding.Decoder(max_length)(model, batch))(
    batch
  )
  jax.block_until_ready(decoded)
  jax.effects_barrier()
  return model.steps, decoded


def test_stops_when_every_row_has_ended():
  rows = [[5, 1, 7, 7, 7], [5, 6, 8, 1, 7]]
  steps, decoded = _steps(rows, [[3], [3]])
  assert steps == 4
  assert decoded.tokens[:, :5].tolist() == [[5, 1, 0, 0, 0], [5, 6, 8, 1, 0]]
  # Only the tokens up to the end count: two in the first row, four in the
  # second, all equally likely.
  assert decoded.scores[1] == pytest.approx(
    2 * float(decoded.scores[0]), rel=1e-4
  )


def test_stops_at_the_greatest_length():
  steps, decoded = _steps([[5, 6, 7]], [[3]], max_length=3)
  assert steps == 3
  assert decoded.tokens.tolist() == [[5, 6, 7]]


def test_padding_rows_do_not_delay_the_stop():
  rows = [[5, 1, 7, 7], [7, 7, 7, 7]]  # the second would never end
  steps, decoded = _steps(rows, [[3], [0]])
  assert steps == 2
  assert not decoded.tokens[1].any()
  assert decoded.scores[1] == 0.0


def test_a_batch_of_padding_takes_no_step():
  assert _steps([[7]], [[0]])[0] == 0


def test_padding_a_batch_changes_nothing():
  model, inputs = _model(), _inputs(3)
  decode = jax.jit(decoding.Decoder(LENGTH))
  alone = decode(model, _batch(inputs))
  padded = np.zeros((8, SOURCE + 6), np.int32)
  padded[:3, :SOURCE] = inputs
  with_padding = decode(model, _batch(padded))
  np.testing.assert_array_equal(with_padding.tokens[:3], alone.tokens)
  np.testing.assert_allclose(with_padding.scores[:3], alone.scores, atol=1e-5)
  assert not np.asarray(with_padding.tokens[3:]).any()


def test_a_strategy_gets_a_new_key_at_every_step():
  def draw(logits, key):
    return jax.random.randint(key, logits.shape[:1], 2, VOCAB)

  model, batch = _model(), _batch(_inputs(2))
  decode = jax.jit(decoding.Decoder(LENGTH, draw))
  first = decode(model, batch, jax.random.key(0)).tokens
  again = decode(model, batch, jax.random.key(0)).tokens
  other = decode(model, batch, jax.random.key(1)).tokens
  np.testing.assert_array_equal(first, again)
  assert len(set(np.asarray(first)[0].tolist())) > LENGTH // 2
  assert (first != other).any()


def test_a_length_of_nothing_is_refused():
  with pytest.raises(errors.ConfigError, match="max_length 0"):
    decoding.Decoder(0)


_RULES = {"batch": "data", "embed": "data", "heads": "model", "mlp": "model"}


def _partitioner(data: int = 1, model: int = 1) -> partitioning.Partitioner:
  class Few(partitioning.Partitioner):  # on the first devices only
    mesh = jax.make_mesh(
      (data, model),
      ("data", "model"),
      axis_types=(jax.sharding.AxisType.Auto,) * 2,
      devices=jax.devices()[: data * model],
    )

  return Few({"data": data, "model": model}, _RULES)


def _predictor(
  batch_size=8, strategy=decoding.greedy, partitioner=None, **lengths
):
  return decoding.Predictor(
    decoding.Decoder(LENGTH, strategy),
    objectives.Seq2Seq(),
    partitioner or _partitioner(),
    feature_lengths=lengths or {"inputs": SOURCE, "targets": LENGTH},
    batch_size=batch_size,
  )


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("data,model", [(8, 1), (2, 4)])
def test_meshes_decode_alike(data, model):
  network, inputs = _model(), _inputs(16)
  expected = jax.jit(decoding.Decoder(LENGTH))(network, _batch(inputs))
  partitioner = _partitioner(data, model)
  network = jax.device_put(network, partitioner.shardings(network))
  predictor = _predictor(8, partitioner=partitioner)
  examples = [{"inputs": row[row != 0]} for row in inputs]
  predictions = list(predictor.predict(network, examples))
  np.testing.assert_array_equal(
    [prediction.tokens for prediction in predictions], expected.tokens
  )
  np.testing.assert_allclose(
    [prediction.score for prediction in predictions],
    expected.scores,
    atol=1e-4,
  )


def test_predictor_keeps_order_and_compiles_once():
  traces = []

  def counted(logits, key):
    traces.append(logits.shape)
    return decoding.greedy(logits, key)

  model, inputs = _model(), _inputs(11)
  expected = jax.jit(decoding.Decoder(LENGTH))(model, _batch(inputs))
  predictor = _predictor(4, counted)
  examples = [{"inputs": row[row != 0], "targets": [9, 9]} for row in inputs]
  for _ in range(2):
    predictions = list(predictor.predict(model, examples))
    np.testing.assert_array_equal(
      [prediction.tokens for prediction in predictions], expected.tokens
    )
  assert traces == [(4, VOCAB)]


def test_predictor_is_lazy():
  read = []

  def examples():
    for i in range(100):
      read.append(i)
      yield {"inputs": [5, 1]}

  next(_predictor(2).predict(_model(), examples()))
  assert len(read) == 4


def test_predictor_needs_the_lengths_of_its_features():
  with pytest.raises(errors.ConfigError, match="lacks 'inputs'.*'input'"):
    _predictor(input=SOURCE)
  predictor = _predictor(inputs=SOURCE)
  assert len(list(predictor.predict(_model(), [{"inputs": [3, 1]}]))) == 1
  with pytest.raises(errors.ConfigError, match="'targets', which are to be"):
    list(predictor.score(_model(), [{"inputs": [3, 1], "targets": [1]}]))


def test_predictor_refuses_an_id_beyond_the_model():
  with pytest.raises(errors.DataError, match=f"the id {VOCAB} .* {VOCAB} emb"):
    list(_predictor().predict(_model(), [{"inputs": [3, VOCAB, 1]}]))
