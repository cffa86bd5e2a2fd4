"""
Quick start
===========

A staged search on the embedded hourly weather of New York: two channels, tiny settings. The last line says whether the
network was worth it.
"""

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data import DEMO_PERIOD, describe, load_demo, prepare

# %%
# Windows of four days, forecasts of one. Scaling and split use the training rows only.

weather = load_demo().select(["EWR_temp", "JFK_temp"])
data = prepare(weather, lookback=96, horizon=24)
train_loader, val_loader, test_loader = data.loaders(batch_size=32)
print(describe(data))

# %%
# Four candidates are screened, two are searched, and one is retrained. A real search takes twenty candidates and more
# epochs, and leaves out the ``max_...`` bounds.

trainer = DARTSTrainer(input_dim=2, seq_length=96, forecast_horizon=24, hidden_dims=[16])
results = trainer.multi_fidelity_search(
    train_loader, val_loader, test_loader,
    num_candidates=4, top_k=2, trial_steps=10, search_epochs=2, final_epochs=2, finalists=1,
    max_train_batches=10, max_val_batches=8, final_max_train_batches=40, seasonal_period=DEMO_PERIOD,
)  # fmt: skip

# %%
# What was found, and how it compares with simple forecasters on the same test windows.

print(results["arch_spec"])
for name, metrics in {**results["baselines"], "network": results["network"], "blend": results["blend"]}.items():
    print(f"{name:20} {metrics['mse']:.4f}")
print(results["verdict"])

# %%
# The forecasts over what happened, for the first week of the test rows.

from torch.utils.data import default_collate

x, y = default_collate([data.test[i] for i in range(7 * 24)])
forecast = trainer.plot_prediction(x, y, names=data.channels, show=False)

# %%
# How the choices moved during the search of the best candidate.

searched = results["best_candidate"]["search_results"]
alphas = trainer.plot_alpha_evolution(searched["alpha_values"], save_path=None, choices=searched["alpha_choices"])
