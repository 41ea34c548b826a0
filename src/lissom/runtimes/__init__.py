"""Runtimes: open a file and call it with arrays, whatever runs it.

open_file(path_or_bytes, runtime="onnxruntime", threads=1) -> Session
session(*arrays) -> tuple of arrays        session.input_names, session.output_names
"""

from lissom.runtimes.base import RUNTIMES, Parts, Runtime, Session, available, open_file

__all__ = ["RUNTIMES", "Parts", "Runtime", "Session", "available", "open_file"]
