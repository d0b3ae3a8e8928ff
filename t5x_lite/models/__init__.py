"""Models: stacks wired to tokens and logits; they know no loss and no data."""

from t5x_lite.models.encoder_decoder import DecodeState, EncoderDecoder

__all__ = ["DecodeState", "EncoderDecoder"]
