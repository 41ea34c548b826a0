"""Examples that the README's commands use; run them from the folder that holds ``examples/``."""
