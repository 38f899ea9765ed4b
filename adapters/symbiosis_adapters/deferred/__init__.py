"""Tensors without a value yet, and the recording behind them. They know neither trips nor daemons."""
