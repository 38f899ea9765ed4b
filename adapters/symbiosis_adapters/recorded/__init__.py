"""What is done to a deferred tensor, as nodes of its recording: which functions of torch, and over what."""
