"""What `infer` predicts for: lines of a file, or a split of a task."""

from t5x_lite.sources.base import Query, Scan, Source
from t5x_lite.sources.files import File

__all__ = ["File", "Query", "Scan", "Source"]
