"""The operations of a DenseNet in NumPy alone: to learn from, and to check faster code against."""
