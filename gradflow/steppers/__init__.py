"""Steppers: each advances one state to an end time, step by step."""
