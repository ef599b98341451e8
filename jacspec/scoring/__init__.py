"""How well a model predicts a text: windows of tokens, their probabilities, perplexity."""
