"""Tokenizer, shards, model, training, evaluation and export of the base model."""
