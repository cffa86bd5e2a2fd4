"""
How much do the weights of the metrics matter?
==============================================

The same candidates, scored once, ranked under many weight schemes.
"""

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data import load_demo, prepare

data = prepare(load_demo().select(["EWR_temp", "JFK_temp"]), lookback=48, horizon=12)
train_loader, val_loader, _ = data.loaders(batch_size=32)
trainer = DARTSTrainer(input_dim=2, seq_length=48, forecast_horizon=12, hidden_dims=[8, 16])

# %%
# ``save_plots=False, save_csv=False`` writes nothing; by default figures and tables go to ``output_dir``.

study = trainer.ablation_weight_search(
    train_loader,
    val_loader,
    num_candidates=8,
    n_random=20,
    random_sigma=0.25,
    top_k=3,
    save_plots=False,
    save_csv=False,
)
print(study["tables"]["stability"].head(8).to_string(index=False))

# %%
# Leave one metric out: a large drop means that the order hangs on it.

print(study["tables"]["loo_importance"].to_string(index=False))

# %%
# The rank of every candidate under every scheme, 1 is best.

from matplotlib.figure import Figure

figure = Figure(figsize=(9, 3), layout="constrained")
axes = figure.subplots()
image = axes.imshow(study["rank_matrix"], aspect="auto", cmap="viridis_r")
axes.set(xlabel="weight scheme", ylabel="candidate")
figure.colorbar(image, label="rank")
axes.set_xticks(
    range(0, len(study["scheme_names"]), 4), study["scheme_names"][::4], rotation=45, ha="right", fontsize=6
)
winner = study["random_analysis"]["baseline_winner_rank_under_random"]
print(f"the winner keeps the first place under {sum(rank == 1 for rank in winner)} of {len(winner)} random schemes")
