"""What a model's modules become: remote layers, experts, and modules that are passed in one step."""
