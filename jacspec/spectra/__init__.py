"""One SVD kernel and one table of metrics, for Jacobians and for weights."""
