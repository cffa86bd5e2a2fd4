"""
Your own CSV
============

A file with a date column, a gap, and a column that is known ahead. Errors name the column and the line.
"""

import tempfile
from pathlib import Path

import numpy as np

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data import describe, prepare, read_csv

# %%
# Three months of an hourly load that follows the hour of the day and the temperature. One cell is missing.

folder = Path(tempfile.mkdtemp())
path = folder / "load.csv"
hours = np.arange(90 * 24)
rng = np.random.default_rng(0)
temperature = 10 + 8 * np.sin(2 * np.pi * hours / 24 / 30) + rng.normal(0, 1, len(hours))
load = 50 + 10 * np.sin(2 * np.pi * hours / 24) - 0.8 * temperature + rng.normal(0, 1, len(hours))
dates = np.datetime64("2024-01-01T00") + hours.astype("timedelta64[h]")
lines = [f"{date},{a:.2f},{b:.2f}" for date, a, b in zip(dates, load, temperature, strict=True)]
lines[500] = f"{dates[500]},,{temperature[500]:.2f}"
path.write_text("\n".join(["date,load,temperature", *lines]) + "\n")

# %%
# A gap is refused, with its place, until you say how to fill it.

try:
    read_csv(path)
except ValueError as error:
    print(error)

frame = read_csv(path, impute="linear")
print(frame.notes)

# %%
# Forecast the load; the temperature of the next hours is known from a weather forecast.

data = prepare(frame, lookback=48, horizon=12, targets=["load"], future_columns=["temperature"])
print(describe(data))

trainer = DARTSTrainer(input_dim=2, seq_length=48, forecast_horizon=12, hidden_dims=[16], arch_modes=["encoder_only"])
results = trainer.multi_fidelity_search(
    *data.loaders(batch_size=32), num_candidates=3, top_k=1, trial_steps=10, search_epochs=2, final_epochs=3,
    max_train_batches=10, max_val_batches=8, final_max_train_batches=40, seasonal_period=24,
)  # fmt: skip
print(results["verdict"])
print({name: round(weight, 3) for name, weight in results["blend"]["weights"].items()})
