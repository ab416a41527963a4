"""Measuring the machine at hand: what to time, how to time it, and the accelerator that comes of it."""
