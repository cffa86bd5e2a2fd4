"""Networks: the searched one, the discrete one, and the data that describe them."""

from .._core.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__, {"DARTSCell": "cell", "MixedOp": "mixed_op", "TimeSeriesDARTS": "network", "FixedOp": "build"}
)
