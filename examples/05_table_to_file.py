"""
From a table to a file for production
=====================================

A pandas table goes in, a table with the rows that follow comes out, and the model leaves as one file.
"""

import tempfile
from pathlib import Path

import pandas as pd
import torch

from foreblocks.darts.data import load_demo
from foreblocks.darts.integrations.estimator import DARTSForecaster

# %%
# Hourly temperatures of two airports, in degrees Fahrenheit, as any table with dates in its index.

weather = load_demo().select(["EWR_temp", "JFK_temp"])
table = pd.DataFrame(weather.values, columns=weather.channels, index=pd.DatetimeIndex(weather.dates))
print(table.tail(3))

# %%
# ``search`` makes it a matter of seconds here; without it, ``fit`` takes minutes.

tiny = {
    "num_candidates": 2, "top_k": 1, "trial_steps": 5, "finalists": 1, "search_epochs": 1, "final_epochs": 1,
    "max_train_batches": 5, "max_val_batches": 4, "final_max_train_batches": 20,
}  # fmt: skip
forecaster = DARTSForecaster(lookback=96, horizon=24, hidden_dims=(8,), search=tiny, seed=0).fit(table)
print(forecaster.verdict_)
print(forecaster.predict().astype("float64").round(1).head(3))

# %%
# The file needs torch and nothing else: its input and its forecast are in degrees.

path = Path(tempfile.mkdtemp()) / "weather.pt2"
written = forecaster.export(path)
print(written.inputs, written.output, f"{written.difference:.1e}")
window = torch.from_numpy(table.to_numpy()[None, -96:].copy())
print(torch.export.load(path).module()(window)[0, :3].numpy().round(1))
