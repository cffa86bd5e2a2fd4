"""Networks: the searched one, the discrete one, and the data that describe them."""
