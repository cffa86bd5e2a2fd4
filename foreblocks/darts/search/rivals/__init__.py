"""What a search has to beat: other searches of the same space that get the same number of training steps.

A step is one training batch forward and backward (``budget.steps_of_search``).
Random search with successive halving, random paths of a network with shared weights, and regularised evolution. Their
best architectures are retrained, blended with ridge and tested like those of the search.
"""
