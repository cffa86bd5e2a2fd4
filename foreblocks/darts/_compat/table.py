"""Old module path → old name → where it lives now, as ``"module:attribute"`` below ``foreblocks.darts``."""

from __future__ import annotations

_CHECKPOINT = {
    "save_model": "training.checkpoint:save_model",
    "load_model_checkpoint": "training.checkpoint:load_model_checkpoint",
}
_LOSSES = {
    "get_loss_function": "evaluation.losses:get_loss_function",
    "register_loss": "evaluation.losses:register_loss",
}
_BATCHES = {
    "unpack_forecasting_batch": "data.batch_protocol:unpack_forecasting_batch",
    "autocast_ctx": "data.batch_protocol:autocast_ctx",
}

OLD_PATHS: dict[str, dict[str, str]] = {
    "architecture.core_blocks": {
        "TimeSeriesDARTS": "architecture.network:TimeSeriesDARTS",
        "DARTSCell": "architecture.cell:DARTSCell",
        "MixedOp": "architecture.mixed_op:MixedOp",
    },
    "architecture.finalization": {"derive_final_architecture": "architecture.derive:derive_final_architecture"},
    "architecture.operation_blocks": {"FixedOp": "architecture.build:FixedOp"},
    "scoring": {
        "normalize_metric_value": "search.scoring:normalize_metric_value",
        "score_from_metrics": "search.scoring:score_from_metrics",
    },
    "search.candidate_config": {"normalize_op_families": "search.candidates:normalize_op_families"},
    "utils": {**_CHECKPOINT, **_LOSSES, **_BATCHES},
    "utils.io": _CHECKPOINT,
    "utils.training": {**_LOSSES, **_BATCHES},
}
