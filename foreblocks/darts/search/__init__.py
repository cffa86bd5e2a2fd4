"""The staged search: candidates, screening, halving, the final phase and its result."""

from .._core.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "build_weight_schemes": "weight_schemes",
        "candidate_diversity_bonus": "scoring",
        "candidate_signature": "scoring",
        "deduplicate_candidates": "scoring",
        "lpt_estimate": "whatif",
        "mean_std": "whatif",
        "normalize_metric_for_pool": "scoring",
        "ranks_desc": "weight_schemes",
        "rescore_candidates_poolwise": "scoring",
        "select_top_candidates": "scoring",
        "spearman_from_scores": "weight_schemes",
        "topk_overlap_from_scores": "weight_schemes",
    },
)
