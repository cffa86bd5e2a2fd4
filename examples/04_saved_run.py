"""
Forecast from a saved run
=========================

Search once, keep the folder, forecast whenever new rows come.
"""

import tempfile
from pathlib import Path

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data import load_demo, prepare
from foreblocks.darts.evaluation.forecast_plot import plot_forecast
from foreblocks.darts.search.saved_run import SavedRun, forecast_frame

# %%
# ``run_dir`` keeps model, figures and events; ``scaler`` lets the run forecast in degrees Fahrenheit.

folder = Path(tempfile.mkdtemp()) / "run"
weather = load_demo().select(["EWR_temp", "JFK_temp"])
data = prepare(weather, lookback=96, horizon=24)
trainer = DARTSTrainer(input_dim=2, seq_length=96, forecast_horizon=24, hidden_dims=[8], arch_modes=["encoder_only"])
trainer.multi_fidelity_search(
    *data.loaders(batch_size=32), num_candidates=2, top_k=1, trial_steps=5, search_epochs=1, final_epochs=1,
    max_train_batches=5, max_val_batches=4, final_max_train_batches=20, run_dir=folder, scaler=data.recipe.to_dict(),
)  # fmt: skip
print(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))

# %%
# Later, in another process, only the folder and the rows are needed.

run = SavedRun(folder)
print(run.result["verdict"])
forecast = forecast_frame(run, weather)
for date, row in zip(forecast.dates[:3], forecast.values[:3], strict=True):
    print(date, dict(zip(forecast.channels, row.round(1).tolist(), strict=True)))

# %%
# The forecast after the last rows of the file.

figure = plot_forecast(
    weather.dates[-96:], weather.values[-96:], forecast.dates, forecast.values,
    names=forecast.channels, title="The next day", save_path=None,
)  # fmt: skip
