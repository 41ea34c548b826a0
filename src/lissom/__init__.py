"""lissom makes trained neural networks small and fast."""
