"""The kernels. Each stands beside its plain twin, and a parity test holds them together."""
